//! Files that torch saved: what torch reads from them is expected.

use std::{collections::BTreeMap, fs, path::PathBuf};

use firebox::source::{Checkpoint, StoredType};
use safetensors::SafeTensors;

use super::{
    common::repository,
    file::{FILE, memory, opened, values_of},
};

/// A file of `tests/golden/torch`.
pub(crate) fn golden(file: &str) -> PathBuf {
    repository().join("tests/golden/torch").join(file)
}

/// Name, type, shape and bytes of each tensor.
type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

fn expected(name: &str) -> Tensors {
    let bytes = fs::read(golden(&format!("{name}.safetensors"))).expect("a golden file");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensors = tensors.tensors().into_iter().map(|(name, view)| {
        let dtype = view.dtype().to_string();
        (name, (dtype, view.shape().to_vec(), view.data().to_vec()))
    });
    tensors.collect()
}

fn found(checkpoint: &Checkpoint) -> Tensors {
    let tensors = checkpoint.catalog().iter().map(|tensor| {
        let bytes = values_of(checkpoint, &tensor.name);
        let dtype = tensor.dtype.name().to_owned();
        (
            tensor.name.to_string(),
            (dtype, tensor.shape.clone(), bytes),
        )
    });
    tensors.collect()
}

fn read(file: &str) -> Checkpoint {
    let bytes = fs::read(golden(file)).expect("a golden file");
    opened(&bytes).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// All types, views of all kinds, parameters and what trainers wrap around a model: the values are those of torch to the bit.
#[test]
fn tensors_are_those_that_torch_reads() {
    for name in ["types", "views", "wrapped", "nested"] {
        for file in [format!("{name}.pt"), format!("{name}.legacy.pt")] {
            assert_eq!(found(&read(&file)), expected(name), "{file}");
        }
    }
    assert_eq!(found(&read("big_endian.pt")), expected("big_endian"));
}

#[test]
fn every_type_is_there() {
    let types: Vec<StoredType> = read("types.pt")
        .catalog()
        .iter()
        .map(|found| found.dtype)
        .collect();
    let packed = |dtype: &StoredType| dtype.bits() < 8;
    for dtype in StoredType::ALL.iter().filter(|dtype| !packed(dtype)) {
        assert!(types.contains(dtype), "{dtype}");
    }
}

/// Any part of a view is what the whole has there. Would catch a part that begins or ends inside a value.
#[test]
fn parts_of_views_are_parts_of_the_whole() {
    for file in ["views.pt", "big_endian.pt"] {
        let checkpoint = read(file);
        for tensor in checkpoint.catalog().iter() {
            let whole = values_of(&checkpoint, &tensor.name);
            for (start, len) in [(0, 1), (1, 2), (3, 6), (5, 40), (8, 64), (13, 101)] {
                let start = start.min(whole.len());
                let end = (start + len).min(whole.len());
                let mut part = vec![0; end - start];
                let at = tensor.range.start + start as u64;
                checkpoint
                    .source()
                    .read_at(&tensor.file, at, &mut part)
                    .expect("reads");
                assert_eq!(
                    part,
                    whole[start..end],
                    "{file}: {} from {start}",
                    tensor.name
                );
            }
        }
    }
}

#[test]
fn wrappers_and_other_values_are_reported() {
    let notes = |file| read(file).notes().join("\n");
    for file in ["wrapped.pt", "wrapped.legacy.pt"] {
        let notes = notes(file);
        for word in [FILE, "under state_dict", "epoch, optimizer, rng_state"] {
            assert!(notes.contains(word), "{word:?} is not in: {notes}");
        }
    }
    assert!(notes("nested.pt").ends_with("not read: x"));
    assert_eq!(notes("types.pt"), "");
}

/// Weights are read where they lie: a file costs its header and its storages.
#[test]
fn no_more_is_read_than_is_wanted() {
    let bytes = fs::read(golden("llama_rope_linear.bin")).expect("a golden file");
    let source = std::sync::Arc::new(firebox::source::Memory::new().with(FILE, &bytes[..]));
    let request = memory(FILE, b"").source(source.clone());
    let checkpoint = request.open().expect("a right file");
    let of_headers: u64 = source
        .reads()
        .iter()
        .map(|(_, range)| range.end - range.start)
        .sum();
    let before = source.reads().len();
    let tensor = checkpoint.catalog().iter().next().expect("a tensor");
    let read = values_of(&checkpoint, &tensor.name);
    let reads = &source.reads()[before..];
    assert!(
        reads
            .iter()
            .all(|(_, range)| range.end - range.start == read.len() as u64),
        "{reads:?}"
    );
    // The end of the archive, which is most of a file as small as this one, the pickle, and the header of each storage.
    assert!(
        of_headers < 2 * bytes.len() as u64,
        "{of_headers} of {}",
        bytes.len()
    );
}
