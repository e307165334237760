//! A web server over a folder: ranges, ETags, `If-Match`, connections that stay open. It lists nothing, as most servers do.

#![allow(
    dead_code,
    reason = "shared by test binaries, each of which uses a part"
)]

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::http::{Asked, Head, asked, listen};

pub(crate) struct FileServer {
    pub(crate) url: String,
    log: Arc<Mutex<Vec<Served>>>,
}

/// A request that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) head: Head,
    pub(crate) status: u16,
    /// Bytes of the body that was sent.
    pub(crate) bytes: u64,
}

impl FileServer {
    /// Serves the files below `folder` as they are when they are asked for.
    pub(crate) fn serve(folder: &Path) -> Self {
        let log = Arc::<Mutex<Vec<Served>>>::default();
        let (kept, folder) = (Arc::clone(&log), folder.to_owned());
        let url = listen(move |stream| connection(&folder, &kept, stream));
        Self { url, log }
    }

    /// Every request so far.
    pub(crate) fn log(&self) -> Vec<Served> {
        lock(&self.log).clone()
    }

    /// Bytes sent so far of the files whose path ends so.
    pub(crate) fn sent(&self, file: &str) -> u64 {
        let log = self.log();
        let of_file = log
            .iter()
            .filter(|served| served.head.path().ends_with(file));
        of_file.map(|served| served.bytes).sum()
    }
}

fn lock(log: &Mutex<Vec<Served>>) -> MutexGuard<'_, Vec<Served>> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connection(folder: &Path, log: &Mutex<Vec<Served>>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(head) = Head::read(&mut reader)? {
        head.body(&mut reader)?;
        let (answer, body) = answer(folder, &head)?;
        // Written down before the client knows of it, so that a test that has its answer finds it.
        let nth = {
            let mut log = lock(log);
            log.push(Served {
                status: answer.status(),
                head: head.clone(),
                bytes: 0,
            });
            log.len() - 1
        };
        stream.write_all(answer.text().as_bytes())?;
        let Some(mut file) = body.filter(|_| head.method() != "HEAD") else {
            continue;
        };
        let mut piece = vec![0; 256 << 10];
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 {
                break;
            }
            lock(log)[nth].bytes += read as u64;
            stream.write_all(&piece[..read])?;
        }
    }
    Ok(())
}

/// The head of the answer, and the bytes of the file that follow.
fn answer(folder: &Path, request: &Head) -> io::Result<(Head, Option<io::Take<File>>)> {
    let status = |status: &str| {
        let mut head = Head {
            first: format!("HTTP/1.1 {status}"),
            ..Head::default()
        };
        head.set("Content-Length", Some("0".to_owned()));
        (head, None)
    };
    if !["GET", "HEAD"].contains(&request.method()) {
        return Ok(status("405 Method Not Allowed"));
    }
    let path = request.path().trim_start_matches('/');
    if path.split('/').any(|part| part == "..") {
        return Ok(status("400 Bad Request"));
    }
    let path: PathBuf = folder.join(path.replace("%20", " "));
    let Some(mut file) = File::open(&path).ok().filter(|_| path.is_file()) else {
        return Ok(status("404 Not Found"));
    };
    let facts = file.metadata()?;
    let changed = facts.modified()?.duration_since(std::time::UNIX_EPOCH);
    let changed = changed.map_err(io::Error::other)?.as_nanos();
    let (len, tag) = (facts.len(), format!("\"{changed:x}-{:x}\"", facts.len()));
    let wanted = request.get("if-match");
    if wanted.is_some_and(|wanted| wanted != "*" && wanted != tag) {
        return Ok(status("412 Precondition Failed"));
    }
    let (mut head, _) = status("200 OK");
    let part = match asked(request.get("range"), len) {
        Asked::All => 0..len,
        Asked::Part(part) => {
            head.first = "HTTP/1.1 206 Partial Content".to_owned();
            let range = format!("bytes {}-{}/{len}", part.start, part.end - 1);
            head.set("Content-Range", Some(range));
            part
        }
        Asked::Outside => {
            let (mut head, _) = status("416 Range Not Satisfiable");
            head.set("Content-Range", Some(format!("bytes */{len}")));
            return Ok((head, None));
        }
    };
    head.set("ETag", Some(tag));
    head.set("Accept-Ranges", Some("bytes".to_owned()));
    head.set("Content-Length", Some((part.end - part.start).to_string()));
    file.seek(SeekFrom::Start(part.start))?;
    Ok((head, Some(file.take(part.end - part.start))))
}
