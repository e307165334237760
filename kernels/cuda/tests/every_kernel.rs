//! Every kernel that an operation launches on an H100 compiles, by every way there is.
//!
//! What NVIDIA's compilers are not there for is left out, and said; with `FIREBOX_CUDA_TOOLS=1` they have to be there.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use cubecl::{client::Client, prelude::*};
use firebox_kernels::{
    arith::{checksum, float::DType, launch::Buffer},
    compare,
    device::DeviceWeight,
    format::{Affine, Along, Blocks, Format, Fp8Kind, Gguf, Half, Micro, Offset, Tile},
    formats::fp8::Recipe,
    linear::INPUTS,
    packing::Packing,
    quantize,
};
use firebox_kernels_cuda::{Compiled, client, compile, launched, nvrtc, ptxas};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// Rows of whole eights, then rows that are not, where a format allows them.
const SHAPES: [[usize; 2]; 2] = [[64, 4096], [5, 33]];

/// Enough rows for products to take the plan for many rows.
const MANY: [usize; 2] = [32_768, 256];

/// Every format, in what changes its kernels: FP4 differs from NF4 in numbers, one affine format from another in
/// its bits, in how its parameters are stored and in which weights share them.
fn formats() -> Vec<Format> {
    let blocks = |block, nested| Blocks { block, nested };
    let tile = |rows, cols| Tile::Block { rows, cols };
    let mut formats = vec![
        Format::Nf4(blocks(64, false)),
        Format::Nf4(blocks(4096, true)),
        Format::Fp4(blocks(64, true)),
        Format::Fp8(Fp8Kind::E4m3, Tile::Tensor),
        Format::Fp8(Fp8Kind::E4m3, Tile::Row),
        Format::Fp8(Fp8Kind::E4m3, tile(128, 128)),
        Format::Fp8(Fp8Kind::E4m3, tile(3, 5)),
        Format::Fp8(Fp8Kind::E5m2, Tile::Row),
        Format::Int8,
        Format::Half(Half::F16),
        Format::Half(Half::Bf16),
    ];
    let affine = |bits, form, params| {
        Format::Affine(Affine::new(bits, 64, Along::Flat, form, params).expect("an affine format"))
    };
    formats.extend([1, 2, 3, 4, 5, 6, 8].map(|bits| affine(bits, Offset::Bias, DType::Bf16)));
    formats.push(affine(4, Offset::Zero, DType::F16));
    formats.push(affine(3, Offset::Zero, DType::F32));
    let micro = [Micro::Mxfp4, Micro::Mxfp8].into_iter();
    let micro = micro.chain([false, true].map(|global| Micro::Nvfp4 { global }));
    formats.extend(micro.map(Format::Micro));
    formats.extend(Gguf::CHOSEN.map(Format::Gguf));
    // One weight at a time.
    for (bits, along) in [(5, Along::Strided), (4, Along::Ordered)] {
        let affine = Affine::new(bits, 64, along, Offset::Zero, DType::F16);
        formats.push(Format::Affine(affine.expect("an affine format")));
    }
    formats
}

/// Room for a weight before it is packed.
fn stored(client: &Client, source: DType, [o, i]: [usize; 2]) -> Buffer {
    Buffer::empty(client, (o * i * source.size()).div_ceil(4), 4)
}

/// Everything that a packed weight does, in every type.
fn use_weights(client: &Client) {
    let weight = |format: Format, shape| DeviceWeight {
        format,
        shape,
        words: Buffer::empty(client, format.words_len(shape), 4),
        scales: Buffer::empty(client, format.scales_len(shape), 4),
    };
    let linear = |weight: &DeviceWeight, dtype: DType, m| {
        let x = Buffer::empty(client, m * weight.shape[1], dtype.size());
        weight.linear(client, &x, dtype, m);
    };
    let wide = i64::elem_type_native();
    let ids = [
        (i32::elem_type_native(), 4),
        (wide, 8),
        (u32::elem_type_native(), 4),
    ];
    for format in formats() {
        for shape in SHAPES {
            if format.validate_shape(shape).is_err() {
                continue;
            }
            let weight = weight(format, shape);
            for (dtype, (id, size)) in FLOATS.into_iter().zip(ids) {
                weight.dequantize(client, 1..4, dtype);
                weight.rows(client, &Buffer::empty(client, 3, size), id, dtype);
                linear(&weight, dtype, 1);
                compare::compare(client, dtype, &stored(client, dtype, shape), &weight);
            }
            linear(&weight, DType::F32, 3);
            linear(&weight, DType::Bf16, INPUTS);
        }
        linear(&weight(format, MANY), DType::Bf16, 1);
    }
}

