//! How far the published weights are from those they were made from, as a card says it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::PublishError;
use crate::report::VerifyReport;

/// Errors of the packed weights of a checkpoint, measured against their source.
#[derive(Debug, Clone)]
pub struct MeasuredErrors {
    /// By quantization, in the order of their names.
    pub(super) groups: BTreeMap<String, ErrorGroup>,
}

/// Errors of the weights of one quantization.
#[derive(Debug, Clone)]
pub(super) struct ErrorGroup {
    pub(super) weights: usize,
    /// Relative errors, norm by norm.
    relative: Vec<f64>,
    pub(super) cosine: f64,
    /// Signal to noise in dB: the worst, with its weight. `None` where no weight lost anything.
    pub(super) worst: Option<(f64, String)>,
}

impl ErrorGroup {
    pub(super) fn largest(&self) -> f64 {
        self.relative.iter().copied().fold(0.0, f64::max)
    }

    pub(super) fn mean(&self) -> f64 {
        self.relative.iter().sum::<f64>() / self.relative.len().max(1) as f64
    }
}

impl MeasuredErrors {
    /// Of a report that was just made.
    pub fn of(report: &VerifyReport) -> Self {
        let value = serde_json::to_value(report).unwrap_or(Value::Null);
        Self::of_value(&value).unwrap_or_else(|_| Self {
            groups: BTreeMap::new(),
        })
    }

    /// Of what `firebox verify --json` printed, or `firebox quantize --json` with a limit. `path` is for messages.
    ///
    /// # Errors
    ///
    /// [`PublishError::Report`] for anything else.
    pub fn read(path: &str, text: &[u8]) -> Result<Self, PublishError> {
        let wrong = |reason: String| PublishError::Report {
            path: path.to_owned(),
            reason,
        };
        let value: Value =
            serde_json::from_slice(text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
        let report = value.get("verified").unwrap_or(&value);
        Self::of_value(report).map_err(wrong)
    }

    fn of_value(report: &Value) -> Result<Self, String> {
        let tensors = report["tensors"].as_array();
        let tensors = tensors.ok_or("it has no measured errors (`tensors`)")?;
        let mut groups = BTreeMap::new();
        for tensor in tensors {
            let text = |field: &str| {
                let text = tensor[field].as_str();
                text.ok_or_else(|| format!("a tensor has no {field}"))
            };
            let number = |field: &str| {
                let number = tensor[field].as_f64();
                number.ok_or_else(|| format!("a tensor has no {field}"))
            };
            // A limit that a weight was beyond has made it what its fallback says.
            let (quant, from) = match &tensor["fallback"] {
                Value::Null => (text("quant")?, tensor),
                fallback => (fallback["quant"].as_str().unwrap_or("none"), fallback),
            };
            if quant == "none" {
                continue;
            }
            let of = |field: &str| from[field].as_f64().map_or_else(|| number(field), Ok);
            let group = groups.entry(quant.to_owned()).or_insert(ErrorGroup {
                weights: 0,
                relative: Vec::new(),
                cosine: 1.0,
                worst: None,
            });
            group.weights += 1;
            group.relative.push(of("relative_error")?);
            group.cosine = group.cosine.min(of("cosine")?);
            // An infinite one is null.
            if let Some(sqnr) = from["sqnr_db"].as_f64()
                && group.worst.as_ref().is_none_or(|(worst, _)| sqnr < *worst)
            {
                group.worst = Some((sqnr, text("name")?.to_owned()));
            }
        }
        Ok(Self { groups })
    }
}
