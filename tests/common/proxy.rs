//! A proxy on loopback that makes the faults of a network and of servers, as it is told, and counts what passes.
//!
//! It hands requests on as they came, with the `Host` that the client named, since signatures cover it. One connection carries
//! one request.

#![allow(
    dead_code,
    reason = "shared by test binaries, each of which uses a part"
)]

use std::{
    io::{self, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::http::{Head, listen};

/// What goes wrong with an answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The answer begins so much later.
    Wait(Duration),
    /// The body comes so many bytes at a time, with a pause after each piece.
    Drip(usize, Duration),
    /// The connection ends after so many bytes of the body.
    CutAfter(u64),
    /// The connection ends somewhere in the body, at a place drawn from the proxy's seed.
    CutSomewhere,
    /// The connection ends without an answer, and the server hears of nothing.
    HangUp,
    /// The server does what it is asked, and its answer is lost.
    LoseAnswer,
    /// The body is so many bytes shorter, and so is the length that is announced; the range that is announced is not.
    Short(u64),
    /// The length that is announced is so many bytes more, or fewer, than the body has.
    Misstate(i64),
    /// The server's status, without a body: 500, 503, 401, 403.
    Status(u16),
    /// 429 with `Retry-After` in seconds.
    TooMany { retry_after: u64 },
    /// A redirect to the address that was asked for.
    Loop,
    /// A redirect to the same path at another origin, `http://127.0.0.1:…`.
    MoveTo(String),
    /// The whole file, whatever range was asked for.
    IgnoreRange,
    /// The file was replaced: another ETag and other bytes, and 412 for a client that insists on the old one.
    Replaced,
}

/// Which requests a fault meets.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    fault: Fault,
    method: Option<&'static str>,
    part: String,
    range: bool,
    skip: usize,
    times: usize,
}

impl Rule {
    /// Every request, for ever.
    pub(crate) fn new(fault: Fault) -> Self {
        Self {
            fault,
            method: None,
            part: String::new(),
            range: false,
            skip: 0,
            times: usize::MAX,
        }
    }

    /// Requests of this method alone.
    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Requests alone whose path and query have this part.
    pub(crate) fn at(mut self, part: &str) -> Self {
        self.part = part.to_owned();
        self
    }

    /// Requests for a range alone.
    pub(crate) fn of_ranges(mut self) -> Self {
        self.range = true;
        self
    }

