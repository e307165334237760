//! Trial.
#![cfg(feature = "cube")]
mod common;
use common::{Random, fed};
use cubecl::{Device, client::Client, device::WgpuDeviceKind};
use firebox_kernels::{blocks, float::FloatBits, launch::Buffer, nf4};

fn trial(client: &Client) {
    println!(
        "{} {:?} {:?}",
        client.name(),
        client.properties().hardware,
        client.properties().memory
    );
    let mut random = Random(5);
    let bytes = random.weights(33 * 64, FloatBits::Bf16);
    let p = fed(
        nf4::packer([33, 64], FloatBits::Bf16, 64, false).unwrap(),
        &bytes,
        128,
        0,
    );
    let (w, s) = (
        Buffer::upload(client, &p.words),
        Buffer::upload(client, &p.scales),
    );
    let out = blocks::cube::nf4(client, 64, 33 * 64, &w, &s, FloatBits::F32);
    let got = client.read_one(out.into_handle()).unwrap();
    let got: &[f32] = bytemuck::cast_slice(&got);
    assert_eq!(got, p.dequantize());
}
#[test]
fn vulkan() {
    trial(&Device::vulkan(WgpuDeviceKind::default()).unwrap().client());
}
#[test]
fn gl() {
    trial(&Device::gl(WgpuDeviceKind::default()).unwrap().client());
}
