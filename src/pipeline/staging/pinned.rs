//! Pinned pages of CUDA devices.

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

/// Bytes that are not read yet. A device that stages them returns pages of its own and copies nothing: the caller
/// reads straight into these pages.
struct Unread(usize);

impl AllocationController for Unread {
    fn alloc_align(&self) -> usize {
        align_of::<u32>()
    }

    /// Like bytes of a file, which are not in memory either.
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
