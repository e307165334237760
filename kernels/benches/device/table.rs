//! What was measured, for people and for programs.

use serde_json::{Value, json};

use crate::measure::Times;

/// One line.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) operation: String,
    pub(crate) format: String,
    pub(crate) shape: [usize; 2],
    /// Read and written, as the operation says, not as the device counts.
    pub(crate) bytes: usize,
    /// Multiplications and additions.
    pub(crate) flops: usize,
    pub(crate) times: Times,
}

impl Row {
    /// Bytes a second.
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.times.best()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "operation": self.operation, "format": self.format, "shape": self.shape, "bytes": self.bytes,
            "flops": self.flops, "device_seconds": self.times.device, "call_seconds": self.times.call,
            "bytes_per_second": self.rate(),
        })
    }
}

pub(crate) fn head() {
    println!(
        "| operation | format | shape | MB | on the device | a call | GB/s | of a copy | GFLOP/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
}

pub(crate) fn line(row: &Row, copy: f64) {
    let micros = |seconds: f64| format!("{:.1} µs", seconds * 1e6);
    let flops = match row.flops {
        0 => String::new(),
        flops => format!("{:.0}", flops as f64 / row.times.best() / 1e9),
    };
    println!(
        "| {} | {} | {} x {} | {:.1} | {} | {} | {:.1} | {:.0} % | {flops} |",
        row.operation,
        row.format,
        row.shape[0],
        row.shape[1],
        row.bytes as f64 / 1e6,
        row.times.device.map_or("no clock".to_owned(), micros),
        micros(row.times.call),
        row.rate() / 1e9,
        100.0 * row.rate() / copy,
    );
}
