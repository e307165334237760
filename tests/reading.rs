//! Every way to read gives the same bytes and the same errors.

use std::{
    fs::{self, File, OpenOptions},
    path::Path,
};

use firebox::{
    LoadConfig,
    config::Reading,
    source::{Access, Local, Source, SourceError, SourceExt},
};
use tempfile::TempDir;

const FILE: &str = "model.safetensors";

/// Long enough for several pieces and buffers of 1 MiB, and no multiple of anything.
const LEN: usize = (3 << 20) + 4096 * 5 + 1234;

const MODES: [Reading; 4] = [
    Reading::Auto,
    Reading::Buffered,
    Reading::Mapped,
    Reading::Direct,
];

/// Bytes that tell where they are from, up to far more than a block or a buffer.
fn counted(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// On a disk rather than in memory, since direct reads mean something there.
fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// `folder` in every mode; all but direct reads where its file system has none.
fn sources(folder: &Path) -> Vec<(Reading, Local)> {
    let open = |mode| (mode, Local::open(folder).unwrap().reading(mode));
    let has = |(_, source): &(Reading, Local)| {
        !matches!(source.size(FILE), Err(SourceError::NoDirectReads { .. }))
    };
    MODES.into_iter().map(open).filter(has).collect()
}

/// Every mode, with a folder of its own that has a file of [`LEN`] bytes.
fn alone() -> impl Iterator<Item = (Reading, TempDir, Local)> {
    MODES.into_iter().filter_map(|mode| {
        let folder = folder();
        fs::write(folder.path().join(FILE), counted(LEN, 1)).unwrap();
        let mut sources = sources(folder.path()).into_iter();
        let (_, source) = sources.find(|(of, _)| *of == mode)?;
        Some((mode, folder, source))
    })
}

/// `len` bytes, `shift` bytes after a multiple of 4096.
fn aligned(memory: &mut Vec<u8>, shift: usize, len: usize) -> &mut [u8] {
    memory.resize(len + 2 * 4096, 0xee);
    let start = memory.as_ptr().align_offset(4096) + shift;
    &mut memory[start..][..len]
}

/// Where the range would end, and how long the file is.
#[track_caller]
fn assert_truncated(mode: Reading, error: &SourceError, end: u64, has: u64) {
    let as_said = matches!(error, SourceError::Truncated { wanted_end, len, .. }
        if (*wanted_end, *len) == (end, has));
    assert!(as_said, "{mode}: {error:?}");
}

/// Catches a block too many or too few at either end, in every position of file and memory to each other.
#[test]
fn every_mode_reads_the_same_bytes() {
    let folder = folder();
    let file = counted(LEN, 1);
    fs::write(folder.path().join(FILE), &file).unwrap();
    let offsets = [0, 1, 100, 4095, 4096, 4097, 8192, (1 << 20) - 1, 1 << 20];
    let lens = [
        0,
        1,
        4095,
        4096,
        4097,
        8192,
        100_000,
        (1 << 20) + 1,
        2 << 20,
    ];
    for (mode, source) in sources(folder.path()) {
        let mut ranges: Vec<(usize, usize)> = offsets
            .iter()
            .flat_map(|offset| lens.map(|len| (*offset, len)))
            .collect();
        // The end, which is in no whole block.
        ranges.extend([0, 1, 1233, 1234, 1235, 5330, 4096, LEN].map(|len| (LEN - len, len)));
        for (offset, len) in ranges {
            for shift in [0, 1, offset % 4096, 16] {
                let mut memory = Vec::new();
                let into = aligned(&mut memory, shift, len);
                source.read_at(FILE, offset as u64, into).unwrap();
                let same = *into == file[offset..offset + len];
                assert!(same, "{mode}: {offset} + {len}, memory at {shift}");
                // Nothing before or after is written to.
                let start = memory.as_ptr().align_offset(4096) + shift;
                let beside = memory[..start].iter().chain(&memory[start + len..]);
                assert!(beside.into_iter().all(|byte| *byte == 0xee), "{mode}");
            }
        }
    }
}

/// Catches a map that is off, one that is gone before what was shared of it, and one that is shared unasked.
#[test]
fn maps_alone_share_what_they_have() {
    let folder = folder();
    let path = folder.path().join(FILE);
    let file = counted(LEN, 1);
    fs::write(&path, &file).unwrap();
    for (mode, source) in sources(folder.path()) {
        let ranges = [(0, LEN), (1, 1), (4095, 2 << 20), (LEN - 1, 1)];
        let shared = ranges.map(|(offset, len)| {
            let shared = source
                .share(FILE, offset as u64, len, Access::Often)
                .unwrap();
            (offset, shared)
        });
        let beyond = source.share(FILE, 1, LEN, Access::Once).unwrap_err();
        let as_said = matches!(beyond, SourceError::Truncated { wanted_end, len, .. }
            if (wanted_end, len) == (LEN as u64 + 1, LEN as u64));
        assert!(as_said, "{mode}: {beyond:?}");
        drop(source);
        for (offset, shared) in shared {
            assert_eq!(shared.is_some(), mode == Reading::Mapped, "{mode}");
            let same = shared.is_none_or(|shared| shared == file[offset..][..shared.len()]);
            assert!(same, "{mode}: from {offset} on");
        }
    }
    let source = Local::open(folder.path()).unwrap().reading(Reading::Mapped);
    assert_eq!(source.size(FILE).unwrap(), LEN as u64);
    let cut = OpenOptions::new().write(true).open(&path).unwrap();
    cut.set_len(5000).unwrap();
    let error = source.share(FILE, 4096, 1000, Access::Once).unwrap_err();
    let as_said = matches!(
        error,
        SourceError::Truncated {
            wanted_end: 5096,
            len: 5000,
            ..
        }
    );
    assert!(as_said, "{error:?}");
}

#[test]
fn every_mode_refuses_what_lies_beyond_the_end() {
    let folder = folder();
    fs::write(folder.path().join(FILE), counted(LEN, 1)).unwrap();
    let len = LEN as u64;
    for (mode, source) in sources(folder.path()) {
        for (offset, count) in [
            (len - 1, 2),
            (len, 1),
            (len + 1, 0),
            (0, LEN + 1),
            (u64::MAX, 2),
        ] {
            let error = source
                .read_at(FILE, offset, &mut vec![0; count])
                .unwrap_err();
            assert_truncated(mode, &error, offset.saturating_add(count as u64), len);
        }
    }
}

/// A download that another program cuts while it is being read. In a map that is a signal where nobody looks.
#[test]
fn every_mode_notices_a_file_that_is_cut() {
    for (mode, folder, source) in alone() {
        let path = folder.path().join(FILE);
        let mut into = vec![0; LEN];
        source.read_at(FILE, 0, &mut into).unwrap();
        // In the middle of a block.
        let cut = 2 * 4096 + 100;
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(cut)
            .unwrap();
        for (offset, count) in [
            (0, LEN),
            (0, 2 * 4096 + 101),
            (4096, 3 * 4096),
            (1 << 20, 1),
        ] {
            let error = source
                .read_at(FILE, offset, &mut into[..count])
                .unwrap_err();
            assert_truncated(mode, &error, offset + count as u64, cut);
        }
        source.read_at(FILE, 0, &mut into[..cut as usize]).unwrap();
    }
}

#[test]
fn every_mode_keeps_to_the_file_that_it_opened() {
    for (mode, folder, source) in alone() {
        let path = folder.path().join(FILE);
        source.read_at(FILE, 0, &mut [0; 10]).unwrap();
        fs::write(folder.path().join("new"), counted(LEN, 2)).unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        let mut into = vec![0; LEN];
        source.read_at(FILE, 0, &mut into).unwrap();
        assert!(into == counted(LEN, 1), "{mode}");
    }
}

/// What was written a moment ago is in the page cache and not on the disk yet.
#[test]
fn every_mode_sees_what_was_just_written() {
    let folder = folder();
    fs::write(folder.path().join(FILE), counted(LEN, 1)).unwrap();
    let sources = sources(folder.path());
    for round in 2..5 {
        let file = counted(LEN, round);
        let path = folder.path().join(FILE);
        let mut open = OpenOptions::new().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut open, &file).unwrap();
        for (mode, source) in &sources {
            let mut into = vec![0; LEN - 7];
            source.read_at(FILE, 7, &mut into).unwrap();
            assert!(into == file[7..], "{mode}");
        }
    }
}

