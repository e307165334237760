//! The operations, what they have to move, and whether they answer as the host does.

use cubecl::{client::Client, ir::features::TypeUsage, prelude::*};
use firebox_kernels::{
    arith::{float::DType, launch::Buffer},
    device::DeviceWeight,
    format::{Blocks, Fp8Kind, Packed, Tile},
    formats::fp8::Recipe,
    packing::Packing,
    quantize,
};

use crate::{
    common::{Random, fed},
    copy::{self, copy_once},
    measure::{Effort, Times, measure},
    table::Row,
};

/// How large everything is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    full: bool,
    software: bool,
}

impl Sizes {
    pub(crate) const fn new(full: bool, software: bool) -> Self {
        Self { full, software }
    }

    /// Linear weights of models with 8 billion parameters, and a head.
    const fn shapes(&self) -> &'static [[usize; 2]] {
        if self.full {
            &[
                [4096, 4096],
                [14_336, 4096],
                [4096, 14_336],
                [128_256, 4096],
            ]
        } else {
            &[[512, 1024], [1024, 512]]
        }
    }

    /// Bytes of the copy that everything is measured against.
    pub(crate) const fn copied(&self) -> usize {
        if self.software { 64 << 20 } else { copy::BYTES }
    }

    pub(crate) const fn effort(&self) -> Effort {
        let (samples, sample, calls) = if self.software {
            (3, 0.0, 1)
        } else {
            (9, 2e-3, 50)
        };
        Effort {
            samples,
            sample,
            calls,
        }
    }

    /// Copies of `bytes` that calls take in turn, so that no cache holds what the next one reads.
    fn copies(&self, bytes: usize) -> usize {
        const MORE_THAN_CACHES: usize = 256 << 20;
        if self.software {
            1
        } else {
            MORE_THAN_CACHES.div_ceil(bytes)
        }
    }
}

/// How weights are packed, and by what name.
fn packings() -> Vec<(&'static str, Packing)> {
    let nf4 = |nested| Packing::Nf4(Blocks { block: 64, nested });
    let fp8 = |tile, recipe| Packing::Fp8 {
        kind: Fp8Kind::E4m3,
        tile,
        recipe,
    };
    let (rows, cols) = (128, 128);
    let fine = Recipe::FineGrained { ue8m0: false };
    vec![
        ("nf4", nf4(false)),
        ("nf4 nested", nf4(true)),
        ("fp8 tensor", fp8(Tile::Tensor, Recipe::CompressedTensors)),
        ("fp8 channel", fp8(Tile::Row, Recipe::CompressedTensors)),
        ("fp8 block", fp8(Tile::Block { rows, cols }, fine)),
        ("mlx 4 bit", Packing::Mlx { bits: 4, group: 64 }),
        ("int8", Packing::Int8),
    ]
}

/// What all cases share.
struct Bench<'a> {
    client: &'a Client,
    sizes: &'a Sizes,
    busy: &'a dyn Fn(),
    only: &'a [String],
    each: &'a mut dyn FnMut(Row),
    /// Operations that answer otherwise than the host, which are not timed.
    wrong: usize,
}

/// Measures everything that `only` does not leave out, and says how much of it answers otherwise than the host.
pub(crate) fn run(
    client: &Client,
    sizes: &Sizes,
    bandwidth: f64,
    only: &[String],
    each: &mut dyn FnMut(Row),
) -> usize {
    const BUSY: f64 = 0.02;
    let bytes = sizes.copied();
    let (from, to) = (client.empty(bytes), client.empty(bytes));
    let copies = (BUSY * bandwidth / (2 * bytes) as f64).ceil() as usize;
    let busy = || {
        for _ in 0..if sizes.software { 0 } else { copies } {
            copy_once(client, &from, &to, bytes);
        }
    };
    let mut bench = Bench {
        client,
        sizes,
        busy: &busy,
        only,
        each,
        wrong: 0,
    };
    for shape @ [o, i] in sizes.shapes().iter().copied() {
        let source = DType::Bf16;
        let bytes = Random(7).weights(o * i, source);
        for (name, packing) in packings() {
            if !bench.wants("quantize dequantize linear", name, shape) {
                continue;
            }
            let packer = packing.packer(shape, source).expect("these formats fit");
            let packed = fed(packer, &bytes, i * source.size(), 0);
            bench.quantize(name, packing, source, &bytes, &packed);
            bench.dequantize(name, &packed);
            bench.linear(name, &packed);
        }
    }
    bench.wrong
}

