//! The terminal interface of Burn's training: curves and a bar. `q` asks for the end, whatever is answered to the question that
//! follows.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
};

use burn_train::{
    Interrupter,
    logger::TrainingProgressLogger,
    metric::{
        MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry, SerializedEntry,
    },
    renderer::{
        MetricState, MetricsRenderer, MetricsRendererTraining, tui::TuiMetricsRendererWrapper,
    },
};
use firebox::train::RunEvent;

use crate::training::Screen;

/// What has a curve.
const METRICS: [(&str, &str); 5] = [LOSS, RATE, NORM, SPEED, PERPLEXITY];
const LOSS: (&str, &str) = ("Loss", "nats");
const RATE: (&str, &str) = ("Learning rate", "");
const NORM: (&str, &str) = ("Norm of the gradients", "");
const SPEED: (&str, &str) = ("Trained tokens", "/s");
const PERPLEXITY: (&str, &str) = ("Perplexity", "");

/// What is under way.
const LABEL: &str = "finetune";

/// The thread of Burn that draws.
const DRAWS: &str = "train-renderer";

/// Shows the cursor, which Burn has hidden.
const CURSOR: &str = "\x1b[?25h";

pub(crate) struct Terminal {
    interrupter: Interrupter,
    /// `None` after it was killed from the keyboard.
    renderer: Option<TuiMetricsRendererWrapper>,
}

impl Terminal {
    pub(crate) fn new(steps: u64) -> Self {
        let interrupter = Interrupter::new();
        let mut renderer = TuiMetricsRendererWrapper::new(interrupter.clone(), None);
        for (name, unit) in METRICS {
            renderer.register_metric(MetricDefinition {
                metric_id: id(name),
                name: Arc::new(name.to_owned()),
                description: None,
                attributes: NumericAttributes {
                    unit: (!unit.is_empty()).then(|| unit.to_owned()),
                    higher_is_better: name == SPEED.0,
                }
                .into(),
            });
        }
        renderer.start(1, 1, Some(steps as usize), Some(LABEL));
        renderer.start_split("train", steps as usize);
        Self {
            interrupter,
            renderer: Some(renderer),
        }
    }

    /// Tells Burn something, unless it was killed.
    fn tell(&mut self, what: impl FnOnce(&mut TuiMetricsRendererWrapper)) {
        if let Some(mut renderer) = self.renderer.take() {
            self.renderer = self.unless_killed(|| {
                what(&mut renderer);
                renderer
            });
        }
    }

    /// "Stop the training immediately" (`q`, `k`) is a panic in Burn's thread, and in this one at the next word: here it asks for
    /// the end like any other way, so that nothing is lost.
    fn unless_killed<V>(&self, what: impl FnOnce() -> V) -> Option<V> {
        let told = panic::catch_unwind(AssertUnwindSafe(what));
        if told.is_err() {
            self.interrupter.stop(None);
            leave();
        }
        told.ok()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let renderer = self.renderer.take();
        // Closing it is a word too.
        self.unless_killed(|| drop(renderer));
    }
}

/// Lets Ctrl-C be a signal again, which Burn has made a key like others. Burn does so in its own thread, so that this is tried anew with
/// every event; the terminal gets its own way back at the end.
#[cfg(target_os = "linux")]
fn keep_interrupt() {
    // SAFETY: a zeroed `termios` is valid, lives during both calls, and is only written where it was read.
    unsafe {
        let mut mode: libc::termios = core::mem::zeroed();
        let is_raw = |mode: &libc::termios| mode.c_lflag & (libc::ICANON | libc::ISIG) == 0;
        if libc::tcgetattr(libc::STDIN_FILENO, &mut mode) == 0 && is_raw(&mode) {
            mode.c_lflag |= libc::ISIG;
            libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &mode);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_interrupt() {}

/// What Burn leaves undone where it was killed: the cursor, and the usual words of a panic, of which those of its own thread, which may
/// still come, are left out.
fn leave() {
    let _ = crate::output::text(CURSOR);
    drop(panic::take_hook());
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        if thread::current().name() != Some(DRAWS) {
            usual(panicked);
        }
    }));
}

fn id(name: &str) -> MetricId {
    MetricId::new(Arc::new(name.to_owned()))
}

fn state((name, unit): (&str, &str), value: f64) -> MetricState {
    let shown = match value != 0.0 && value.abs() < 1e-3 {
        true => format!("{value:.2e} {unit}"),
        false => format!("{value:.4} {unit}"),
    };
    let entry = SerializedEntry::new(shown, value.to_string());
    let entry = MetricEntry::new(id(name), entry);
    MetricState::Numeric(entry, Some(NumericEntry::Value(value)))
}

impl Screen for Terminal {
    fn show(&mut self, event: &RunEvent<'_>) {
        keep_interrupt();
        match event {
            RunEvent::Step(metrics) => {
                let speed = metrics.tokens as f64 / metrics.seconds;
                self.tell(|renderer| {
                    for (metric, value) in [
                        (LOSS, metrics.loss),
                        (RATE, metrics.lr),
                        (NORM, metrics.grad_norm),
                        (SPEED, speed),
                    ] {
                        renderer.update_train(state(metric, value));
                    }
                    renderer.update_split(metrics.step as usize);
                });
            }
            RunEvent::Eval(metrics) => {
                let state = state(PERPLEXITY, metrics.eval_perplexity);
                self.tell(|renderer| renderer.update_valid(state));
            }
            // Nothing new to see, but the moment to learn that somebody asked for the end.
            RunEvent::Batch { .. } => self.tell(|renderer| renderer.start(1, 1, None, Some(LABEL))),
            other => self.tell(|renderer| renderer.log_event_training(other.to_string())),
        }
    }

    fn stops(&self) -> bool {
        self.interrupter.should_stop()
    }
}
