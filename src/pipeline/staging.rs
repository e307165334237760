//! Buffers to read into, from which a device takes its bytes.

use burn::tensor::{Bytes, Device};

/// Hands out buffers for one device.
pub(super) struct Staging {
    #[cfg(feature = "cuda")]
    device: Device,
    /// Whether the device has pages that it reads by itself. Asked once, by trying.
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

    /// Memory for `len` bytes and the zeros that fill their last `u32`: pinned where the device has such
    /// pages, so that a file is read into what the device copies from, with no copy between.
    pub(super) fn buffer(&self, len: usize) -> Bytes {
        let len = len.next_multiple_of(size_of::<u32>());
        #[cfg(feature = "cuda")]
        if let Some(mut buffer) = self.pinned(len) {
            // They hold what they held before.
            let tail = len.saturating_sub(size_of::<u32>());
            buffer[tail..].fill(0);
            return buffer;
        }
        Bytes::from_elems(vec![0_u32; len / size_of::<u32>()])
    }
}

#[cfg(feature = "cuda")]
mod pinned {
    use core::{mem::MaybeUninit, sync::atomic::Ordering};

    use burn::tensor::{AllocationProperty, Bytes, DType, TensorData};
    use cubecl_environment::bytes::{AccessError, AccessPolicy, AllocationController};

    use super::Staging;

    impl Staging {
        pub(super) fn pinned(&self, len: usize) -> Option<Bytes> {
            if !self.pinned.load(Ordering::Relaxed) {
                return None;
            }
            // SAFETY: an `Unread` of `len` bytes never lends memory, so that none of it is uninitialized.
            let unread = unsafe { Bytes::from_controller(Box::new(Unread(len)), len) };
            let mut data = TensorData::from_bytes(unread, [len], DType::U8);
            self.device.staging(core::iter::once(&mut data));
            let bytes = data.into_bytes();
            let staged = bytes.property() == AllocationProperty::Pinned;
            self.pinned.store(staged, Ordering::Relaxed);
            staged.then_some(bytes)
        }
    }

    /// Bytes that nobody has read yet. A device that stages them gives its own pages in their place and
    /// has nothing copied into them: whoever asked reads straight into those.
    struct Unread(usize);

    impl AllocationController for Unread {
        fn alloc_align(&self) -> usize {
            align_of::<u32>()
        }

        /// As a file's bytes, which are not in memory either.
        fn property(&self) -> AllocationProperty {
            AllocationProperty::File
        }

        fn capacity(&self) -> usize {
            self.0
        }

        unsafe fn memory_mut(
            &mut self,
            _policy: AccessPolicy,
        ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
            Err(AccessError::WouldCopy)
        }

        fn memory(&self, _policy: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
            Err(AccessError::WouldCopy)
        }

        unsafe fn copy_into(&self, _pages: &mut [u8]) {}
    }
}
