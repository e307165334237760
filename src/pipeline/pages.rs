//! Memory for finished weights.

use bytemuck::Zeroable;

use super::{error::PipelineError, room};
use crate::plan::Step;

/// `len` zeros for `step`, whose pages cost nothing until they are written, and then few faults: large ones are asked to be
/// huge.
pub(super) fn zeros<V: Zeroable + Copy>(step: &Step, len: usize) -> Result<Vec<V>, PipelineError> {
    let values = bytemuck::try_zeroed_vec(len);
    let values = values.map_err(|()| room::refused(step, (len * size_of::<V>()) as u64))?;
    #[cfg(target_os = "linux")]
    huge(&values);
    Ok(values)
}

/// Asks the system for pages of 2 MiB, where whole ones fit. A system without them ignores it.
#[cfg(target_os = "linux")]
fn huge<V>(values: &[V]) {
    const PAGE: usize = 2 << 20;
    let start = values.as_ptr().addr();
    let skipped = start.next_multiple_of(PAGE) - start;
    let len = size_of_val(values).saturating_sub(skipped) / PAGE * PAGE;
    if len > 0 {
        let first = values.as_ptr().wrapping_byte_add(skipped);
        // SAFETY: the range is inside the memory of `values`, and the advice changes none of its contents.
        let _ = unsafe {
            rustix::mm::madvise(
                first.cast_mut().cast(),
                len,
                rustix::mm::Advice::LinuxHugepage,
            )
        };
    }
}
