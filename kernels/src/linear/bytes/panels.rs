//! Rows and inputs side by side.

use super::inputs::InputPanel;
use super::weight::FOUR;

/// Rows of a panel.
pub(super) const ROWS: usize = 32;

/// One block after another of a panel of rows and one of `M` inputs.
#[derive(Clone, Copy)]
pub(super) struct BytePanels<'a, const M: usize> {
    /// `[cols / 4]` of rows.
    pub(super) w: &'a [[[u8; FOUR]; ROWS]],
    pub(super) scales: &'a [[f32; ROWS]],
    /// Empty where there are none.
    pub(super) offsets: &'a [[f32; ROWS]],
    pub(super) x: InputPanel<'a, M>,
    /// Fours of a block.
    pub(super) fours: usize,
}