/// Every way to choose codes that devices have.
fn packings() -> Vec<Packing> {
    let nf4 = |block| {
        Packing::Nf4(Blocks {
            block,
            nested: false,
        })
    };
    let fp8 = |kind, tile, recipe| Packing::Fp8 { kind, tile, recipe };
    let (rows, cols) = (128, 128);
    let mut packings = vec![
        nf4(64),
        nf4(4096),
        Packing::Fp4(Blocks {
            block: 64,
            nested: false,
        }),
    ];
    for tile in [
        Tile::Tensor,
        Tile::Row,
        Tile::Block { rows, cols },
        Tile::Block { rows: 3, cols: 5 },
    ] {
        let fine = |ue8m0| Recipe::FineGrained { ue8m0 };
        for recipe in [
            Recipe::CompressedTensors,
            fine(false),
            fine(true),
            Recipe::Fixed(0.5),
        ] {
            packings.push(fp8(Fp8Kind::E4m3, tile, recipe));
        }
    }
    packings.push(fp8(Fp8Kind::E5m2, Tile::Row, Recipe::CompressedTensors));
    packings.extend([2, 3, 4, 5, 6, 8].map(|bits| Packing::Mlx { bits, group: 64 }));
    packings.push(Packing::Int8);
    packings
}

fn choose_codes(client: &Client) {
    for source in FLOATS {
        for shape @ [o, i] in SHAPES {
            let bytes = stored(client, source, shape);
            let amax = quantize::absmax(client, source, o * i, &bytes);
            for packing in packings() {
                if packing.format(shape, source).is_ok() {
                    quantize::quantize(client, packing, shape, source, &bytes, Some(&amax));
                }
            }
        }
    }
    for scales in [3, 1000, 1 << 20] {
        quantize::nest(client, &Buffer::empty(client, scales, 4));
    }
}

/// Every kernel, compiled once for all tests.
fn every_kernel() -> &'static [Compiled] {
    static KERNELS: OnceLock<Vec<Compiled>> = OnceLock::new();
    KERNELS.get_or_init(|| {
        let client = client();
        choose_codes(&client);
        checksum::cube::partial_sums(&client, &stored(&client, DType::F32, MANY));
        use_weights(&client);
        let launched = launched(&client);
        println!("{} kernels", launched.len());
        on_every_core(&launched, |kernel| compile(&client, &**kernel))
    })
}

/// `each` of all of `items`.
fn on_every_core<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            results.push(each(item));
        }
        results
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join());
        results
            .flat_map(|results| results.expect("no panic"))
            .collect()
    })
}

