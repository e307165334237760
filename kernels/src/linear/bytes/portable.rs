//! Products of bytes with what every processor has.

use super::panels::{BytePanels, ROWS};
use crate::arith::lanes::{Lanes, Work, run};

/// Products of all rows with the inputs.
pub(super) fn multiply<const M: usize>(panels: BytePanels<'_, M>) -> [[f32; ROWS]; M] {
    struct Multiply<'a, const M: usize>(BytePanels<'a, M>);

    impl<const M: usize> Work for Multiply<'_, M> {
        type Output = [[f32; ROWS]; M];

        #[inline(always)]
        fn on<L: Lanes>(self, lanes: L) -> Self::Output {
            let BytePanels {
                w,
                scales,
                offsets,
                x,
                fours,
            } = self.0;
            let mut totals = [[0.0; ROWS]; M];
            let blocks = w.chunks_exact(fours).zip(x.bytes.chunks_exact(fours));
            for (block, (w, bytes)) in blocks.enumerate() {
                for m in 0..M {
                    let mut sums = [x.starts[block][m]; ROWS];
                    for (w, bytes) in w.iter().zip(bytes) {
                        let four = bytes[m].map(i32::from);
                        for (sum, w) in sums.iter_mut().zip(w) {
                            for (w, x) in w.iter().zip(four) {
                                *sum += i32::from(*w) * x;
                            }
                        }
                    }
                    add(
                        lanes,
                        sums.map(|sum| sum as f32),
                        &scales[block],
                        x.scales[block][m],
                        &mut totals[m],
                    );
                    if let Some(offsets) = offsets.get(block) {
                        add(
                            lanes,
                            *offsets,
                            &[1.0; ROWS],
                            x.sums[block][m],
                            &mut totals[m],
                        );
                    }
                }
            }
            totals
        }
    }

    run(Multiply(panels))
}

/// Adds `values * (scales * by)`.
#[inline(always)]
fn add<L: Lanes>(
    lanes: L,
    values: [f32; ROWS],
    scales: &[f32; ROWS],
    by: f32,
    totals: &mut [f32; ROWS],
) {
    let by = lanes.splat(by);
    let scales = scales.as_chunks().0.iter().zip(values.as_chunks().0);
    for (to, (scales, values)) in totals.as_chunks_mut().0.iter_mut().zip(scales) {
        let factor = lanes.mul(lanes.load(scales), by);
        let total = lanes.mul_add(lanes.load(values), factor, lanes.load(to));
        lanes.store(total, to);
    }
}
