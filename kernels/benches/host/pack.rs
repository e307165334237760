//! Choosing codes, as a load does: tile by tile, into memory that is there.

use std::sync::{Arc, Mutex};

use firebox_kernels::{
    arith::float::DType,
    format::{Blocks, Fp8Kind, Gguf, Micro, Tile},
    formats::{
        fp8::Recipe,
        hqq::{Axis, Group, Hqq, Levels},
        wna16::{ScaleGroup, Wna16},
    },
    packing::Packing,
};

use crate::common::Random;
use crate::{Case, Kind, Wanted};

/// A matrix of a model with 7 billion parameters.
const SHAPE: [usize; 2] = [4096, 11_008];

/// What weights are stored in, in the order of digests.
pub(crate) const SOURCES: [DType; 3] = [DType::Bf16, DType::F32, DType::F16];

/// Bytes of a tile, about: those of a load.
const TILE: usize = 4 << 20;

/// A name, a method, and what [`digest`] makes of words and scales from each of [`SOURCES`], 0 for one that is not asked for:
/// computed before vectors chose codes, by code that golden vectors were compared with.
pub(crate) type Known = (&'static str, Packing, [u64; 3]);

#[rustfmt::skip]
pub(crate) fn known() -> Vec<Known> {
    let bits4 = |nested| Blocks { block: 64, nested };
    let (nf4, fp4) = (|nested| Packing::Nf4(bits4(nested)), Packing::Fp4(bits4(false)));
    let fp8 = |kind, tile, recipe| Packing::Fp8 { kind, tile, recipe };
    let (e4m3, e5m2, block) = (Fp8Kind::E4m3, Fp8Kind::E5m2, Tile::Block { rows: 128, cols: 128 });
    let (plain, fine) = (Recipe::CompressedTensors, Recipe::FineGrained { ue8m0: false });
    let mlx = |bits| Packing::Mlx { bits, group: 64 };
    let wna16 = |bits, scale, symmetric| Packing::Wna16(Wna16 { bits, scale, symmetric });
    let hqq = |axis, optimize| {
        let (levels, group) = (Levels::Bits(4), Group::Of(64));
        Packing::Hqq(Hqq { levels, group, axis, optimize, round_zero: true, params: DType::Bf16 })
    };
    vec![
        ("nf4", nf4(false), [0xcbb0_edc8_7d21_172e, 0x8f75_b958_4c81_0e31, 0xcff2_de68_91b7_78be]),
        ("nf4 nested", nf4(true), [0xc6cf_2d21_cfab_260c, 0x071f_29dd_2ba1_e1a6, 0x4f01_397a_34b5_9e54]),
        ("fp4", fp4, [0x2c0a_d41e_9c0d_54ed, 0xbeb9_1f30_13c1_68fc, 0x3c8e_61d9_f74f_1f6a]),
        ("mlx 2 bits", mlx(2), [0xfa7c_a3dc_287b_5ea1, 0x4192_9265_9d73_34cd, 0x909e_42cd_7227_19f8]),
        ("mlx 3 bits", mlx(3), [0xbc98_ac7b_5129_140c, 0xf840_fd38_0cfd_a05d, 0x0c6f_3ade_9637_7f6d]),
        ("mlx 4 bits", mlx(4), [0xc382_c64b_8e37_cb60, 0x8798_ee68_ee14_183a, 0x129c_2b16_04ab_44e0]),
        ("mlx 8 bits", mlx(8), [0x956c_7f37_8d17_ee88, 0x11e8_3c61_f03b_4893, 0xe9b1_76e6_043f_7759]),
        ("fp8 e4m3, fixed", fp8(e4m3, Tile::Tensor, Recipe::Fixed(0.0123)), [0x0ef3_b806_13c8_4b11, 0x7184_1732_48de_8f09, 0xcb67_6784_44e8_af10]),
        ("fp8 e4m3, tensor", fp8(e4m3, Tile::Tensor, plain), [0x1074_ac8d_8800_18e4, 0xfc97_71af_3274_af5c, 0x03b9_9861_eaad_0594]),
        ("fp8 e4m3, channel", fp8(e4m3, Tile::Row, plain), [0x7fc1_e6e3_fbf4_3e80, 0x342a_a924_ad28_a82c, 0xa322_4d5e_1d84_80bc]),
        ("fp8 e4m3, block", fp8(e4m3, block, fine), [0xec64_745b_2180_32fc, 0x4db1_6cf6_446b_cc00, 0xca24_bf13_d49e_ba82]),
        ("fp8 e5m2, channel", fp8(e5m2, Tile::Row, plain), [0x9477_ef1e_4bed_c057, 0x73aa_d282_0d95_c4d6, 0xe5d1_ae42_15c1_fe36]),
        ("int8", Packing::Int8, [0x9aae_acdd_2ed9_ad02, 0x98c0_4df4_5d20_ab93, 0x6acf_9193_ea1d_b7e4]),
        ("wna16 4 bits, group 128", wna16(4, ScaleGroup::Group(128), true), [0x27cd_e321_d3f2_3a29, 0x796b_ee8d_e0c5_e6f3, 0x01ea_8923_58fe_c8c5]),
        ("wna16 4 bits, group 128, asymmetric", wna16(4, ScaleGroup::Group(128), false), [0x2ec3_e3ca_0bcd_61a5, 0xad34_7d76_cd1c_b714, 0x2ce7_9a9a_e5cf_e79d]),
        ("wna16 8 bits, channel", wna16(8, ScaleGroup::Channel, true), [0x2b3e_6dab_aff6_5963, 0x290e_fb9c_2b6f_a67f, 0xc262_d5dc_f2fb_f1fb]),
        ("mxfp4", Packing::Micro(Micro::Mxfp4), [0x3f5d_8a6e_646c_ea9c, 0xf995_a3e4_abc7_fb70, 0x4cea_53a3_9a47_f37e]),
        ("mxfp8", Packing::Micro(Micro::Mxfp8), [0x0ec8_9821_7913_327d, 0x931c_48ac_1256_8697, 0x3454_f341_c84d_14f8]),
        ("nvfp4", Packing::Micro(Micro::Nvfp4 { global: false }), [0x94db_6ae0_22ca_6734, 0xb65a_18ee_2c17_17e5, 0x6821_edf3_c666_21c6]),
        ("nvfp4, global", Packing::Micro(Micro::Nvfp4 { global: true }), [0xd0f5_93fd_512d_5f39, 0xc5dc_f363_a9e2_4de3, 0xf14c_5835_362d_0149]),
        ("hqq 4 bits", hqq(Axis::Last, true), [0x8cf7_2e2e_bbef_f056, 0, 0]),
        ("hqq 4 bits, unsolved", hqq(Axis::Last, false), [0x2fea_b72e_283e_dfd7, 0, 0]),
        ("hqq 4 bits, axis 0", hqq(Axis::First, true), [0xe5e2_f652_fe1a_d4d3, 0, 0]),
        ("q4_0", Packing::Gguf(Gguf::Q4_0), [0x61a7_4503_9138_4501, 0, 0]),
        ("q8_0", Packing::Gguf(Gguf::Q8_0), [0x419b_b439_3065_0f87, 0, 0]),
        ("q4_k", Packing::Gguf(Gguf::Q4K), [0xad9b_c980_d2c0_bba8, 0, 0]),
        ("q6_k", Packing::Gguf(Gguf::Q6K), [0xc7cf_7c75_7072_b0e0, 0, 0]),
    ]
}

pub(crate) fn cases(wanted: &Wanted, each: &mut dyn FnMut(Case)) {
    for (k, source) in SOURCES.into_iter().enumerate() {
        let mut bytes = None;
        for (name, method, digests) in known() {
            let name = format!("pack {name} from {source}");
            if digests[k] != 0 && wanted(&name) {
                let bytes = bytes.get_or_insert_with(|| Arc::new(weights(SHAPE, source)));
                each(case(name, method, source, bytes, digests[k]));
            }
        }
    }
}

fn case(name: String, method: Packing, source: DType, bytes: &Arc<Vec<u8>>, expected: u64) -> Case {
    let format = method
        .format(SHAPE, source)
        .expect("the shape suits every method");
    let words = Arc::new(Mutex::new(vec![0; format.words_len(SHAPE)]));
    let (run_words, run_bytes) = (Arc::clone(&words), Arc::clone(bytes));
    let bytes = Arc::clone(bytes);
    Case {
        name,
        packed: format.packed_bytes(SHAPE),
        floats: bytes.len(),
        kind: Kind::Pack,
        run: Box::new(move |_| {
            let mut words = run_words.lock().expect("no run panics");
            fed(method, SHAPE, source, &run_bytes, &mut words);
        }),
        check: Box::new(move || {
            let mut words = words.lock().expect("no run panics");
            words.fill(0xdead_beef);
            let scales = fed(method, SHAPE, source, &bytes, &mut words);
            let found = digest(&words, &scales);
            if found == expected {
                Ok(())
            } else {
                Err(format!("{found:#018x}, not {expected:#018x}"))
            }
        }),
    }
}

/// Packs a weight into `words`, and gives its scales.
pub(crate) fn fed(
    method: Packing,
    shape: [usize; 2],
    source: DType,
    bytes: &[u8],
    words: &mut [u32],
) -> Vec<u32> {
    let packer = method.packer(shape, source);
    let mut packer = packer.expect("the shape suits every method");
    let row = shape[1] * source.size();
    let together = packer.tile_rows();
    let rows = (TILE / row / together).max(1) * together;
    let tile_words = packer.format().words_len([rows, shape[1]]);
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
pub(crate) fn weights([o, i]: [usize; 2], source: DType) -> Vec<u8> {
    let mut random = Random(7);
    let mut values = Vec::with_capacity(o * i);
    for _ in 0..o * i {
        let state = random.next();
        let four = [0, 16, 32, 48].map(|shift| f32::from((state >> shift) as i16) / 32768.0);
        values.push(four.into_iter().sum::<f32>() * 0.0175);
    }
    let mut bytes = vec![0; o * i * source.size()];
    source.narrow(&values, &mut bytes);
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
