//! Expanded models of every family and dialect compute what the model computes.

use std::fs;

use firebox::{
    Error, Strategy, StreamFrom,
    config::Expand,
    expand::ExpandError,
    model::{CausalLm, Linear, Matrix},
};
use firebox_kernels::format::Format;
use tempfile::TempDir;

use super::{PACKED, config, expanded, load, logits, packed, packed_of};
use crate::common::{Golden, linears, max_abs_difference, models, repository};

/// The model, and the model with a copy after the last layer and with one after each.
fn compare(name: &str, load_with: impl Fn(Option<usize>) -> Result<(CausalLm, Vec<usize>), Error>) {
    let (base, new) = load_with(None).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(new.is_empty(), "{name}");
    let (layers, expected) = (base.blocks.len(), logits(&base));
    assert!(expected.iter().any(|logit| logit.abs() > 1e-3), "{name}");
    for blocks in [1, layers] {
        let (model, new) =
            load_with(Some(blocks)).unwrap_or_else(|error| panic!("{name}, {blocks}: {error}"));
        assert_eq!(model.blocks.len(), layers + blocks, "{name}");
        assert_eq!(new.len(), blocks, "{name}");
        let error = max_abs_difference(&logits(&model), &expected);
        assert!(error <= 1e-5, "{name}, {blocks} blocks: {error}");
    }
}

/// Every committed family. Gemma 4 with small embeddings for each layer has one table for all of them, and is refused by the name
/// of its field.
#[test]
fn every_family_computes_the_same() {
    for golden in models() {
        let name = golden.0;
        let with = |blocks: Option<usize>, quant: &str| {
            let base = config(&golden.path(""), quant);
            let loaded = load(match blocks {
                Some(blocks) => expanded(base, blocks),
                None => base,
            })?;
            Ok((loaded.model, loaded.new_blocks))
        };
        if name == "gemma4_ple_bf16" {
            let error = with(Some(1), "none").expect_err("one table for all layers");
            let Error::Expand(ExpandError::Field { field, .. }) = &error else {
                panic!("{error}")
            };
            assert_eq!(field, "hidden_size_per_layer_input");
            continue;
        }
        compare(name, |blocks| with(blocks, "none"));
    }
}

/// Zeros go through every method and come out as zeros.
#[test]
fn packed_on_the_way_they_compute_the_same() {
    for (golden, quants) in [
        (
            Golden("llama_bf16_untied"),
            &[
                "nf4",
                "nf4:block=64,nested",
                "fp4",
                "int8",
                "mlx:bits=4,group=64",
                "mlx:bits=2,group=32",
                "hqq:bits=4,group=64",
                "wna16:bits=4,group=32",
                "fp8:e4m3,scale=channel",
                "fp8:e4m3,scale=tensor",
                "mxfp4",
                "mxfp8",
                "nvfp4",
            ][..],
        ),
        (Golden("mixtral_bf16"), &["nf4"]),
        (Golden("qwen3_5_bf16"), &["nf4"]),
    ] {
        for quant in quants {
            compare(&format!("{}, {quant}", golden.0), |blocks| {
                let base = config(&golden.path(""), quant);
                let loaded = load(match blocks {
                    Some(blocks) => expanded(base, blocks),
                    None => base,
                })?;
                let packed = loaded.report.per_tensor.iter();
                let packed = packed.filter(|tensor| tensor.quant.to_string() != "none");
                assert!(packed.count() > 0, "{quant}: nothing is packed");
                Ok((loaded.model, loaded.new_blocks))
            });
        }
    }
}

/// Zeros are in no file, and stream like other weights.
#[test]
fn streamed_models_compute_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    for from in [StreamFrom::Host, StreamFrom::Disk(folder.path().to_owned())] {
        for quant in ["none", "nf4"] {
            compare(&format!("{from:?}, {quant}"), |blocks| {
                let base = config(&Golden("llama_bf16_untied").path(""), quant)
                    .strategy(Strategy::Streaming)
                    .stream_from(from.clone());
                let loaded = load(match blocks {
                    Some(blocks) => expanded(base, blocks),
                    None => base,
                })?;
                assert!(loaded.model.stream_stats().is_some());
                Ok((loaded.model, loaded.new_blocks))
            });
        }
    }
}

/// Weights that the checkpoint has packed stay so; the zeros of new blocks are dense. With `dense`, all of a new block is.
#[test]
fn packed_checkpoints_compute_the_same() {
    let golden = fs::read_dir(repository().join("tests/golden/packed")).expect("golden folders");
    let golden = golden.map(|folder| folder.expect("a folder").path());
    let mut packed: Vec<(&str, TempDir)> = PACKED.map(|quant| (quant, packed(quant))).into();
    // Matrices that are stored the other way round.
    packed.push(("nf4 of gpt2", packed_of(Golden("gpt2_f32"), "nf4")));
    let ours = packed.iter().map(|(_, folder)| folder.path().to_owned());
    for folder in golden.chain(ours) {
        let mut quant = "none".to_owned();
        for (packed, ours) in &packed {
            if ours.path() == folder {
                quant = (*packed).to_owned();
            }
        }
        for dense in [false, true] {
            let name = format!("{}, {quant}, dense: {dense}", folder.display());
            compare(&name, |blocks| {
                let base = config(&folder, "none");
                let expand = blocks.map(Expand::blocks);
                let loaded = load(match expand {
                    Some(expand) if dense => base.expand(expand.dense()),
                    Some(expand) => base.expand(expand),
                    None => base,
                })?;
                let (model, new) = (loaded.model, loaded.new_blocks);
                for nth in 0..model.blocks.len() {
                    let matrices = linears(&model.blocks[nth]).into_iter();
                    // Halves that stay as they are stored are no format.
                    let is_packed = |linear: &&Linear| match &linear.weight {
                        Matrix::Packed(packed) => {
                            !matches!(packed.layout().format, Format::Half(_))
                        }
                        _ => false,
                    };
                    let packed = matrices.filter(is_packed).count();
                    assert_eq!(packed == 0, dense && new.contains(&nth), "{name}, {nth}");
                }
                Ok((model, new))
            });
        }
    }
}