/// Buffers and handles are shared.
#[test]
fn every_mode_is_read_by_threads_at_once() {
    let folder = folder();
    let file = counted(LEN, 1);
    fs::write(folder.path().join(FILE), &file).unwrap();
    for (mode, source) in sources(folder.path()) {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (source, file) = (&source, &file);
                scope.spawn(move || {
                    let mut into = vec![0; 50_001];
                    for round in 0..50 {
                        let offset = (thread * 700_001 + round * 9_973) % (LEN - 50_001);
                        source.read_at(FILE, offset as u64, &mut into).unwrap();
                        assert!(into == file[offset..offset + 50_001], "{mode}");
                    }
                });
            }
        });
    }
}

#[test]
fn an_empty_file_can_be_opened_in_every_mode() {
    let folder = folder();
    File::create(folder.path().join(FILE)).unwrap();
    for (mode, source) in sources(folder.path()) {
        assert_eq!(source.size(FILE).unwrap(), 0, "{mode}");
        source.read_at(FILE, 0, &mut []).unwrap();
        let error = source.read_at(FILE, 0, &mut [0]).unwrap_err();
        assert!(matches!(error, SourceError::Truncated { .. }), "{error:?}");
    }
}

/// A file of the kernel's own cannot be read directly.
#[cfg(target_os = "linux")]
#[test]
fn direct_reads_that_do_not_go_are_refused_by_name() {
    let kernel = Path::new("/sys/kernel/uevent_seqnum");
    assert!(kernel.exists());
    let folder = folder();
    std::os::unix::fs::symlink(kernel, folder.path().join(FILE)).unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();

    let direct = Local::open(folder.path()).unwrap().reading(Reading::Direct);
    let error = direct.size(FILE).unwrap_err();
    assert!(
        matches!(error, SourceError::NoDirectReads { .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains(FILE) && text.contains("sysfs"), "{text}");
    // And what is configured gets there.
    let model = folder.path().join(FILE);
    let config = LoadConfig::new(model.to_str().unwrap()).bare();
    let error = config.reading(Reading::Direct).open().unwrap_err();
    assert!(error.to_string().contains("sysfs"), "{error}");
    // What is no weight is never read directly.
    direct.read_at("config.json", 0, &mut [0; 2]).unwrap();

    for mode in [Reading::Auto, Reading::Buffered] {
        let source = Local::open(folder.path()).unwrap().reading(mode);
        source.read_at(FILE, 0, &mut [0; 1]).unwrap();
    }
}

/// Holes, which take no disk: only that it is looked at is shown here, what is chosen by the benchmark.
#[cfg(target_os = "linux")]
#[test]
fn auto_looks_at_the_disk_once_there_is_enough_to_read() {
    let folder = folder();
    for name in ["a.safetensors", "b.safetensors", "other.dat"] {
        let file = File::create(folder.path().join(name)).unwrap();
        file.set_len(600 << 20).unwrap();
    }
    let source = Local::open(folder.path()).unwrap();
    let mut into = vec![1; 2 << 20];
    source.peek("a.safetensors", 0, &mut into).unwrap();
    source.read_at("other.dat", 0, &mut into).unwrap();
    source
        .read_at("a.safetensors", 0, &mut into[..1000])
        .unwrap();
    assert_eq!(source.probe(), None);

    into.fill(1);
    source.read_at("b.safetensors", 5 << 20, &mut into).unwrap();
    assert!(into.iter().all(|byte| *byte == 0));
    let probe = source.probe().unwrap();
    assert_eq!(probe.weight_bytes, 1200 << 20);
    // What was read before is at the beginning of the first file.
    assert!(probe.cached_fraction.unwrap() < 0.1, "{probe:?}");
    let direct = Local::open(folder.path()).unwrap().reading(Reading::Direct);
    let has_direct = direct.size("a.safetensors").is_ok();
    assert_eq!(probe.buffered_gbps.is_some(), has_direct, "{probe:?}");
    assert_eq!(probe.direct_gbps.is_some(), has_direct, "{probe:?}");

    fs::remove_file(folder.path().join("a.safetensors")).unwrap();
    source.read_at("b.safetensors", 9 << 20, &mut into).unwrap();
    assert_eq!(source.probe(), Some(probe), "looked at again");

    let less = Local::open(folder.path()).unwrap();
    assert_eq!(
        less.share("b.safetensors", 0, 1 << 20, Access::Once)
            .unwrap(),
        None
    );
    less.read_at("b.safetensors", 0, &mut into).unwrap();
    let probe = less.probe().unwrap();
    assert_eq!(
        (probe.weight_bytes, probe.cached_fraction),
        (600 << 20, None)
    );
    assert_eq!(probe.reason, "little to read");

    for mode in [Reading::Buffered, Reading::Mapped] {
        let source = Local::open(folder.path()).unwrap().reading(mode);
        source.read_at("b.safetensors", 0, &mut into).unwrap();
        assert_eq!(source.probe(), None, "{mode}");
    }
}

/// Would catch maps of what a map could lose, and copies of what is in memory. `target` is to be on a disk of this machine.
#[cfg(target_os = "linux")]
#[test]
fn auto_maps_what_is_in_the_page_cache() {
    const LEN: usize = 1 << 30;
    let folder = folder();
    let path = folder.path().join(FILE);
    File::create(&path).unwrap().set_len(LEN as u64).unwrap();
    let source = Local::open(folder.path()).unwrap();
    // Where it looks for pages: at every 64th part.
    for place in (0..LEN).step_by(LEN / 64) {
        source.peek(FILE, place as u64, &mut [0]).unwrap();
    }
    let shared = source.share(FILE, 5, 1 << 20, Access::Once).unwrap();
    let probe = source.probe().unwrap();
    assert_eq!(
        (probe.chosen, probe.reason),
        (Reading::Mapped, "in the page cache")
    );
    assert_eq!(shared.unwrap(), vec![0; 1 << 20]);
    // What is short goes the same way from now on.
    assert!(source.share(FILE, 5, 1, Access::Once).unwrap().is_some());
}

#[test]
fn modes_are_written_as_they_are_read() {
    for mode in MODES {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    assert_eq!("direct".parse(), Ok(Reading::Direct));
    assert!("mmap".parse::<Reading>().unwrap_err().contains("mapped"));
}
