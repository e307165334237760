//! Zip archives that lie.

use super::file::{FILE, Pickled, ZipFile, opened};

/// A way in which an archive is wrong, and what the error says.
type Lie = (fn(&mut ZipFile), &'static [&'static str]);

#[test]
fn archives_that_lie_are_refused() {
    let lies: &[Lie] = &[
        (
            |zip| zip.part("archive/data/0").method = 8,
            &["archive/data/0", "compressed (method 8)"],
        ),
        (
            |zip| zip.part("archive/data.pkl").flags = 1,
            &["archive/data.pkl", "encrypted"],
        ),
        // The directory says more bytes than there are up to the next entry: a part of a bomb.
        (
            |zip| zip.part("archive/data/0").listed.1 = Some(200),
            &["archive/data/0", "next one begins"],
        ),
        (
            |zip| zip.part("archive/data/0").listed.1 = Some(20),
            &["data/0", "20", "24"],
        ),
        // Two entries in one place.
        (
            |zip| zip.part("archive/data/0").listed.2 = Some(0),
            &["next one begins"],
        ),
        (
            |zip| zip.part("archive/data/0").listed.2 = Some(4_000_000_000),
            &["archive/data/0", "next one begins"],
        ),
        (
            |zip| zip.part("archive/data/0").listed.0 = Some("archive/data.pkl".to_owned()),
            &["two entries \"archive/data.pkl\""],
        ),
        (
            |zip| {
                zip.part("archive/version").listed.0 = Some("archive/data/0".to_owned());
                zip.part("archive/data/0").listed.0 = Some("archive/version".to_owned());
                zip.part("archive/version").bytes = vec![1; 24];
            },
            &["archive/data/0", "the name \"archive/versio"],
        ),
        (
            |zip| zip.part("archive/version").name = "other/data.pkl".to_owned(),
            &["2 entries named data.pkl"],
        ),
        (
            |zip| zip.part("archive/data.pkl").name = "archive/pickle".to_owned(),
            &["0 entries named data.pkl"],
        ),
        (
            |zip| zip.part("archive/version").name = "archive/constants.pkl".to_owned(),
            &["TorchScript"],
        ),
        (
            |zip| zip.part("archive/byteorder").bytes = b"middle".to_vec(),
            &["byte order \"middle\""],
        ),
        (
            |zip| zip.part("archive/data/0").bytes.truncate(20),
            &["archive/data/0", "20", "24"],
        ),
        (
            |zip| zip.parts.retain(|part| part.name != "archive/data/0"),
            &["archive/data/0", "no place", "24"],
        ),
        (|zip| zip.count = Some(3), &["more than its entries"]),
        (|zip| zip.count = Some(5), &["a directory that is not one"]),
        (|zip| zip.count = Some(u16::MAX), &["65535 entries"]),
        (|zip| zip.directory = Some(12), &["directory", "byte 12"]),
        (|zip| zip.after = vec![0], &["does not end"]),
    ];
    opened(&ZipFile::of(&Pickled::right()).bytes()).expect("a right file");
    for (nth, (lie, words)) in lies.iter().enumerate() {
        let mut zip = ZipFile::of(&Pickled::right());
        lie(&mut zip);
        let error = opened(&zip.bytes()).expect_err(&format!("lie {nth}"));
        let text = error.to_string();
        for word in words.iter().chain([&FILE]) {
            assert!(text.contains(word), "lie {nth}: {word:?} is not in: {text}");
        }
    }
}

#[test]
fn other_files_are_refused() {
    for (bytes, words) in [
        (&b""[..], ["begins with \"\"", "zip archive"]),
        (b"version https://git-lfs", ["\"version \"", "zip archive"]),
        (b"<!DOCTYPE html>", ["<!DOCTYP", "zip archive"]),
        (b"\x80\x02}.", ["a dictionary", "torch.save"]),
        (b"\x80\x02K\x05.", ["the number 0x5", "torch.save"]),
        (b"\x80\x02cos\nsystem\n.", ["os.system", "was not run"]),
        (b"PK\x03\x04", ["does not end", "zip archive"]),
    ] {
        let text = opened(bytes).expect_err("was read").to_string();
        for word in words.iter().chain([&FILE]) {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    }
}
