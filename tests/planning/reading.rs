//! Plans read headers, and no weight.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use firebox::{
    LoadConfig, Planner,
    config::StatedMemory,
    model::{CausalLm, PassSize},
    recommend::{Task, recommend},
    source::{Local, Source, SourceError},
    target::KnownTarget,
};

use super::fixtures::checkpoint;

/// Counts the bytes that are read of weights.
#[derive(Debug)]
struct Counted {
    files: Local,
    /// Where the weights begin.
    weights: u64,
    read: Arc<AtomicU64>,
}

impl Source for Counted {
    fn describe(&self) -> String {
        self.files.describe()
    }

    fn size(&self, file: &str) -> Result<u64, SourceError> {
        self.files.size(file)
    }

    fn read_at(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<(), SourceError> {
        let end = offset + into.len() as u64;
        if file.ends_with(".safetensors") {
            let of_weights = end.saturating_sub(offset.max(self.weights));
            self.read.fetch_add(of_weights, Ordering::Relaxed);
        }
        self.files.read_at(file, offset, into)
    }
}

/// Would catch a plan that looks at weights, for their memory, for a recommendation or for nothing.
#[test]
fn no_weight_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = checkpoint(folder.path(), "8x7B");
    let header = std::fs::File::open(path.join("model.safetensors")).expect("a file");
    let mut length = [0; 8];
    std::io::Read::read_exact(&mut &header, &mut length).expect("a header");
    let read = Arc::new(AtomicU64::new(0));
    let source = Counted {
        files: Local::open(&path).expect("a folder"),
        weights: 8 + u64::from_le_bytes(length),
        read: Arc::clone(&read),
    };
    let memory = StatedMemory::new("2x24GiB".parse().expect("a memory")).host(64 << 30);
    let config = LoadConfig::default().quant("nf4".parse().expect("a spec"));
    let planner = Planner::new(config.source(Arc::new(source)), KnownTarget::Cuda, &memory);
    let planner = planner.expect("a checkpoint");
    let plan = planner.plan::<CausalLm>().expect("a plan");
    let size = PassSize {
        batch: 1,
        length: 4096,
    };
    let memory = planner
        .memory::<CausalLm>(&plan, Some(size), None)
        .expect("its memory");
    assert!(memory.bytes_packed > 20 << 30, "{memory}");
    recommend(&planner, &Task::new()).expect("a recommendation");
    // A header may be asked for with a little more than it is long.
    let read = read.load(Ordering::Relaxed);
    assert!(read < 1 << 20, "{read} bytes of weights were read");
}
