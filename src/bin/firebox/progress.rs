//! A bar on stderr that fills with bytes converted. It hides itself where stderr is no terminal.

use firebox::{
    config::Bytes,
    pipeline::{Event, Flow, Observer},
};
use indicatif::{ProgressBar, ProgressStyle};

/// A bar over the bytes of a load.
#[derive(Debug, Clone)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::no_length();
        // Without colours: NO_COLOR needs no special case.
        let style =
            "{bar:30} {bytes:>10} of {total_bytes:10} {bytes_per_sec:>12} {eta:>4}  {wide_msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is a constant"));
        Self(bar)
    }

    /// Bytes done of a total.
    pub(crate) fn at(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Observer for Bar {
    fn observe(&self, event: &Event<'_>) -> Flow {
        match event {
            Event::Planned { plan } => {
                let passes_once = plan.totals().bytes_source;
                self.0.set_length(passes_once);
                // Weights that are verified pass once more.
                self.0.set_position(0);
            }
            Event::Started { step } => self.0.set_message(step.slot.name.clone()),
            Event::Placed { step, .. } => self.0.inc(step.bytes_source()),
            Event::Download { file, done, total } => {
                let (done, total) = (Bytes(*done), Bytes(*total));
                self.0
                    .set_message(format!("downloading {file}: {done} of {total}"));
            }
            _ => {}
        }
        Flow::Continue
    }
}
