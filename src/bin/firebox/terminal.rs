//! The terminal interface of Burn's training: curves and a bar. `q` asks for the end.

use std::sync::Arc;

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

pub(crate) struct Terminal {
    interrupter: Interrupter,
    renderer: TuiMetricsRendererWrapper,
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
        renderer.start(1, 1, Some(steps as usize), Some("finetune"));
        renderer.start_split("train", steps as usize);
        Self {
            interrupter,
            renderer,
        }
    }
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
        match event {
            RunEvent::Step(metrics) => {
                let speed = metrics.tokens as f64 / metrics.seconds;
                for (metric, value) in [
                    (LOSS, metrics.loss),
                    (RATE, metrics.lr),
                    (NORM, metrics.grad_norm),
                    (SPEED, speed),
                ] {
                    self.renderer.update_train(state(metric, value));
                }
                self.renderer.update_split(metrics.step as usize);
            }
            RunEvent::Eval(metrics) => {
                let state = state(PERPLEXITY, metrics.eval_perplexity);
                self.renderer.update_valid(state);
            }
            other => self.renderer.log_event_training(other.to_string()),
        }
    }

    fn stops(&self) -> bool {
        self.interrupter.should_stop()
    }
}
