//! Buffers to read into, from which a device takes its bytes.

#[cfg(feature = "cuda")]
mod pinned;

use burn::tensor::{Bytes, Device};

/// Hands out buffers for one device.
pub(super) struct Staging {
    #[cfg(feature = "cuda")]
    device: Device,
    /// Whether the device has pages that it reads by itself. The first buffer tries it.
    #[cfg(feature = "cuda")]
    pinned: core::sync::atomic::AtomicBool,
}

impl Staging {
    pub(super) fn new(device: &Device) -> Self {
        #[cfg(not(feature = "cuda"))]
        let _ = device;
        Self {
            #[cfg(feature = "cuda")]
            device: device.clone(),
            #[cfg(feature = "cuda")]
            pinned: true.into(),
        }
    }

    /// Memory for `len` bytes and the zeros that fill their last `u32`. It is pinned where the device has such
    /// pages: a file is then read into the pages that the device copies from, with no copy between.
    pub(super) fn buffer(&self, len: usize) -> Bytes {
        let len = len.next_multiple_of(size_of::<u32>());
        #[cfg(feature = "cuda")]
        if let Some(mut buffer) = self.pinned(len) {
            // Pinned pages are used again, and hold older bytes.
            let tail = len.saturating_sub(size_of::<u32>());
            buffer[tail..].fill(0);
            return buffer;
        }
        Bytes::from_elems(vec![0_u32; len / size_of::<u32>()])
    }
}
