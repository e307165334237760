//! The servers that the other tests trust do what they say.

use std::{
    fs,
    io::{BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    file_server::FileServer,
    http::Head,
    proxy::{Fault, Proxy, Rule},
    s3::{BUCKET, S3Server},
};

/// A request with these headers, and its answer: head, and body until the end of the connection or of its length.
fn ask(url: &str, path: &str, headers: &[(&str, &str)]) -> Option<(Head, Vec<u8>)> {
    let server = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(server).unwrap();
    let mut request = Head {
        first: format!("GET {path} HTTP/1.1"),
        ..Head::default()
    };
    request.set("Host", Some(server.to_owned()));
    for (name, value) in headers {
        request.set(name, Some((*value).to_owned()));
    }
    stream.write_all(request.text().as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let head = Head::read(&mut reader).unwrap()?;
    let mut body = Vec::new();
    let length = head.length().unwrap_or(u64::MAX);
    reader.take(length).read_to_end(&mut body).unwrap();
    Some((head, body))
}

fn bytes() -> Vec<u8> {
    (0..10_000u32).map(|i| (i % 251) as u8).collect()
}

fn served() -> (TempDir, FileServer) {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), bytes()).unwrap();
    let server = FileServer::serve(folder.path());
    (folder, server)
}

#[test]
fn ranges_tags_and_conditions() {
    let (folder, server) = served();
    let (head, body) = ask(&server.url, "/file", &[("Range", "bytes=10-19")]).unwrap();
    assert_eq!((head.status(), body), (206, bytes()[10..20].to_vec()));
    assert_eq!(head.get("content-range"), Some("bytes 10-19/10000"));
    let tag = head.get("etag").unwrap();
    let conditional = |tag: &str| ask(&server.url, "/file", &[("If-Match", tag)]).unwrap();
    assert_eq!(conditional(tag).1, bytes());
    let (head, _) = ask(&server.url, "/file", &[("Range", "bytes=10000-")]).unwrap();
    assert_eq!(head.status(), 416);

    fs::write(folder.path().join("file"), [1; 9_999]).unwrap();
    assert_eq!(conditional(tag).0.status(), 412);
    assert_eq!(ask(&server.url, "/none", &[]).unwrap().0.status(), 404);
    assert_eq!(server.sent("file"), 10 + 10_000);
}

#[test]
fn every_fault_is_made_as_often_as_told() {
    let (_folder, server) = served();
    let proxy = Proxy::before(&server.url);
    let elsewhere = "http://127.0.0.1:9";
    let range = [("Range", "bytes=0-99")];
    let mut asked = 0;
    let mut with = |fault: Fault| {
        proxy.add(Rule::new(fault).at("/file").skip(1).times(1));
        let whole = ask(&proxy.url, "/file", &range).unwrap();
        assert_eq!((whole.0.status(), whole.1), (206, bytes()[..100].to_vec()));
        let met = ask(&proxy.url, "/file", &range);
        asked += 2;
        assert_eq!((proxy.log().len(), proxy.faults()), (asked, asked / 2));
        met
    };
    for status in [500, 503, 401, 403] {
        assert_eq!(with(Fault::Status(status)).unwrap().0.status(), status);
    }
    assert!(with(Fault::HangUp).is_none());
    assert!(with(Fault::LoseAnswer).is_none());
    assert_eq!(with(Fault::CutAfter(7)).unwrap().1.len(), 7);
    assert!(with(Fault::CutSomewhere).unwrap().1.len() < 100);
    let (short, body) = with(Fault::Short(10)).unwrap();
    assert_eq!((short.length(), body.len()), (Some(90), 90));
    assert_eq!(short.get("content-range"), Some("bytes 0-99/10000"));
    let (long, body) = with(Fault::Misstate(5)).unwrap();
    assert_eq!((long.length(), body.len()), (Some(105), 100));
    let (many, _) = with(Fault::TooMany { retry_after: 3 }).unwrap();
    assert_eq!((many.status(), many.get("retry-after")), (429, Some("3")));
    let (moved, _) = with(Fault::MoveTo(elsewhere.to_owned())).unwrap();
    assert_eq!(moved.get("location"), Some("http://127.0.0.1:9/file"));
    let (round, _) = with(Fault::Loop).unwrap();
    assert_eq!(
        (round.status(), round.get("location")),
        (302, Some("/file"))
    );
    let (whole, body) = with(Fault::IgnoreRange).unwrap();
    assert_eq!((whole.status(), body), (200, bytes()));
    let (other, body) = with(Fault::Replaced).unwrap();
    assert_eq!(other.get("etag"), Some("\"another\""));
    assert_ne!(body, bytes()[..100]);
    assert_eq!(with(Fault::Drip(30, Duration::ZERO)).unwrap().1.len(), 100);
}

#[test]
fn the_object_store_refuses_strangers() {
    let s3 = S3Server::start();
    s3.put("org/tiny/file", bytes());
    assert_eq!(s3.objects("org")["tiny/file"], bytes());
    let (head, _) = ask(&s3.url, &format!("/{BUCKET}/org/tiny/file"), &[]).unwrap();
    assert_eq!(head.status(), 403);
    assert_eq!(s3.open_uploads(), 0);
}
