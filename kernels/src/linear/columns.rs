//! Outputs of which each thread writes some columns, where they belong.

use core::marker::PhantomData;

/// Outputs `[m, o]`, lent to several threads.
pub(super) struct Columns<'a> {
    first: *mut f32,
    shape: [usize; 2],
    lent: PhantomData<&'a mut [f32]>,
}

// SAFETY: the memory is lent to `Columns` alone, and written through `write`, whose callers write different columns.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// Lends outputs of `o` columns.
    pub(super) fn new(y: &'a mut [f32], o: usize) -> Self {
        Self {
            shape: [y.len() / o, o],
            first: y.as_mut_ptr(),
            lent: PhantomData,
        }
    }

    /// Writes the columns from `at` on, `values` `[m, columns]`.
    ///
    /// # Safety
    ///
    /// No other call writes one of these columns.
    pub(super) unsafe fn write(&self, at: usize, values: &[f32]) {
        let [m, o] = self.shape;
        let columns = values.len() / m;
        assert!(
            values.len() == m * columns && at + columns <= o,
            "columns from {at} on of {:?}",
            self.shape
        );
        for (k, values) in values.chunks_exact(columns).enumerate() {
            // SAFETY: row `k` is below `m` and the columns are below `o`, so that the values lie in the memory that was lent; nobody
            // else writes them, as the caller promises, and nobody reads them before the loan ends.
            unsafe {
                let to = self.first.add(k * o + at);
                core::ptr::copy_nonoverlapping(values.as_ptr(), to, columns);
            }
        }
    }
}
