//! A quantization of the caller's own: codes and scales chosen outside of this crate, for a format of
//! ours, and loaded like any other.

#[path = "common/tiny.rs"]
mod common;

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use common::{IN, OUT, Tiny, tiny, tiny_entries};
use firebox::{
    Cpu, LoadConfig, Loader,
    model::{Linear, Matrix},
    quant::{
        Method, QuantSpec,
        kernels::{
            arith::{float::DType, pack::CODES4},
            format::{Blocks, Format, FormatError},
            formats::bits4::{self, levels::NF4},
            packer::{Packer, pack_whole},
        },
    },
    target::Target,
};

// ------------------------------------------------------------------------------------ the method

/// NF4 whose blocks scale by the magnitude that nine in ten of their weights do not exceed. Outliers
/// saturate, the others get finer steps.
#[derive(Debug)]
struct Clipped {
    block: usize,
}

impl Method for Clipped {
    fn format(&self, _shape: [usize; 2], _source: DType) -> Result<Format, FormatError> {
        Blocks::new("clipped", self.block, false).map(Format::Nf4)
    }

    fn packer(&self, shape: [usize; 2], source: DType) -> Result<Box<dyn Packer>, FormatError> {
        let format = self.format(shape, source)?;
        Ok(Box::new(ClippedPacker {
            block: self.block,
            source,
            format,
            shape,
            scales: vec![0; format.scales_len(shape)],
        }))
    }
}

struct ClippedPacker {
    block: usize,
    source: DType,
    format: Format,
    shape: [usize; 2],
    scales: Vec<u32>,
}

impl Packer for ClippedPacker {
    fn format(&self) -> Format {
        self.format
    }

    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn passes(&self) -> usize {
        1
    }

    /// Blocks run on through rows: this many rows are whole blocks, whatever their length.
    fn tile_rows(&self) -> usize {
        self.block
    }

    fn feed(&mut self, _pass: usize, first_row: usize, tile: &[u8], words: &mut [u32]) {
        words.fill(0);
        let mut weights = vec![0.0; tile.len() / self.source.size()];
        self.source.widen(tile, &mut weights);
        let scales = &mut self.scales[first_row * self.shape[1] / self.block..];
        let blocks = weights.chunks(self.block).zip(scales);
        for (first, (block, stored)) in (0..).step_by(self.block).zip(blocks) {
            let mut sorted: Vec<f32> = block.iter().map(|weight| weight.abs()).collect();
            sorted.sort_by(f32::total_cmp);
            let scale = sorted[sorted.len() * 9 / 10];
            *stored = scale.to_bits();
            for (k, weight) in (first..).zip(block) {
                let code = u32::from(NF4.code(weight / scale));
                words[k / CODES4] |= code << (4 * (k % CODES4));
            }
        }
    }

    fn finish(self: Box<Self>) -> Vec<u32> {
        self.scales
    }
}

// ------------------------------------------------------------------------------------- the tests

/// Tiny, packed by [`Clipped`], read in tiles as small as they get.
fn load() -> Tiny {
    let config = LoadConfig::default()
        .quant(QuantSpec::Custom(Arc::new(Clipped { block: 32 })))
        .in_flight_bytes_max(1)
        .source(tiny());
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let plan = loader.plan::<Tiny>().expect("a plan").to_string();
    assert!(plan.contains("Clipped"), "{plan}");
    loader.load().expect("a model").model
}

/// `[o, i]` of a weight and its values, in the order of the flattened weight.
fn weight(name: &str) -> ([usize; 2], Vec<f32>) {
    let entries = tiny_entries();
    let (_, shape, values) = entries.into_iter().find(|(n, ..)| *n == name).expect(name);
    ([shape[0], shape[1]], values)
}

/// Codes and scales again, the obvious way: the nearest level, by distance.
fn expected(values: &[f32]) -> (Vec<usize>, Vec<f32>) {
    let (mut codes, mut scales) = (vec![], vec![]);
    for block in values.chunks(32) {
        let within = |limit: f32| block.iter().filter(|w| w.abs() <= limit).count();
        let scale = (block.iter().map(|weight| weight.abs()))
            .filter(|limit| within(*limit) > block.len() * 9 / 10)
            .fold(f32::INFINITY, f32::min);
        scales.push(scale);
        codes.extend(block.iter().map(|weight| {
            let distance = |code: &usize| (NF4.levels[*code] - weight / scale).abs();
            (0..16)
                .min_by(|a, b| distance(a).total_cmp(&distance(b)))
                .expect("sixteen levels")
        }));
    }
    (codes, scales)
}

fn u32s(tensor: Tensor<1, Int>) -> Vec<u32> {
    tensor.into_data().iter::<u32>().collect()
}

/// Would catch a plan or a pipeline that only knows the methods of this crate, tiles that cut a block,
/// and words that are changed on their way into the module.
#[test]
fn the_words_in_the_module_are_those_of_the_method() {
    let model = load();
    for (name, linear) in [("up.weight", &model.up), ("down.weight", &model.down)] {
        let Matrix::Packed(packed) = &linear.weight else {
            panic!("{name} is dense")
        };
        let (shape, values) = weight(name);
        let layout = packed.layout();
        let blocks = Blocks {
            block: 32,
            nested: false,
        };
        assert_eq!((layout.format, layout.shape), (Format::Nf4(blocks), shape));

        let (codes, scales) = expected(&values);
        let words = u32s(packed.words.val());
        let found: Vec<usize> = (0..values.len())
            .map(|k| (words[k / 8] >> (4 * (k % 8)) & 0xf) as usize)
            .collect();
        assert!(found == codes, "{name}: other codes");
        let found = u32s(packed.scales.val());
        assert!(
            found.into_iter().map(f32::from_bits).eq(scales),
            "{name}: other scales"
        );

        // And they are not what NF4 itself chooses.
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|weight| weight.to_le_bytes())
            .collect();
        let plain = bits4::nf4(shape, DType::F32, 32, false).expect("a packer");
        let plain = pack_whole(plain, &bytes);
        assert!(plain.words != words, "{name}: the codes of nf4");
    }
}

/// Would catch a product that does not take the scales from the method.
#[test]
fn a_model_of_the_method_computes_with_its_weights() {
    let model = load();
    let device = Cpu::device(0).expect("there is always a CPU");
    let one_hot = |len: usize| {
        let mut x = vec![0.0; len];
        x[len - 1] = 1.0;
        Tensor::<2>::from_data(TensorData::new(x, [1, len]), &device)
    };
    let last_column = |linear: &Linear, len: usize| -> Vec<f32> {
        let y = linear.forward(one_hot(len));
        y.into_data().iter::<f32>().collect()
    };
    let (_, values) = weight("down.weight");
    let (codes, scales) = expected(&values);
    let column: Vec<f32> = (0..IN)
        .map(|row| row * OUT + OUT - 1)
        .map(|k| NF4.levels[codes[k]] * scales[k / 32])
        .collect();
    assert_eq!(last_column(&model.down, OUT), column);
}

/// Would catch a refusal of the method that does not say which tensor it is about.
#[test]
fn what_the_method_refuses_is_refused_with_the_name_of_the_tensor() {
    let spec = QuantSpec::Custom(Arc::new(Clipped { block: 48 }));
    let config = LoadConfig::default().quant(spec).source(tiny());
    let loader = Loader::<Cpu>::new(config).expect("a checkpoint");
    let error = loader
        .load::<Tiny>()
        .expect_err("no such block")
        .to_string();
    for part in ["down.weight", "clipped", "48"] {
        assert!(error.contains(part), "{error}");
    }
}
