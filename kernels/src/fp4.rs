//! Placeholder.
use crate::{error::FormatError, float::FloatBits, packer::Packer};
/// Placeholder.
pub fn packer(
    _: [usize; 2],
    _: FloatBits,
    _: usize,
    _: bool,
) -> Result<Box<dyn Packer>, FormatError> {
    unreachable!()
}
