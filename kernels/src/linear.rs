//! Placeholder.
use crate::format::Format;
/// Placeholder.
pub fn linear(_: &Format, _: [usize; 2], _: &[u32], _: &[u32], _: &[f32], _: &mut [f32]) {
    unreachable!()
}
/// Placeholder.
pub fn rows(_: &Format, _: [usize; 2], _: &[u32], _: &[u32], _: &[usize], _: &mut [f32]) {
    unreachable!()
}