impl Bench<'_> {
    /// Whether the words of the command line leave any of these operations in.
    fn wants(&self, operations: &str, format: &str, [o, i]: [usize; 2]) -> bool {
        let words = format!("{operations} {format} {o}x{i}");
        self.only.is_empty() || self.only.iter().any(|only| words.contains(only.as_str()))
    }

    fn wrong(&mut self, what: String) {
        eprintln!("wrong: {what}");
        self.wrong += 1;
    }

    fn measure(&self, run: &mut dyn FnMut(usize)) -> Times {
        measure(self.client, self.sizes.effort(), self.busy, run)
    }

    /// The first bytes of a buffer of elements of `size` bytes, from the element `at` on.
    fn read(&self, buffer: &Buffer, at: usize, len: usize, size: usize) -> Vec<u8> {
        let total = buffer.len() * size;
        let handle = buffer.clone().into_handle();
        let after = handle.size_in_used() - total as u64;
        let handle = handle.offset_start((at * size) as u64);
        let handle = handle.offset_end((total - (at + len) * size) as u64 + after);
        self.client.read_one(handle).expect("the device answers")[..len * size].to_vec()
    }

    fn quantize(
        &mut self,
        name: &str,
        packing: Packing,
        source: DType,
        bytes: &[u8],
        packed: &Packed,
    ) {
        let shape @ [o, i] = packed.shape;
        if !self.wants("quantize", name, shape) {
            return;
        }
        let (words, _) = bytes.as_chunks();
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let copies = self.sizes.copies(bytes.len());
        let weights: Vec<_> = (0..copies)
            .map(|_| Buffer::upload(self.client, &words))
            .collect();
        let client = self.client;
        let quantize = |k: usize| {
            let bytes = &weights[k % copies];
            let amax = (packing.passes([o, i]) > 1)
                .then(|| quantize::absmax(client, source, o * i, bytes));
            let (words, scales) =
                quantize::quantize(client, packing, shape, source, bytes, amax.as_ref());
            match packing.plain() == packing {
                true => (words, scales),
                false => (words, quantize::nest(client, &scales)),
            }
        };
        let found = quantize(0);
        for (found, expected) in [(found.0, &packed.words), (found.1, &packed.scales)] {
            assert_eq!(found.len(), expected.len(), "{name} {shape:?}");
            let found = self.read(&found, 0, found.len(), 4);
            if found != u32::as_bytes(expected) {
                return self.wrong(format!("quantize, {name} {shape:?}: other bits"));
            }
        }
        let times = self.measure(&mut |k| drop(quantize(k)));
        (self.each)(Row {
            operation: "quantize bf16".to_owned(),
            format: name.to_owned(),
            shape,
            bytes: packing.passes(shape) * bytes.len() + packed.bytes(),
            flops: 0,
            times,
        });
    }

    /// Enough copies of a packed weight on the device.
    fn weights(&self, packed: &Packed) -> Vec<DeviceWeight> {
        let upload = |words| Buffer::upload(self.client, words);
        let copies = self.sizes.copies(packed.bytes());
        (0..copies)
            .map(|_| DeviceWeight {
                format: packed.format,
                shape: packed.shape,
                words: upload(&packed.words),
                scales: upload(&packed.scales),
            })
            .collect()
    }

    fn dequantize(&mut self, name: &str, packed: &Packed) {
        let shape @ [o, i] = packed.shape;
        if !self.wants("dequantize", name, shape) {
            return;
        }
        let weights = self.weights(packed);
        let mut types = vec![DType::F32, half(self.client)];
        types.dedup();
        for dtype in types {
            let size = o * i * dtype.size();
            if size as u64 > self.client.properties().memory.max_page_size {
                eprintln!("{name} {shape:?} {dtype:?}: no buffer of {size} bytes here");
                continue;
            }
            let run = |k: usize| weights[k % weights.len()].dequantize(self.client, 0..o, dtype);
            let found = run(0);
            for r in [0, o / 2, o - 1] {
                let mut expected = vec![0.0; i];
                let (words, scales) = (&packed.words, &packed.scales);
                packed
                    .format
                    .dequantize_rows(shape, words, scales, r..r + 1, &mut expected);
                let mut row = vec![0.0; i];
                dtype.widen(&self.read(&found, r * i, i, dtype.size()), &mut row);
                let expected = expected.iter().map(|weight| dtype.round(*weight));
                if !row.into_iter().eq(expected) {
                    return self.wrong(format!("dequantize, {name} {shape:?} {dtype:?}: row {r}"));
                }
            }
            let times = self.measure(&mut |k| drop(run(k)));
            (self.each)(Row {
                operation: format!("dequantize to {}", word(dtype)),
                format: name.to_owned(),
                shape,
                bytes: packed.bytes() + size,
                flops: 0,
                times,
            });
        }
    }

    fn linear(&mut self, name: &str, packed: &Packed) {
        let shape @ [o, i] = packed.shape;
        if !self.wants("linear", name, shape) {
            return;
        }
        let weights = self.weights(packed);
        let dtype = half(self.client);
        for m in [1, 8] {
            let x = Random(3).weights(m * i, dtype);
            let handle = self.client.create_from_slice(&x);
            // SAFETY: `m` rows of `i` elements.
            let buffer = unsafe { Buffer::new(handle, m * i) };
            let run = |k: usize| weights[k % weights.len()].linear(self.client, &buffer, dtype, m);
            let mut inputs = vec![0.0; m * i];
            dtype.widen(&x, &mut inputs);
            let mut found = vec![0.0; m * o];
            dtype.widen(&self.read(&run(0), 0, m * o, dtype.size()), &mut found);
            for r in (0..o).step_by(o / 64) {
                let checked = check(packed, r, &inputs, dtype, |k| found[k * o + r]);
                if let Err(error) = checked {
                    return self.wrong(format!("linear, {name} {shape:?} {m}: {error}"));
                }
            }
            let times = self.measure(&mut |k| drop(run(k)));
            (self.each)(Row {
                operation: format!("linear, {m} of {}", word(dtype)),
                format: name.to_owned(),
                shape,
                bytes: packed.bytes() + m * (i + o) * dtype.size(),
                flops: 2 * m * o * i,
                times,
            });
        }
    }
}