#[test]
fn every_kernel_compiles() {
    let failed: BTreeSet<String> = every_kernel()
        .iter()
        .flat_map(|kernel| {
            let ways = [("PTX", &kernel.ptx), ("CUDA C++", &kernel.cpp)];
            ways.map(|(to, result)| {
                let error = result.as_ref().err()?;
                Some(format!("{} to {to}: {error}", kernel.name))
            })
        })
        .flatten()
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Kernels for devices whose units cannot exchange values.
const ELSEWHERE: [(&str, &str); 1] = [(
    "firebox_kernels::formats::bits4::pack_cube",
    "scales_kernel",
)];

/// Nobody has to remember to add an operation here: a function of the crate that is a kernel and was not
/// launched fails this test.
#[test]
fn every_kernel_is_launched() {
    let mut declared = Vec::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    declared_kernels(&source, "firebox_kernels", &mut declared);
    assert!(declared.len() >= 3, "{declared:?}");
    let kernels = every_kernel();
    let mut missing = BTreeSet::new();
    for (module, function) in &declared {
        let (module, within) = (format!("{module}::"), format!("::{function}::"));
        let is_it =
            |kernel: &Compiled| kernel.name.starts_with(&module) && kernel.name.contains(&within);
        if !kernels.iter().any(is_it) {
            missing.insert((module.trim_end_matches("::").to_owned(), function.clone()));
        }
    }
    let elsewhere = ELSEWHERE.map(|(module, function)| (module.to_owned(), function.to_owned()));
    assert_eq!(
        missing,
        BTreeSet::from(elsewhere),
        "declared and not launched"
    );
}

/// The module and the function of every `#[cube(launch…)]` under `folder`, tests aside.
fn declared_kernels(folder: &Path, module: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("the sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        let inner = match &*name {
            "lib" | "mod" => module.to_owned(),
            name => format!("{module}::{name}"),
        };
        if path.is_dir() {
            declared_kernels(&path, &inner, found);
        } else if name != "tests" {
            let text = fs::read_to_string(&path).expect("a source file");
            for kernel in text.split("#[cube(launch").skip(1) {
                let function = kernel.split("fn ").nth(1).expect("a function");
                let end = function.find(['<', '(']).expect("its arguments");
                found.push((inner.clone(), function[..end].to_owned()));
            }
        }
    }
}

/// Whether to go on: a tool may be missing, unless it was asked for.
fn there(tool: &str, present: bool) -> bool {
    let asked = env::var_os("FIREBOX_CUDA_TOOLS").is_some();
    assert!(present || !asked, "{tool} is not there");
    if !present {
        println!("{tool} is not there: nothing compiled with it");
    }
    present
}

/// What `take` makes of every text that there is of a kernel, with its name, where the texts differ; fails with all
/// that it refuses.
fn takes_all<R: Send>(
    text: impl Fn(&'static Compiled) -> Option<&'static String>,
    take: impl Fn(&str) -> Result<R, String> + Sync,
) -> Vec<(&'static str, R)> {
    let kernels = every_kernel().iter();
    let texts: BTreeMap<_, _> = kernels
        .filter_map(|kernel| Some((text(kernel)?, kernel.name)))
        .collect();
    println!("{} different texts", texts.len());
    let texts: Vec<_> = texts.into_iter().collect();
    let results = on_every_core(&texts, |(text, name)| match take(text) {
        Ok(result) => Ok((*name, result)),
        Err(error) => Err(format!("{name}: {error}")),
    });
    let (mut taken, mut failed) = (Vec::new(), BTreeSet::new());
    for result in results {
        match result {
            Ok(result) => taken.push(result),
            Err(error) => _ = failed.insert(error),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    taken
}

#[test]
fn nvrtc_takes_every_kernel() {
    if there("NVRTC", nvrtc::is_present()) {
        takes_all(|kernel| kernel.cpp.as_ref().ok(), nvrtc::compile);
    }
}

/// And few registers are stored for want of more: that is printed, and so is what most kernels need.
#[test]
fn ptxas_takes_every_kernel() {
    /// Bytes of a unit.
    const SPILLED: u32 = 32;
    if !there("ptxas", ptxas::is_present()) {
        return;
    }
    let mut taken = takes_all(|kernel| kernel.ptx.as_ref().ok(), ptxas::assemble);
    taken.sort_by_key(|(name, resources)| (*name, resources.registers));
    for of_one in taken.chunk_by(|(a, _), (b, _)| a == b) {
        let ((name, least), (_, most)) = (of_one[0], of_one[of_one.len() - 1]);
        let spilled = of_one.iter().map(|(_, resources)| resources.spilled);
        let spilled = spilled.max().unwrap_or(0);
        let [least, most] = [least, most].map(|resources| resources.registers);
        println!("{name}: {least} to {most} registers, {spilled} bytes spilled at most");
        assert!(spilled <= SPILLED, "{name} spills {spilled} bytes");
    }
}