    /// Not the first so many of them.
    pub(crate) fn skip(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// So many of them, and then no more.
    pub(crate) fn times(mut self, requests: usize) -> Self {
        self.times = requests;
        self
    }

    /// Whether it meets this request, which is counted.
    fn meets(&mut self, request: &Head) -> bool {
        let method = self.method.is_none_or(|method| method == request.method());
        let range = !self.range || request.get("range").is_some();
        if !method || !range || !request.target().contains(&self.part) || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// A request that passed, and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Passed {
    pub(crate) head: Head,
    /// Bytes of its body.
    pub(crate) received: u64,
    /// 0 where there was no answer.
    pub(crate) status: u16,
    /// Bytes of the answer's body that were sent.
    pub(crate) sent: u64,
    pub(crate) faulty: bool,
}

pub(crate) struct Proxy {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    log: Vec<Passed>,
    seed: u64,
}

impl Proxy {
    /// In front of a server, `http://127.0.0.1:…`.
    pub(crate) fn before(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let state = Arc::new(Mutex::new(State {
            rules: Vec::new(),
            log: Vec::new(),
            seed: 1,
        }));
        let shared = Arc::clone(&state);
        let url = listen(move |client| pass(&server, &shared, client));
        Self { url, state }
    }

    /// The seed of places that are drawn.
    pub(crate) fn seed(&self, seed: u64) {
        lock(&self.state).seed = seed;
    }

    /// The first rule that meets a request decides about it.
    pub(crate) fn add(&self, rule: Rule) {
        lock(&self.state).rules.push(rule);
    }

    /// No more faults.
    pub(crate) fn heal(&self) {
        lock(&self.state).rules.clear();
    }

    /// Every request so far.
    pub(crate) fn log(&self) -> Vec<Passed> {
        lock(&self.state).log.clone()
    }

    /// Bytes of bodies sent so far for requests whose path and query have this part.
    pub(crate) fn sent(&self, part: &str) -> u64 {
        let log = self.log();
        let of_part = log
            .iter()
            .filter(|passed| passed.head.target().contains(part));
        of_part.map(|passed| passed.sent).sum()
    }

    /// Requests that a fault met.
    pub(crate) fn faults(&self) -> usize {
        self.log().iter().filter(|passed| passed.faulty).count()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// A number below `end`, by SplitMix64.
    fn draw(&mut self, end: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}

/// Changes what is written down about a request.
type Note<'a> = dyn Fn(&dyn Fn(&mut Passed)) + 'a;

fn pass(server: &str, state: &Mutex<State>, client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    let Some(mut head) = Head::read(&mut reader)? else {
        return Ok(());
    };
    let body = head.body(&mut reader)?;
    let met = |rule: &mut Rule| rule.meets(&head).then(|| rule.fault.clone());
    let fault = lock(state).rules.iter_mut().find_map(met);
    let nth = {
        let mut state = lock(state);
        state.log.push(Passed {
            head: head.clone(),
            received: body.len() as u64,
            status: 0,
            sent: 0,
            faulty: fault.is_some(),
        });
        state.log.len() - 1
    };
    // Written down before the client knows of it, so that a test that has its answer finds it.
    let note = |write: &dyn Fn(&mut Passed)| {
        if let Some(passed) = lock(state).log.get_mut(nth) {
            write(passed);
        }
    };
    if matches!(fault, Some(Fault::IgnoreRange)) {
        head.set("Range", None);
    }
    let ended = answer(server, state, &client, (head, body), fault, &note);
    // A client sees the end of a body that has no length, also while another thread holds the socket.
    client.shutdown(Shutdown::Both).ok();
    ended
}

fn answer(
    server: &str,
    state: &Mutex<State>,
    mut client: &TcpStream,
    (mut request, body): (Head, Vec<u8>),
    fault: Option<Fault>,
    note: &Note<'_>,
) -> io::Result<()> {
    let without_body = |status: u16, header: Option<(&str, String)>| {
        let mut head = Head {
            first: format!("HTTP/1.1 {status} Fault"),
            ..Head::default()
        };
        head.set("Content-Length", Some("0".to_owned()));
        head.set("Connection", Some("close".to_owned()));
        if let Some((name, value)) = header {
            head.set(name, Some(value));
        }
        head
    };
    let location = |at: String| Some(("Location", at));
    let instead = match &fault {
        Some(Fault::HangUp) => return Ok(()),
        Some(Fault::Status(status)) => Some(without_body(*status, None)),
        Some(Fault::TooMany { retry_after }) => {
            let wait = retry_after.to_string();
            Some(without_body(429, Some(("Retry-After", wait))))
        }
        Some(Fault::Loop) => Some(without_body(302, location(request.target().to_owned()))),
        Some(Fault::MoveTo(origin)) => {
            let place = format!("{origin}{}", request.target());
            Some(without_body(302, location(place)))
        }
        Some(Fault::Replaced) if request.get("if-match").is_some() => Some(without_body(412, None)),
        Some(Fault::Wait(time)) => {
            std::thread::sleep(*time);
            None
        }
        _ => None,
    };
    if let Some(instead) = instead {
        note(&|passed| passed.status = instead.status());
        return client.write_all(instead.text().as_bytes());
    }

    let mut upstream = TcpStream::connect(server)?;
    request.set("Connection", Some("close".to_owned()));
    if request.get("transfer-encoding").is_some() {
        request.set("Transfer-Encoding", None);
        request.set("Content-Length", Some(body.len().to_string()));
    }
    upstream.write_all(request.text().as_bytes())?;
    upstream.write_all(&body)?;
    let mut upstream = BufReader::new(upstream);
    let Some(mut head) = Head::read(&mut upstream)? else {
        return Ok(());
    };
    if matches!(fault, Some(Fault::LoseAnswer)) {
        return Ok(());
    }
    head.set("Connection", Some("close".to_owned()));
    // The object store of the tests does not look at it; real ones do.
    let (wanted, tag) = (request.get("if-match"), head.get("etag"));
    if wanted.is_some_and(|wanted| tag.is_some_and(|tag| tag != wanted))
        && request.method() == "GET"
    {
        note(&|passed| passed.status = 412);
        return client.write_all(without_body(412, None).text().as_bytes());
    }
    note(&|passed| passed.status = head.status());
    let length = head.length();
    let known = length.unwrap_or(u64::MAX);
    let mut most = known;
    match fault {
        Some(Fault::CutAfter(bytes)) => most = bytes,
        Some(Fault::CutSomewhere) => most = lock(state).draw(length.unwrap_or(1)),
        Some(Fault::Short(bytes)) => {
            most = known.saturating_sub(bytes);
            head.set("Content-Length", Some(most.to_string()));
        }
        Some(Fault::Misstate(bytes)) => {
            let said = known.saturating_add_signed(bytes);
            head.set("Content-Length", Some(said.to_string()));
        }
        Some(Fault::Replaced) => head.set("ETag", Some("\"another\"".to_owned())),
        _ => {}
    }
    client.write_all(head.text().as_bytes())?;
    if request.method() == "HEAD" {
        return Ok(());
    }
    let (size, pause) = match fault {
        Some(Fault::Drip(size, pause)) => (size, pause),
        _ => (64 << 10, Duration::ZERO),
    };
    let mut piece = vec![0; size];
    let mut body = upstream.take(most);
    loop {
        let read = body.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        if matches!(fault, Some(Fault::Replaced)) {
            piece[..read].iter_mut().for_each(|byte| *byte = !*byte);
        }
        note(&|passed| passed.sent += read as u64);
        client.write_all(&piece[..read])?;
        std::thread::sleep(pause);
    }
}
