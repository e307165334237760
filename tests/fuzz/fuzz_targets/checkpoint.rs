//! A checkpoint in memory from the input of `plan` and `load`, as lines:
//!
//! ```text
//! ab                              the quantization, and what else is asked for
//! {"model_type":…}                config.json
//! lm_head.weight|BF16|96,64       name, stored type and shape of a tensor; its bytes are made up
//! w.quant_map|F32|16|000080bf…    the same, with its bytes in hexadecimal
//! ```
//!
//! The header is made from the lines: what a file says about itself is consistent, and the other targets try the rest.

use std::sync::Arc;

use firebox::{Cpu, LoadConfig, Loader, Workers, source::Memory};

#[path = "tensors.rs"]
pub(crate) mod tensors;

const SPECS: [&str; 18] = [
    "none",
    "nf4",
    "nf4:block=64,nested",
    "fp4:block=32",
    "int8",
    "fp8:e4m3,scale=tensor",
    "fp8:e4m3,scale=channel",
    "fp8:e4m3,scale=block",
    "fp8:e4m3,scale=64x32,ue8m0",
    "fp8:e5m2,scale=0.05",
    "mlx:bits=3,group=32",
    "mlx:bits=4,group=64",
    "hqq:bits=4,group=64",
    "hqq:bits=3,group=line,axis=0",
    "wna16:bits=4,group=32,asymmetric",
    "mxfp4",
    "mxfp8",
    "nvfp4",
];

/// `None` where the input is no such file, or the checkpoint is refused when it is opened.
pub(crate) fn loader(data: &[u8]) -> Option<Loader<Cpu>> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let &[spec, flags] = lines.next()? else {
        return None;
    };
    let config = lines.next()?;
    let source = Memory::new()
        .with("config.json", config)
        .with("model.safetensors", tensors::safetensors(lines)?);
    let spec = SPECS[usize::from(spec.wrapping_sub(b'a')) % SPECS.len()];
    let flag = |bit: u8| flags & bit != 0;
    let config = LoadConfig::default()
        .quant(spec.parse().expect("a quantization"))
        .dequantize(flag(1))
        .presinq(flag(2))
        .requantize(flag(4))
        .workers(Workers::Count(1.try_into().expect("not zero")));
    let config = if flag(8) {
        let rule = |words: &str| words.parse().expect("a rule");
        config
            .rule(rule("role:embedding=nf4"))
            .rule(rule("lm_head=fp8:e4m3,scale=channel"))
    } else {
        config
    };
    Loader::new(config.source(Arc::new(source))).ok()
}
