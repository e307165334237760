//! Files that are written beside a model: events, logits, pages. None replaces a file of another kind.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

/// Bytes of an existing file that its kind is recognised by.
const HEAD_BYTES: u64 = 4096;

/// Refuses to write over a file unless it is empty or `is_ours` recognises its first 4 KiB. Pipes and devices are no files.
///
/// # Errors
///
/// [`ErrorKind::AlreadyExists`] for another file; errors of the system where an existing file cannot be read.
pub fn check_replace(path: &Path, is_ours: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.is_file() || found.len() == 0 {
        return Ok(());
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    match is_ours(&head) {
        true => Ok(()),
        false => Err(io::Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "it is another file of {} bytes, which is not replaced; name a new file",
                found.len()
            ),
        )),
    }
}

/// Writes a whole file under another name beside `path` and renames it, so that `path` never has half of it. A pipe or a
/// device is written to as it is.
///
/// # Errors
///
/// As [`check_replace`]; errors of the system. The file that was there before stays then.
pub fn write_whole(path: &Path, bytes: &[u8], is_ours: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    check_replace(path, is_ours)?;
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return fs::write(path, bytes);
    }
    write_by_part(path, |file| file.write_all(bytes))
}

/// Fills a file under another name, then renames it: under its own name a file is always whole.
pub(crate) fn write_by_part(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = File::create(&part).and_then(|mut file| fill(&mut file));
    let written = written.and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // A full disk is the usual reason; a second failure would hide the first.
        let _ = fs::remove_file(&part);
    }
    written
}
