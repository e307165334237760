//! Bars on stderr: bytes done of all, a rate, the time left. They hide themselves where stderr is no terminal.

use std::sync::{Arc, Mutex, PoisonError};

use firebox::observe::{Event, Flow, Observer, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// A bar over the bytes of a load, and one for a download below it while there is one.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    load: ProgressBar,
    download: ProgressBar,
    both: MultiProgress,
    progress: Arc<Mutex<Progress>>,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let both = MultiProgress::new();
        Self {
            load: both.add(bar()),
            download: bar(),
            both,
            progress: Arc::default(),
        }
    }

    /// Bytes done of a total.
    pub(crate) fn at(&self, done: u64, total: u64) {
        self.load.set_length(total);
        self.load.set_position(done);
    }

    pub(crate) fn clear(&self) {
        self.load.finish_and_clear();
        self.download.finish_and_clear();
    }

    fn downloading(&self, file: &str, done: u64, total: u64) {
        // The first of a file, or of what is left of it.
        if self.download.message() != file {
            self.both.add(self.download.clone());
            self.download.reset();
            self.download.set_message(file.to_owned());
            self.download.set_length(total);
            // What was there before is not this rate's.
            self.download.reset_eta();
        }
        self.download.set_position(done);
        if done == total {
            self.both.remove(&self.download);
            self.download.set_message("");
        }
    }
}

fn bar() -> ProgressBar {
    // Without colours: NO_COLOR needs no special case.
    let style = "{bar:20} {decimal_bytes:>10} of {decimal_total_bytes:10} {decimal_bytes_per_sec:>12} {eta:>4} left  {wide_msg}";
    let style = ProgressStyle::with_template(style).expect("the template is a constant");
    ProgressBar::no_length().with_style(style)
}

impl Observer for Bar {
    fn observe(&self, event: &Event<'_>) -> Flow {
        if let Event::Download { file, done, total } = event {
            self.downloading(file, *done, *total);
            return Flow::Continue;
        }
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.observe(event);
        match event {
            Event::Planned { .. } => {
                // Weights that are verified pass once more.
                self.load.reset();
                self.load.set_length(progress.bytes_total);
            }
            Event::Started { step } => self.load.set_message(step.slot.name.clone()),
            Event::Read { .. } | Event::Placed { .. } => self.load.set_position(progress.bytes),
            Event::Measured { quant } => self.load.set_message(format!("measured {quant}")),
            _ => {}
        }
        Flow::Continue
    }
}
