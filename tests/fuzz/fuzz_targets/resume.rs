//! A save that was interrupted and whose files were changed since: `resume` makes the files of a save that nothing
//! interrupted, or refuses.
//!
//! Input: edits, five bytes each: the file and the kind of edit, the place (two bytes), the value, how often.

#![cfg_attr(fuzzing, no_main)]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use firebox::{
    Cpu, Error, LoadConfig, Loader, SaveConfig, Workers,
    pipeline::{Event, Flow},
    source::Memory,
};
use serde_json::{Map, json};

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

/// Name and bytes of every file of a folder.
type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn run(edits: &[u8]) {
    static FOLDERS: OnceLock<(Files, Files)> = OnceLock::new();
    let (whole, interrupted) = FOLDERS.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        save(folder.path(), usize::MAX, false).expect("saved");
        let whole = files(folder.path());
        let folder = tempfile::tempdir().expect("a folder");
        save(folder.path(), 3, false).expect_err("interrupted");
        (whole, files(folder.path()))
    });

    let mut changed = interrupted.clone();
    for edit in edits.chunks_exact(5).take(8) {
        let file = usize::from(edit[0] / 4) % changed.len();
        let (_, bytes) = changed.iter_mut().nth(file).expect("within");
        apply(edit, bytes);
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in &changed {
        fs::write(folder.path().join(name), bytes).expect("written");
    }
    match save(folder.path(), usize::MAX, true) {
        Ok(()) => {
            let found = files(folder.path());
            let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&found), names(whole));
            for (name, bytes) in whole {
                assert!(found[name] == *bytes, "{name} differs");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn apply(edit: &[u8], bytes: &mut Vec<u8>) {
    let at = usize::from(u16::from_le_bytes([edit[1], edit[2]])) % (bytes.len() + 1);
    let (value, times) = (edit[3], usize::from(edit[4] % 64));
    match edit[0] % 4 {
        0 => bytes[at..]
            .iter_mut()
            .take(times)
            .for_each(|byte| *byte = value),
        1 => drop(bytes.splice(at..at, [value; 64].into_iter().take(times))),
        2 => drop(bytes.drain(at..bytes.len().min(at + times))),
        _ => bytes.truncate(at),
    }
}

/// Saves four tensors, and is cancelled when `most` are placed.
fn save(folder: &Path, most: usize, resume: bool) -> Result<(), Error> {
    let placed = AtomicUsize::new(0);
    let cancel = move |event: &Event<'_>| match event {
        Event::Placed { .. } if placed.fetch_add(1, Ordering::Relaxed) + 1 >= most => Flow::Cancel,
        _ => Flow::Continue,
    };
    let config = LoadConfig::default()
        .bare()
        .quant("nf4:block=32".parse().expect("a quantization"))
        .workers(Workers::Count(1.try_into().expect("not zero")))
        .source(Arc::new(source()))
        .observer(cancel);
    let to = SaveConfig::new(folder).shard_bytes(3000).resume(resume);
    Loader::<Cpu>::new(config)?.save_tensors(&[], &to).map(drop)
}

fn source() -> Memory {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in [
        ("a.up.weight", vec![16, 64]),
        ("b.norm.weight", vec![64]),
        ("c.down.weight", vec![64, 16]),
        ("d.bias", vec![16]),
    ] {
        let values: usize = shape.iter().product();
        let start = data.len();
        data.extend((0..values).flat_map(|k| ((k * 37 % 101) as f32 / 64.0 - 0.5).to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let file = [&(header.len() as u64).to_le_bytes(), &*header, &data].concat();
    Memory::new().with("model.safetensors", file)
}

fn files(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).expect("a folder");
    let read = entries.map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        (name.into_owned(), fs::read(&path).expect("a file"))
    });
    read.collect()
}
