//! Events as lines of JSON, which can be read while they are written.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde_json::{Map, Value, json};

use super::{Event, Flow, Observer, check_replace};
use crate::target::memory;

/// Writes each event as one line of JSON: an object that is whole when it is there.
///
/// | `event` | besides `event` and `at` |
/// |---|---|
/// | `download` | `file`, `bytes` that are here, `total` |
/// | `planned` | `model`, `target`, `dtype`, `tensors`, `bytes`, `bytes_kept`, `host_bytes` |
/// | `measured` | `quant` |
/// | `balanced` | `tensors`: names of the matrices |
/// | `shard` | `file`, `bytes` of it that the plan wants |
/// | `started` | `tensor`, `quant`, `bytes` in the checkpoint |
/// | `read` | `tensor`, `bytes` that arrived, `seconds` |
/// | `packed` | `tensor`, `quant`, `bytes` of the finished weight, `seconds` |
/// | `placed` | `tensor`, `quant`, `bytes` of the finished weight, `seconds`, `host_bytes` |
/// | `verified` | `tensor`, `quant`, `max_error`, `relative_error`, `cosine`, `sqnr_db`, `seconds` |
/// | `finished` | `tensors`, `bytes`, `bytes_read`, `bytes_kept`, `seconds`, `host_bytes`, `peak_host_bytes` |
///
/// `at` is seconds since the plan was made, since the file was where there is none yet. All bytes are whole numbers.
/// `host_bytes` is the anonymous memory of the process, `null` where the system does not tell; an error that is
/// infinite is `null` too. Fields may be added, none is taken away or renamed.
///
/// ```no_run
/// use firebox::{LoadConfig, observe::JsonLines};
///
/// let config = LoadConfig::new("assets/tinyrust").observer(JsonLines::create("events.jsonl")?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    state: Mutex<LinesState>,
}

#[derive(Debug)]
struct LinesState {
    file: File,
    since: Instant,
    failure: Option<String>,
}

impl JsonLines {
    /// Creates the file, or empties an earlier file of events.
    ///
    /// # Errors
    ///
    /// As [`check_replace`] and [`File::create`].
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        check_replace(&path, |head| head.starts_with(b"{\"event\":"))?;
        let state = LinesState {
            file: File::create(&path)?,
            since: Instant::now(),
            failure: None,
        };
        let state = Mutex::new(state);
        Ok(Self { path, state })
    }
}

impl Observer for JsonLines {
    /// Cancels where the line could not be written.
    fn observe(&self, event: &Event<'_>) -> Flow {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Event::Planned { .. } = event {
            state.since = Instant::now();
        }
        let mut line = Map::new();
        line.insert("event".to_owned(), event.kind().into());
        line.insert("at".to_owned(), state.since.elapsed().as_secs_f64().into());
        if let Value::Object(fields) = fields(event) {
            line.extend(fields);
        }
        // One write a line, so that no reader sees half of one.
        let line = format!("{}\n", Value::Object(line));
        match state.file.write_all(line.as_bytes()) {
            Ok(()) => Flow::Continue,
            Err(error) => {
                let path = self.path.display();
                state.failure = Some(format!("{path}: could not be written: {error}"));
                Flow::Cancel
            }
        }
    }

    fn failure(&self) -> Option<String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failure.take()
    }
}

fn fields(event: &Event<'_>) -> Value {
    match event {
        Event::Download { file, done, total } => {
            json!({"file": file, "bytes": done, "total": total})
        }
        Event::Planned { plan } => {
            let totals = plan.totals();
            json!({
                "model": plan.model,
                "target": plan.target(),
                "dtype": plan.dtype,
                "tensors": totals.tensors,
                "bytes": totals.bytes_source,
                "bytes_kept": totals.bytes_finished,
                "host_bytes": memory::anonymous(),
            })
        }
        Event::Measured { quant } => json!({"quant": quant}),
        Event::Balanced { link } => json!({"tensors": link.to}),
        Event::ShardOpened { file, bytes } => json!({"file": file, "bytes": bytes}),
        Event::Started { step } => json!({
            "tensor": step.slot.name,
            "quant": step.quant(),
            "bytes": step.bytes_source(),
        }),
        Event::Read {
            step,
            bytes,
            seconds,
        } => json!({
            "tensor": step.slot.name,
            "bytes": bytes,
            "seconds": seconds.as_secs_f64(),
        }),
        Event::Packed { step, seconds } => json!({
            "tensor": step.slot.name,
            "quant": step.quant(),
            "bytes": step.bytes_finished(),
            "seconds": seconds.as_secs_f64(),
        }),
        Event::Placed { step, seconds } => json!({
            "tensor": step.slot.name,
            "quant": step.quant(),
            "bytes": step.bytes_finished(),
            "seconds": seconds.as_secs_f64(),
            "host_bytes": memory::anonymous(),
        }),
        Event::Verified {
            step,
            stats,
            seconds,
        } => json!({
            "tensor": step.slot.name,
            "quant": step.quant(),
            "max_error": stats.max_error,
            "relative_error": stats.relative_error,
            "cosine": stats.cosine,
            "sqnr_db": stats.sqnr,
            "seconds": seconds.as_secs_f64(),
        }),
        Event::Finished { totals } => json!({
            "tensors": totals.tensors,
            "bytes": totals.bytes_source,
            "bytes_read": totals.bytes_read,
            "bytes_kept": totals.bytes_finished,
            "seconds": totals.seconds,
            "host_bytes": memory::anonymous(),
            "peak_host_bytes": totals.peak_host_bytes,
        }),
    }
}
