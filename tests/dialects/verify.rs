//! Golden checkpoints against the dense models that they were made from.
//!
//! What they give back is worked out here from the tensors of the files, by what each dialect says of itself.

use std::path::Path;

use firebox::{
    Cpu, Error, Loader, config::Limits, model::CausalLm, quant::kernels::compare::Stats,
    report::VerifyReport,
};
use safetensors::Dtype;
use serde_json::Value;

use super::{
    QUANTIZED, Quantized, Tensors,
    common::Golden,
    errors::{assert_close, by_definition, floats},
    json, load, tensors,
};

/// An 8-bit float of four exponent and three mantissa bits.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match exponent {
        0 => mantissa / 8.0 * 2_f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2_f32.powi(exponent - 7),
    };
    if byte < 128 { magnitude } else { -magnitude }
}

/// A weight that is given back, and the least and the greatest that its scale can give.
type Back = (f32, [f32; 2]);

fn scaled(number: f32, largest: f32, scale: f32) -> Back {
    (number * scale, [-largest * scale, largest * scale])
}

/// What `name` `[rows, cols]` gives back; `None` where it is plain.
fn given_back(all: &Tensors, name: &str, [rows, cols]: [usize; 2]) -> Option<Vec<Back>> {
    let of = |name: String| {
        let (dtype, _, bytes) = all.get(&name)?;
        Some(floats(*dtype, bytes))
    };
    let each = |number: &dyn Fn(usize, usize) -> Back| {
        let all = (0..rows * cols).map(|k| number(k / cols, k % cols));
        Some(all.collect())
    };
    let Some((dtype, _, bytes)) = all.get(name) else {
        // hqq: the first half of the groups of 64 is in the high halves.
        let beside = |part: &str| name.replace(".weight", &format!(".{part}"));
        let (scales, zeros) = (of(beside("scale"))?, of(beside("zero"))?);
        let (codes, half) = (&all[&beside("W_q")].2, scales.len() / 2);
        return each(&|r, c| {
            let k = r * cols + c;
            let (group, k) = (k / 64, k % 64);
            let code = codes[group % half * 64 + k] >> (if group < half { 4 } else { 0 }) & 15;
            let of_code = |code: f32| (code - zeros[group]) * scales[group];
            (of_code(f32::from(code)), [of_code(0.0), of_code(15.0)])
        });
    };
    match dtype {
        Dtype::F8_E4M3 => match of(format!("{name}_scale")) {
            Some(scales) => each(&|r, c| scaled(e4m3(bytes[r * cols + c]), 448.0, scales[r])),
            None => {
                let scales = of(format!("{name}_scale_inv")).expect("scales of tiles");
                let across = cols.div_ceil(128);
                each(&|r, c| {
                    let scale = scales[r / 128 * across + c / 128];
                    scaled(e4m3(bytes[r * cols + c]), 448.0, scale)
                })
            }
        },
        Dtype::U32 => {
            let module = name.strip_suffix(".weight").expect("a weight");
            let params = ["scales", "biases"].map(|part| of(format!("{module}.{part}")));
            let [scales, biases] = params.map(|part| part.expect("MLX has both"));
            each(&|r, c| {
                let k = r * cols + c;
                // Little-endian words: the stream of nibbles is that of the bytes.
                let code = bytes[k / 2] >> (k % 2 * 4) & 15;
                let weight = |code: u8| f32::from(code) * scales[k / 64] + biases[k / 64];
                let [first, last] = [weight(0), weight(15)];
                (weight(code), [first.min(last), first.max(last)])
            })
        }
        Dtype::U8 => {
            let levels = of(format!("{name}.quant_map")).expect("levels");
            let absmax = format!("{name}.absmax");
            let scales = match of(format!("{name}.nested_absmax")) {
                None => of(absmax).expect("scales"),
                Some(upper) => {
                    let map = of(format!("{name}.nested_quant_map")).expect("levels of scales");
                    let (_, _, state) = &all[&format!("{name}.quant_state.bitsandbytes__nf4")];
                    let state: Value = serde_json::from_slice(state).expect("JSON");
                    let offset = state["nested_offset"].as_f64().expect("a number") as f32;
                    let codes = all[&absmax].2.iter().enumerate();
                    let scale =
                        |(k, code): (usize, &u8)| map[usize::from(*code)] * upper[k / 256] + offset;
                    codes.map(scale).collect()
                }
            };
            // The first of two codes is in the high half.
            each(&|r, c| {
                let k = r * cols + c;
                let code = bytes[k / 2] >> ((1 - k % 2) * 4) & 15;
                scaled(levels[usize::from(code)], 1.0, scales[k / 64])
            })
        }
        _ => None,
    }
}

