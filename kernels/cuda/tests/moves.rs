//! What the kernels of each operation need on an H100, beside the bytes that the operation has to move: the table of
//! `src/docs/targets.md`. `FIREBOX_WRITE_TABLES=1` writes the table.
//!
//! Needs ptxas, and is left out without it.

use std::{cmp::Reverse, collections::BTreeMap, env, fs, path::Path};

use cubecl::client::Client;
use firebox_kernels::{
    arith::{float::DType, launch::Buffer},
    device::DeviceWeight,
    format::{Affine, Along, Blocks, Format, Fp8Kind, Gguf, Half, Micro, Offset, Tile},
    formats::fp8::Recipe,
    packing::Packing,
    quantize,
};
use firebox_kernels_cuda::{client, compile, launched, ptxas, width};

/// Of the weight, `[o, i]`.
const SHAPE: [usize; 2] = [4096, 4096];
const DENSE: u64 = (SHAPE[0] * SHAPE[1] * 2) as u64;
/// Bytes a second of the memory of an H100 SXM, as its data sheet has it.
const BANDWIDTH: f64 = 3.35e12;

fn blocks(nested: bool) -> Blocks {
    Blocks { block: 64, nested }
}

fn affine(bits: usize) -> Format {
    let affine = Affine::new(bits, 64, Along::Flat, Offset::Bias, DType::Bf16);
    Format::Affine(affine.expect("an affine format"))
}

fn formats() -> Vec<(String, Format)> {
    let tile = Tile::Block {
        rows: 128,
        cols: 128,
    };
    let mut formats = vec![
        ("nf4".to_owned(), Format::Nf4(blocks(false))),
        ("nf4, nested".to_owned(), Format::Nf4(blocks(true))),
        (
            "fp8, channel".to_owned(),
            Format::Fp8(Fp8Kind::E4m3, Tile::Row),
        ),
        ("fp8, block".to_owned(), Format::Fp8(Fp8Kind::E4m3, tile)),
        ("int8".to_owned(), Format::Int8),
        ("bf16".to_owned(), Format::Half(Half::Bf16)),
        ("mxfp4".to_owned(), Format::Micro(Micro::Mxfp4)),
        ("mxfp8".to_owned(), Format::Micro(Micro::Mxfp8)),
        (
            "nvfp4".to_owned(),
            Format::Micro(Micro::Nvfp4 { global: true }),
        ),
    ];
    formats.extend([2, 3, 4, 5, 6, 8].map(|bits| (format!("mlx, {bits} bits"), affine(bits))));
    let gguf = Gguf::CHOSEN.into_iter();
    formats.extend(gguf.map(|kind| (format!("gguf {kind}"), Format::Gguf(kind))));
    formats
}

fn packings() -> Vec<(String, Packing)> {
    let fp8 = |tile| Packing::Fp8 {
        kind: Fp8Kind::E4m3,
        tile,
        recipe: Recipe::CompressedTensors,
    };
    let mut packings = vec![
        ("nf4".to_owned(), Packing::Nf4(blocks(false))),
        ("fp4".to_owned(), Packing::Fp4(blocks(false))),
        ("fp8, tensor".to_owned(), fp8(Tile::Tensor)),
        ("fp8, channel".to_owned(), fp8(Tile::Row)),
        (
            "fp8, block".to_owned(),
            fp8(Tile::Block {
                rows: 128,
                cols: 128,
            }),
        ),
        ("int8".to_owned(), Packing::Int8),
    ];
    packings.extend([2, 3, 4, 5, 6, 8].map(|bits| {
        (
            format!("mlx, {bits} bits"),
            Packing::Mlx { bits, group: 64 },
        )
    }));
    packings
}