/// Compares the outputs of row `r` with the products of the weight as the host gives it back.
fn check(
    packed: &Packed,
    r: usize,
    x: &[f32],
    dtype: DType,
    found: impl Fn(usize) -> f32,
) -> Result<(), String> {
    let i = packed.shape[1];
    let mut row = vec![0.0; i];
    let (words, scales) = (&packed.words, &packed.scales);
    packed
        .format
        .dequantize_rows(packed.shape, words, scales, r..r + 1, &mut row);
    for (k, x) in x.chunks(i).enumerate() {
        let products = row
            .iter()
            .zip(x)
            .map(|(w, x)| f64::from(*w) * f64::from(*x));
        let (sum, size) = products.fold((0.0, 0.0), |(sum, size), xw| (sum + xw, size + xw.abs()));
        // Half of the last bit of what is stored, and what a sum in `f32` is off.
        let bits = match dtype {
            DType::F32 => 24,
            DType::F16 => 11,
            DType::Bf16 => 8,
        };
        let allowed = 2f64.powi(-bits) * sum.abs() + 1e-5 * size;
        let off = (f64::from(found(k)) - sum).abs();
        if off > allowed {
            return Err(format!("row {r}: off by {off:e} of {sum:e}"));
        }
    }
    Ok(())
}

/// The half type that the device computes in, `bf16` first.
fn half(client: &Client) -> DType {
    let has = |elem| {
        let usage = client.features().type_usage(elem);
        usage.contains(TypeUsage::Arithmetic) && usage.contains(TypeUsage::Buffer)
    };
    if has(half::bf16::elem_type_native()) {
        DType::Bf16
    } else if has(half::f16::elem_type_native()) {
        DType::F16
    } else {
        DType::F32
    }
}

const fn word(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::Bf16 => "bf16",
    }
}