fn verify(quantized: &Path, dense: &Path, limits: &Limits) -> Result<VerifyReport, Error> {
    let dense = load(dense).open().expect("a checkpoint");
    let loader = Loader::<Cpu>::new(load(quantized)).expect("a checkpoint");
    loader.verify_against::<CausalLm>(&dense, limits)
}

/// Would catch codes compared in the order of the file, scales of other groups, and a source of other names.
#[test]
fn checkpoints_are_as_far_from_their_source_as_their_tensors_say() {
    for model in QUANTIZED {
        let Quantized { name: of, .. } = model;
        let folder = model.checkpoint();
        let (packed, mut dense) = (tensors(folder.path()), tensors(&model.base()));
        // The reference logits lie beside the model.
        dense.retain(|name, _| name.ends_with(".weight"));
        let report = verify(folder.path(), &model.base(), &Limits::default()).expect(of);
        assert_eq!(report.tensors.len(), dense.len(), "{of}");
        let (mut compared, mut saturates) = (0, false);
        for found in &report.tensors {
            let (dtype, shape, bytes) = &dense[&found.name];
            let what = format!("{of} {}", found.name);
            let back = match shape[..] {
                [rows, cols] => given_back(&packed, &found.name, [rows, cols]),
                _ => None,
            };
            match back {
                Some(back) => {
                    let source = floats(*dtype, bytes);
                    let values: Vec<f32> = back.iter().map(|(value, _)| *value).collect();
                    let saturated = source.iter().zip(&back).filter(|(s, (_, [low, high]))| {
                        let slack = low.abs().max(high.abs()) / 128.0;
                        **s < low - slack || **s > high + slack
                    });
                    let expected = Stats {
                        saturated: saturated.count() as u64,
                        ..by_definition(&source, &values)
                    };
                    assert_close(found.stats, expected, &what);
                    saturates |= expected.saturated > 0;
                    compared += 1;
                }
                None => {
                    assert_eq!(found.stats.max_error, 0.0, "{what}");
                    assert_eq!(found.stats.sqnr, f64::INFINITY, "{what}");
                }
            }
        }
        let layers = json(&model.base().join("config.json"))["num_hidden_layers"].as_u64();
        let matrices = 7 * layers.expect("a number") as usize;
        // MLX packs embedding and head too.
        let expected = matrices + if of == "llama_mlx_4bit" { 2 } else { 0 };
        assert_eq!(compared, expected, "{of}");
        // Scales that are quantized themselves do not reach every weight; MLX moves the ends of a group until
        // 0 has a code, and hqq until the error is sparse.
        let expected = ["llama_bnb_nf4_dq", "llama_hqq_4bit", "llama_mlx_4bit"].contains(&of);
        assert_eq!(saturates, expected, "{of}");
    }
}

/// Would catch a comparison by shapes alone: of two models of the same shapes one is the source.
#[test]
fn another_models_weights_are_beyond_a_limit() {
    let model = QUANTIZED[2];
    let folder = model.checkpoint();
    let limits = Limits::default().min_sqnr(25.0);
    let report = verify(folder.path(), &model.base(), &limits).expect("a report");
    assert_eq!(report.failed().count(), 0);

    // Its own packed weights are no source, and neither is a smaller model.
    for (source, expected) in [
        (folder.path(), "F8_E4M3"),
        (&*Golden("mistral_bf16").path(""), "different models"),
    ] {
        let error = verify(folder.path(), source, &limits).expect_err("refused");
        assert!(matches!(error, Error::Verify(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
    }
}