/// What was launched since the last call, compiled: a row of the table, with the bytes that the operation moves.
fn row(client: &Client, operation: &str, format: &str, bytes: u64) -> String {
    let (mut registers, mut spilled) = (0, 0);
    let (mut loads, mut stores) = (BTreeMap::new(), BTreeMap::new());
    for kernel in launched(client) {
        let ptx = compile(client, &*kernel)
            .ptx
            .expect("every kernel compiles");
        let resources = ptxas::assemble(&ptx).expect("ptxas takes every kernel");
        registers = registers.max(resources.registers);
        spilled = spilled.max(resources.spilled);
        for (counts, accesses) in [
            (&mut loads, width::loads(&ptx)),
            (&mut stores, width::stores(&ptx)),
        ] {
            for bytes in accesses {
                *counts.entry(Reverse(bytes)).or_insert(0) += 1;
            }
        }
    }
    let [loads, stores] = [loads, stores].map(|counts: BTreeMap<Reverse<u32>, usize>| {
        let counts = counts
            .iter()
            .map(|(Reverse(bytes), count)| format!("{count} of {bytes}"));
        counts.collect::<Vec<_>>().join(", ")
    });
    let time = bytes as f64 / BANDWIDTH * 1e6;
    format!(
        "| {operation} | {format} | {registers} | {spilled} | {loads} | {stores} | {:.1} | {time:.1} |",
        bytes as f64 / 1e6
    )
}

fn table() -> Vec<String> {
    let client = client();
    let mut table = vec![
        "| operation | format | registers | spilled | loads, of bytes | stores | MB moved | µs at 3.35 TB/s |".to_owned(),
        "|---|---|---:|---:|---|---|---:|---:|".to_owned(),
    ];
    let [o, i] = SHAPE;
    for (name, packing) in packings() {
        let format = packing
            .format(SHAPE, DType::Bf16)
            .expect("it packs the shape");
        let bytes = Buffer::empty(&client, o * i / 2, 4);
        let amax = Buffer::empty(&client, 1, 4);
        quantize::quantize(&client, packing, SHAPE, DType::Bf16, &bytes, Some(&amax));
        let packed = 4 * (format.words_len(SHAPE) + format.scales_len(SHAPE)) as u64;
        table.push(row(&client, "pack", &name, DENSE + packed));
    }
    for (name, format) in formats() {
        let words = [format.words_len(SHAPE), format.scales_len(SHAPE)];
        let [words, scales] = words.map(|words| Buffer::empty(&client, words, 4));
        let packed = 4 * (words.len() + scales.len()) as u64;
        let weight = DeviceWeight {
            format,
            shape: SHAPE,
            words,
            scales,
        };
        weight.dequantize(&client, 0..o, DType::Bf16);
        table.push(row(&client, "unpack", &name, packed + DENSE));
        let x = Buffer::empty(&client, i, 2);
        weight.linear(&client, &x, DType::Bf16, 1);
        table.push(row(&client, "one row", &name, packed + 2 * (o + i) as u64));
    }
    table
}

/// Would catch a kernel that got narrower loads, more registers or spills.
#[test]
fn kernels_need_what_the_table_says() {
    if !ptxas::is_present() {
        assert!(
            env::var_os("FIREBOX_CUDA_TOOLS").is_none(),
            "ptxas is not there"
        );
        println!("ptxas is not there: no table");
        return;
    }
    let table = table().join("\n") + "\n";
    println!("{table}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/docs/targets.md");
    let text = fs::read_to_string(&page).expect("the page on targets");
    let (begin, end) = ("<!-- kernels -->\n", "<!-- end -->\n");
    let from = text.find(begin).expect("the table begins") + begin.len();
    let to = from + text[from..].find(end).expect("the table ends");
    if env::var_os("FIREBOX_WRITE_TABLES").is_some() {
        fs::write(page, [&text[..from], &table, &text[to..]].concat()).expect("writable");
    } else {
        assert_eq!(
            &text[from..to],
            table,
            "FIREBOX_WRITE_TABLES=1 writes the table"
        );
    }
}
