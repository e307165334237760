//! The list of methods says what their packers do.

use firebox_kernels::{
    arith::float::DType,
    format::{Fp8Kind, Gguf, Micro, Tile},
    formats::{
        fp8::Recipe,
        hqq::{Axis, Group, Hqq, Levels},
        wna16::{ScaleGroup, Wna16},
    },
    packing::Packing,
};

fn every_method() -> Vec<Packing> {
    let mut all = vec![
        Packing::nf4(64, false).unwrap(),
        Packing::nf4(64, true).unwrap(),
        Packing::fp4(128, false).unwrap(),
        Packing::mlx(4, 64).unwrap(),
        Packing::mlx(3, 32).unwrap(),
        Packing::Int8,
    ];
    let tiles = [Tile::Tensor, Tile::Row, Tile::Block { rows: 3, cols: 5 }];
    all.extend(
        tiles.map(|tile| Packing::fp8(Fp8Kind::E4m3, tile, Recipe::CompressedTensors).unwrap()),
    );
    all.push(Packing::fp8(Fp8Kind::E5m2, Tile::Tensor, Recipe::Fixed(0.5)).unwrap());
    let micro = [Micro::Mxfp4, Micro::Mxfp8].into_iter();
    let micro = micro.chain([false, true].map(|global| Micro::Nvfp4 { global }));
    all.extend(micro.map(Packing::Micro));
    all.extend([Gguf::Q4_0, Gguf::Q8_0, Gguf::Iq4Nl, Gguf::Q4K, Gguf::Q2_0].map(Packing::Gguf));
    for scale in [
        ScaleGroup::Group(32),
        ScaleGroup::Channel,
        ScaleGroup::Tensor,
    ] {
        all.push(Packing::Wna16(Wna16 {
            bits: 3,
            scale,
            symmetric: false,
        }));
    }
    for group in [Group::Of(16), Group::Of(96), Group::Line, Group::All] {
        for axis in [Axis::First, Axis::Last] {
            for optimize in [false, true] {
                all.push(Packing::Hqq(Hqq {
                    levels: Levels::Bits(4),
                    group,
                    axis,
                    optimize,
                    round_zero: true,
                    params: DType::F16,
                }));
            }
        }
    }
    all
}

/// Would catch a plan that counts on other tiles, passes or formats than a packer has, and scales of HQQ that are stored
/// in another type than the weight.
#[test]
fn a_method_knows_the_tiles_and_passes_of_its_packer() {
    for shape in [[64, 96], [7, 96], [3, 32], [1, 16], [128, 160]] {
        for packing in every_method() {
            let what = format!("{packing:?} {shape:?}");
            let format = packing.format(shape, DType::Bf16);
            let packer = match packing.packer(shape, DType::Bf16) {
                Ok(packer) => packer,
                Err(error) => {
                    assert_eq!(format, Err(error), "{what}");
                    continue;
                }
            };
            assert_eq!(format, Ok(packer.format()), "{what}");
            assert_eq!(packing.passes(shape), packer.passes(), "{what}");
            assert_eq!(packing.tile_rows(shape), packer.tile_rows(), "{what}");
        }
    }
}
