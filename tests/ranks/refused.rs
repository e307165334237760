//! What cannot be divided is refused before a weight is read, with what would work.

use std::sync::Arc;

use firebox::{
    Cpu, Error, LoadConfig, Loader,
    config::Parallel,
    model::CausalLm,
    quant::kernels::format::MatrixAxis,
    ranks::RankError,
    source::{Memory, Source, SourceExt},
};

use super::model::{LAYERS, llama, part};

fn refused(source: &Arc<Memory>, quant: &str, mode: Parallel, place: [usize; 2]) -> RankError {
    let before = source.reads().len();
    let header = 8 + header(source);
    let error = part(source, quant, mode, place).expect_err("is refused");
    let reads = source.reads().split_off(before);
    let weights = reads
        .iter()
        .filter(|(file, bytes)| file.ends_with("safetensors") && bytes.end > header);
    assert_eq!(weights.count(), 0, "weights were read");
    match error {
        Error::Rank(error) => *error,
        other => panic!("{other}"),
    }
}

fn header(source: &Memory) -> u64 {
    let mut length = [0; 8];
    source
        .peek("model.safetensors", 0, &mut length)
        .expect("a file");
    u64::from_le_bytes(length)
}

/// Would catch a group that is cut in two, an axis that is taken for the other, and a number of ranks that would not work
/// either.
#[test]
fn groups_that_do_not_end_with_a_part() {
    // Columns of `o_proj` and `down_proj` are 768: 12 blocks of 64, 6 groups of 128, which four ranks cannot share.
    let source = llama(12, false);
    match refused(&source, "mlx:bits=4,group=128", Parallel::Tensor, [0, 4]) {
        RankError::Groups {
            tensor,
            axis,
            unit,
            size,
            ranks,
            largest,
            ..
        } => {
            assert_eq!(tensor, "model.layers.0.mlp.down_proj.weight");
            assert_eq!(
                (axis, unit, size, ranks),
                (MatrixAxis::In, Some(128), 768, 4)
            );
            assert_eq!(largest, Some(3));
        }
        other => panic!("{other}"),
    }
    assert!(part(&source, "mlx:bits=4,group=128", Parallel::Tensor, [0, 3]).is_ok());
}

#[test]
fn more_ranks_than_heads_or_layers() {
    let source = llama(12, false);
    let error = refused(&source, "none", Parallel::Tensor, [0, 24]);
    assert!(
        matches!(
            error,
            RankError::Heads {
                largest: Some(12),
                ..
            }
        ),
        "{error}"
    );
    let error = refused(&source, "none", Parallel::Layers, [0, 5]);
    assert!(
        matches!(
            error,
            RankError::Layers {
                layers: LAYERS,
                ranks: 5
            }
        ),
        "{error}"
    );
}

#[test]
fn what_needs_all_weights_in_one_process() {
    let source = llama(12, false);
    let inner: Arc<dyn Source> = source.clone();
    let config = |parallel| {
        LoadConfig::default()
            .rank(0)
            .world_size(2)
            .parallel(parallel)
    };
    let quant = |quant: &str| quant.parse().expect("a quantization");
    let load = |config: LoadConfig| {
        let loader = Loader::<Cpu>::new(config.source(inner.clone())).expect("opens");
        loader
            .load_part::<CausalLm>()
            .expect_err("is refused")
            .to_string()
    };
    for parallel in [Parallel::Layers, Parallel::Tensor, Parallel::Shard] {
        let error = load(config(parallel).quant(quant("nf4")).presinq(true));
        assert!(error.starts_with("balanced columns"), "{error}");
        let loader = Loader::<Cpu>::new(config(parallel).source(inner.clone())).expect("opens");
        let error = loader
            .load::<CausalLm>()
            .expect_err("is refused")
            .to_string();
        assert!(error.contains("computes with the other ranks"), "{error}");
    }
}
