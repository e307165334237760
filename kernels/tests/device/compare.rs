//! What a device says of a packed weight and its source, against what the host says.

use cubecl::client::Client;
use firebox_kernels::arith::float::DType;
use firebox_kernels::arith::launch::Buffer;
use firebox_kernels::compare;
use firebox_kernels::format::{Along, Blocks, Format, Fp8Kind, Gguf, Tile};

use crate::common::Random;
use crate::unpack::{every_format, upload};

crate::targets::on_devices!(compared_as_on_the_host);

/// Sums of a device against those of the host, on weights with what is not finite, saturated and tiny.
fn compared_as_on_the_host(client: &Client) {
    let mut random = Random(11);
    for (shape, source) in [
        ([1, 1], DType::F32),
        ([3, 33], DType::F16),
        ([33, 96], DType::F16),
        ([16, 257], DType::Bf16),
        ([40, 136], DType::F32),
        ([320, 4096], DType::Bf16),
    ] {
        let row_bytes = shape[1] * source.size();
        for packed in every_format(shape, &mut random) {
            let few = match packed.format {
                Format::Nf4(Blocks { block: 32, .. }) | Format::Int8 => true,
                Format::Fp8(Fp8Kind::E4m3, Tile::Row) => true,
                Format::Fp8(Fp8Kind::E5m2, Tile::Block { cols: 5, .. }) => true,
                Format::Affine(affine) => {
                    affine.group == 32 && affine.bits == 3 || affine.along != Along::Flat
                }
                Format::Micro(micro) => micro.is_global(),
                Format::Gguf(kind) => [Gguf::Q4_0, Gguf::Q4K, Gguf::Iq4Nl].contains(&kind),
                _ => false,
            };
            if !few {
                continue;
            }
            // Another weight than the one that was packed: some of it is beyond what the scales can give.
            let mut bytes = random.weights(shape[0] * shape[1], source);
            if shape[0] > 1 {
                let infinite: &[u8] = match source {
                    DType::F32 => &f32::INFINITY.to_le_bytes(),
                    DType::F16 => &0x7e00u16.to_le_bytes(),
                    DType::Bf16 => &0xff80u16.to_le_bytes(),
                };
                bytes[row_bytes + 4 * source.size()..][..source.size()].copy_from_slice(infinite);
            }
            let mut packed = packed;
            let middle = packed.scales.len().saturating_sub(1) / 2;
            if let Some(scale) = packed.scales.get_mut(middle).filter(|_| shape[0] > 30) {
                *scale = f32::NAN.to_bits();
            }
            let expected = compare::host(source, &bytes, &packed);
            let mut words = bytes.clone();
            words.resize(bytes.len().next_multiple_of(4), 0xff);
            let words: Vec<u32> = bytemuck::pod_collect_to_vec(&words);
            let words = Buffer::upload(client, &words);
            let weight = upload(client, &packed);
            let read = || {
                let sums = compare::compare(client, source, &words, &weight);
                let sums = client.read_one(sums.into_handle()).unwrap();
                let sums: [u32; compare::SUMS] = bytemuck::cast_slice(&sums).try_into().unwrap();
                sums
            };
            let found = read();
            assert_eq!(found, read(), "twice");
            let found = compare::Sums::from_words(found);
            let what = format!(
                "{} {shape:?} {source:?}: {found:?} {expected:?}",
                packed.format
            );
            assert_eq!(found.compared, expected.compared, "{what}");
            assert_eq!(found.saturated, expected.saturated, "{what}");
            assert_eq!(found.lost_sources, expected.lost_sources, "{what}");
            assert_eq!(found.lost_results, expected.lost_results, "{what}");
            let close = |found: f64, expected: f64, size: f64| {
                let off = (found - expected).abs();
                assert!(off <= compare::TOLERANCE * size, "{what}");
            };
            let products = (expected.source_squares * expected.result_squares).sqrt();
            close(found.largest, expected.largest, expected.largest);
            close(found.errors, expected.errors, expected.errors);
            close(
                found.error_squares,
                expected.error_squares,
                expected.error_squares,
            );
            close(
                found.source_squares,
                expected.source_squares,
                expected.source_squares,
            );
            close(
                found.result_squares,
                expected.result_squares,
                expected.result_squares,
            );
            close(found.products, expected.products, products);
        }
    }
}
