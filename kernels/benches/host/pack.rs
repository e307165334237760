//! Choosing codes, as a load does: tile by tile, into memory that is there.

use std::sync::{Arc, Mutex};

use firebox_kernels::{
    arith::float::DType,
    format::{Blocks, Fp8Kind, Micro, Tile},
    formats::{
        fp8::Recipe,
        hqq::{Axis, Group, Hqq, Levels},
        micro,
        wna16::{ScaleGroup, Wna16},
    },
    packer::Packer,
    packing::Packing,
};

use crate::common::Random;
use crate::{Case, Kind, Wanted};

/// A matrix of a model with 7 billion parameters.
const SHAPE: [usize; 2] = [4096, 11_008];

const SOURCE: DType = DType::Bf16;

/// Bytes of a tile, about: those of a load.
const TILE: usize = 4 << 20;

/// How codes are chosen.
enum Method {
    Packing(Packing),
    Micro(Micro),
    Wna16(Wna16),
    Hqq(Hqq),
}

impl Method {
    fn packer(&self) -> Box<dyn Packer> {
        let packer = match self {
            Self::Packing(packing) => packing.packer(SHAPE, SOURCE),
            Self::Micro(micro) => micro::packer(SHAPE, SOURCE, *micro),
            Self::Wna16(wna16) => wna16.packer(SHAPE, SOURCE),
            Self::Hqq(hqq) => hqq.packer(SHAPE, SOURCE),
        };
        packer.expect("the shape suits every method")
    }
}

