//! How fast files are read: every mode, from the disk and from the page cache, by threads and sizes; and into which
//! memory.
//!
//! ```console
//! $ cargo bench --bench read              # 2 GiB in the target folder, removed afterwards
//! $ cargo bench --bench read -- DIR 4 3   # 4 GiB in DIR, three rounds
//! ```
//!
//! "Cold" is after the file was taken out of the page cache, which is checked; what the disk itself or a host under this
//! machine keeps is beyond reach. Every read is checked where it lands, a word of every page, and once for every mode
//! the whole file.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

type Failure = Box<dyn std::error::Error>;

#[cfg(target_os = "linux")]
#[path = "read/linux.rs"]
mod linux;

fn main() -> Result<(), Failure> {
    #[cfg(target_os = "linux")]
    return linux::run();
    #[cfg(not(target_os = "linux"))]
    Err("the page cache is looked into on Linux only".into())
}
