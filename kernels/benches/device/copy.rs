//! What everything is measured against: how fast a device copies memory.

use cubecl::{client::Client, prelude::*, server::Handle};

use crate::measure::measure;
use crate::operations::Sizes;

/// Bytes copied: many times what caches hold.
pub(crate) const BYTES: usize = 1 << 30;

/// Bytes of a vector, the most that every device moves at once.
const WIDE: usize = 16;

#[cube(launch_unchecked)]
fn copy<N: Size>(from: &[Vector<u32, N>], to: &mut [Vector<u32, N>]) {
    if ABSOLUTE_POS < to.len() {
        to[ABSOLUTE_POS] = from[ABSOLUTE_POS];
    }
}

/// Copies `bytes`, a multiple of 16.
pub(crate) fn copy_once(client: &Client, from: &Handle, to: &Handle, bytes: usize) {
    let len = bytes / WIDE;
    let dim = CubeDim::new_1d(256);
    let count = cubecl::calculate_cube_count_elemwise(client, len, dim);
    // SAFETY: both handles hold `bytes`, and the kernel stays inside `to`.
    unsafe {
        let [from, to] = [from, to].map(|handle| BufferArg::from_raw_parts(handle.clone(), len));
        copy::launch_unchecked(client, count, dim, WIDE / 4, from, to);
    }
}

/// Bytes a second, read and written, of a kernel that only copies.
pub(crate) fn bandwidth(client: &Client, sizes: &Sizes) -> f64 {
    let bytes = sizes.copied();
    let words: Vec<u8> = (0..bytes).map(|k| (k / 4 * 7) as u8).collect();
    let from = client.create_from_slice(&words);
    let to = client.empty(bytes);
    let times = measure(client, sizes.effort(), &|| {}, &mut |_| {
        copy_once(client, &from, &to, bytes);
    });
    let copied = client.read_one(to).expect("the copy is there");
    assert!(copied[..] == words[..], "the copy is another");
    2.0 * bytes as f64 / times.best()
}

/// The same for CUDA's own copies from device to device.
#[cfg(feature = "cuda")]
pub(crate) fn by_driver(bytes: usize) -> f64 {
    use cudarc::driver::{result, sys::CUevent_flags::CU_EVENT_DEFAULT};
    const SAMPLES: usize = 7;
    let work = || {
        result::init()?;
        let device = result::device::get(0)?;
        // SAFETY: the context is that of the device and stays current, the pointers are used before they are
        // freed, and the events have been recorded when they are read.
        unsafe {
            result::ctx::set_current(result::primary_ctx::retain(device)?)?;
            let [from, to] = [result::malloc_sync(bytes)?, result::malloc_sync(bytes)?];
            let stream = std::ptr::null_mut();
            result::memset_d8_sync(from, 1, bytes)?;
            let [start, end] = [
                result::event::create(CU_EVENT_DEFAULT)?,
                result::event::create(CU_EVENT_DEFAULT)?,
            ];
            let mut milliseconds = Vec::new();
            for _ in 0..=SAMPLES {
                result::event::record(start, stream)?;
                result::memcpy_dtod_async(to, from, bytes, stream)?;
                result::event::record(end, stream)?;
                result::event::synchronize(end)?;
                milliseconds.push(result::event::elapsed(start, end)?);
            }
            result::free_sync(from)?;
            result::free_sync(to)?;
            // The first one touches the memory.
            milliseconds.remove(0);
            milliseconds.sort_by(f32::total_cmp);
            Ok::<f32, cudarc::driver::DriverError>(milliseconds[SAMPLES / 2])
        }
    };
    let milliseconds = work().expect("the driver copies");
    2.0 * bytes as f64 / (f64::from(milliseconds) / 1e3)
}