/// A name, a method, and what [`digest`] makes of words and scales: computed when codes were chosen one by one, by the
/// code that golden vectors were first compared with.
type Known = (&'static str, Method, u64);

#[rustfmt::skip]
fn known() -> Vec<Known> {
    let bits4 = |nested| Blocks { block: 64, nested };
    let (nf4, fp4) = (|nested| Packing::Nf4(bits4(nested)), Packing::Fp4(bits4(false)));
    let fp8 = |kind, tile, recipe| Method::Packing(Packing::Fp8 { kind, tile, recipe });
    let (e4m3, e5m2, block) = (Fp8Kind::E4m3, Fp8Kind::E5m2, Tile::Block { rows: 128, cols: 128 });
    let (plain, fine) = (Recipe::CompressedTensors, Recipe::FineGrained { ue8m0: false });
    let mlx = |bits| Method::Packing(Packing::Mlx { bits, group: 64 });
    let wna16 = |bits, scale, symmetric| Method::Wna16(Wna16 { bits, scale, symmetric });
    let hqq = |axis, optimize| {
        let (levels, group) = (Levels::Bits(4), Group::Of(64));
        Method::Hqq(Hqq { levels, group, axis, optimize, round_zero: true, params: SOURCE })
    };
    vec![
        ("nf4", Method::Packing(nf4(false)), 0xcbb0_edc8_7d21_172e),
        ("nf4 nested", Method::Packing(nf4(true)), 0xc6cf_2d21_cfab_260c),
        ("fp4", Method::Packing(fp4), 0x2c0a_d41e_9c0d_54ed),
        ("mlx 2 bits", mlx(2), 0xfa7c_a3dc_287b_5ea1),
        ("mlx 3 bits", mlx(3), 0xbc98_ac7b_5129_140c),
        ("mlx 4 bits", mlx(4), 0xc382_c64b_8e37_cb60),
        ("mlx 8 bits", mlx(8), 0x956c_7f37_8d17_ee88),
        ("fp8 e4m3, fixed", fp8(e4m3, Tile::Tensor, Recipe::Fixed(0.0123)), 0x0ef3_b806_13c8_4b11),
        ("fp8 e4m3, tensor", fp8(e4m3, Tile::Tensor, plain), 0x1074_ac8d_8800_18e4),
        ("fp8 e4m3, channel", fp8(e4m3, Tile::Row, plain), 0x7fc1_e6e3_fbf4_3e80),
        ("fp8 e4m3, block", fp8(e4m3, block, fine), 0xec64_745b_2180_32fc),
        ("fp8 e5m2, channel", fp8(e5m2, Tile::Row, plain), 0x9477_ef1e_4bed_c057),
        ("int8", Method::Packing(Packing::Int8), 0x9aae_acdd_2ed9_ad02),
        ("wna16 4 bits, group 128", wna16(4, ScaleGroup::Group(128), true), 0x27cd_e321_d3f2_3a29),
        ("wna16 4 bits, group 128, asymmetric", wna16(4, ScaleGroup::Group(128), false), 0x2ec3_e3ca_0bcd_61a5),
        ("wna16 8 bits, channel", wna16(8, ScaleGroup::Channel, true), 0x2b3e_6dab_aff6_5963),
        ("mxfp4", Method::Micro(Micro::Mxfp4), 0x3f5d_8a6e_646c_ea9c),
        ("mxfp8", Method::Micro(Micro::Mxfp8), 0x0ec8_9821_7913_327d),
        ("nvfp4", Method::Micro(Micro::Nvfp4 { global: false }), 0x94db_6ae0_22ca_6734),
        ("nvfp4, global", Method::Micro(Micro::Nvfp4 { global: true }), 0xd0f5_93fd_512d_5f39),
        ("hqq 4 bits", hqq(Axis::Last, true), 0x8cf7_2e2e_bbef_f056),
        ("hqq 4 bits, unsolved", hqq(Axis::Last, false), 0x2fea_b72e_283e_dfd7),
        ("hqq 4 bits, axis 0", hqq(Axis::First, true), 0xe5e2_f652_fe1a_d4d3),
    ]
}

pub(crate) fn cases(wanted: &Wanted, each: &mut dyn FnMut(Case)) {
    let mut bytes = None;
    for (name, method, digest) in known() {
        let name = format!("pack {name}");
        if wanted(&name) {
            let bytes = bytes.get_or_insert_with(|| Arc::new(weights()));
            each(case(name, method, bytes, digest));
        }
    }
}

fn case(name: String, method: Method, bytes: &Arc<Vec<u8>>, expected: u64) -> Case {
    let format = method.packer().format();
    let words = vec![0; format.words_len(SHAPE)];
    let state = Arc::new(Mutex::new((words, method)));
    let (run_state, run_bytes) = (Arc::clone(&state), Arc::clone(bytes));
    let bytes = Arc::clone(bytes);
    Case {
        name,
        packed: format.packed_bytes(SHAPE),
        floats: bytes.len(),
        kind: Kind::Pack,
        run: Box::new(move |_| {
            let (words, method) = &mut *run_state.lock().expect("no run panics");
            fed(method.packer(), &run_bytes, words);
        }),
        check: Box::new(move || {
            let (words, method) = &mut *state.lock().expect("no run panics");
            words.fill(0xdead_beef);
            let scales = fed(method.packer(), &bytes, words);
            let found = digest(words, &scales);
            if found == expected {
                Ok(())
            } else {
                Err(format!("{found:#018x}, not {expected:#018x}"))
            }
        }),
    }
}

/// Packs a weight into `words`, and gives its scales.
fn fed(mut packer: Box<dyn Packer>, bytes: &[u8], words: &mut [u32]) -> Vec<u32> {
    let row = SHAPE[1] * SOURCE.size();
    let together = packer.tile_rows();
    let rows = (TILE / row / together).max(1) * together;
    let tile_words = packer.format().words_len([rows, SHAPE[1]]);
    for pass in 0..packer.passes() {
        let last = pass + 1 == packer.passes();
        let tiles = bytes.chunks(rows * row).zip(words.chunks_mut(tile_words));
        for (tile, (bytes, words)) in tiles.enumerate() {
            let words = if last { words } else { &mut [] };
            packer.feed(pass, tile * rows, bytes, words);
        }
    }
    packer.finish()
}

/// Weights about as large and as often as those of a model: sums of four numbers, none above 0.07.
fn weights() -> Vec<u8> {
    let mut random = Random(7);
    let mut bytes = Vec::with_capacity(SHAPE[0] * SHAPE[1] * SOURCE.size());
    for _ in 0..SHAPE[0] * SHAPE[1] {
        let state = random.next();
        let four = [0, 16, 32, 48].map(|shift| f32::from((state >> shift) as i16) / 32768.0);
        let weight = four.into_iter().sum::<f32>() * 0.0175;
        bytes.extend_from_slice(&(SOURCE.to_bits(weight) as u16).to_le_bytes());
    }
    bytes
}

/// A number that another word anywhere would change.
fn digest(words: &[u32], scales: &[u32]) -> u64 {
    let all = words.iter().chain(scales);
    all.fold(0xcbf2_9ce4_8422_2325, |hash: u64, word| {
        (hash ^ u64::from(*word))
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23)
    })
}
