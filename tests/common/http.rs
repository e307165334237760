//! HTTP/1.1 as the servers of tests need it, on sockets alone.

#![allow(
    dead_code,
    reason = "shared by test binaries, each of which uses a part"
)]

use core::ops::Range;
use std::{
    io::{self, BufRead, Read},
    net::{TcpListener, TcpStream},
};

/// Listens on loopback for as long as the process lives, a thread for each connection. Returns the address, `http://…`.
pub(crate) fn listen(
    serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it was bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            // A client that hangs up is its own business.
            std::thread::spawn(move || serve(stream).ok());
        }
    });
    format!("http://{address}")
}

/// The first line of a request or of an answer, and its headers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// `None` where the connection ends instead.
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = Self::default();
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        head.first = line.trim_end().to_owned();
        loop {
            line.clear();
            from.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                return Ok(Some(head));
            };
            let value = value.trim().to_owned();
            head.headers.push((name.to_owned(), value));
        }
    }

    /// The value of a header, whatever the case of its name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    /// Replaces a header, or takes it off.
    pub(crate) fn set(&mut self, name: &str, value: Option<String>) {
        self.headers
            .retain(|(header, _)| !header.eq_ignore_ascii_case(name));
        self.headers
            .extend(value.map(|value| (name.to_owned(), value)));
    }

    /// The method of a request.
    pub(crate) fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or("")
    }

    /// Path and query of a request.
    pub(crate) fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or("")
    }

    /// The path of a request.
    pub(crate) fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or("")
    }

    /// The status of an answer.
    pub(crate) fn status(&self) -> u16 {
        let status = self.first.split(' ').nth(1);
        status.and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The bytes that follow, where the head says how many.
    pub(crate) fn length(&self) -> Option<u64> {
        self.get("content-length")?.parse().ok()
    }

    /// As it goes over the wire.
    pub(crate) fn text(&self) -> String {
        let headers = self.headers.iter();
        let headers: String = headers
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!("{}\r\n{headers}\r\n", self.first)
    }

    /// The body of a request: as long as announced, or in chunks.
    pub(crate) fn body(&self, from: &mut impl BufRead) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if let Some(length) = self.length() {
            from.take(length).read_to_end(&mut body)?;
            return Ok(body);
        }
        if self.get("transfer-encoding") != Some("chunked") {
            return Ok(body);
        }
        let mut line = String::new();
        loop {
            line.clear();
            from.read_line(&mut line)?;
            let size = line.trim_end().split(';').next().unwrap_or("");
            let size = u64::from_str_radix(size, 16)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            from.by_ref().take(size).read_to_end(&mut body)?;
            line.clear();
            from.read_line(&mut line)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// What a `Range` header asks of a file of `len` bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    All,
    Part(Range<u64>),
    /// Nothing that the file has.
    Outside,
}

pub(crate) fn asked(range: Option<&str>, len: u64) -> Asked {
    let Some((start, end)) = range
        .and_then(|range| range.strip_prefix("bytes="))
        .and_then(|range| range.split_once('-'))
    else {
        return Asked::All;
    };
    let part = match (start.parse::<u64>(), end.parse::<u64>()) {
        (Ok(start), Ok(last)) => start..(last + 1).min(len),
        (Ok(start), Err(_)) => start..len,
        (Err(_), Ok(suffix)) => len.saturating_sub(suffix)..len,
        (Err(_), Err(_)) => return Asked::All,
    };
    if part.start < part.end {
        Asked::Part(part)
    } else {
        Asked::Outside
    }
}

/// A text without percent signs.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
