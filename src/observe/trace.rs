//! Events as `tracing` events: who has a subscriber needs no observer.

use super::Event;

const TARGET: &str = "firebox::observe";

/// A plan, a file, a finished tensor at debug level; what there are many of at trace level.
pub(super) fn trace(event: &Event<'_>) {
    macro_rules! debug { ($($field:tt)*) => { tracing::debug!(target: TARGET, $($field)*) } }
    macro_rules! many { ($($field:tt)*) => { tracing::trace!(target: TARGET, $($field)*) } }
    match event {
        Event::Download { file, done, total } => many!(file, done, total, "downloading"),
        Event::Planned { plan } => {
            let totals = plan.totals();
            debug!(
                model = plan.model,
                tensors = totals.tensors,
                bytes = totals.bytes_source,
                bytes_kept = totals.bytes_finished,
                "planned"
            );
        }
        Event::Balanced { link } => debug!(first = link.to.first(), "balanced"),
        Event::Measured { quant } => debug!(%quant, "measured"),
        Event::ShardOpened { file, bytes } => debug!(file, bytes, "opened"),
        Event::Started { step } => many!(tensor = step.slot.name, "started"),
        Event::Read {
            step,
            bytes,
            seconds,
        } => many!(tensor = step.slot.name, bytes, ?seconds, "read"),
        Event::Packed { step, seconds } => {
            let tensor = &step.slot.name;
            debug!(tensor, quant = %step.quant(), ?seconds, "packed");
        }
        Event::Placed { step, seconds } => {
            let tensor = &step.slot.name;
            debug!(tensor, bytes = step.bytes_finished(), ?seconds, "placed");
        }
        Event::Verified {
            step,
            stats,
            seconds,
        } => {
            let tensor = &step.slot.name;
            debug!(tensor, sqnr_db = stats.sqnr, ?seconds, "verified");
        }
        Event::Finished { totals } => debug!(
            tensors = totals.tensors,
            seconds = totals.seconds,
            "finished"
        ),
    }
}
