//! A load as a page of HTML with drawings in it: one file that needs nothing else, in light and dark.

use std::{fs, io, path::Path};

use serde::Serialize;

mod markup;

mod document;

mod axis;

mod chart;
mod lines;
mod stages;

mod errors;

mod training;

pub use lines::Curve;
pub use training::{Picture, training_page};

use self::{
    chart::LimitLine,
    document::document,
    markup::Markup,
    stages::{ROWS_MAX, RowGroup, STAGES},
};
use super::{LoadReport, Series, TensorReport};
use crate::{
    config::Bytes,
    observe::{check_replace, write_whole},
    target::dense_types,
};

/// Rows of the table at most; more tensors are added up by layer.
const TABLE_MAX: usize = 2000;

/// `report.json`: the report, and what it leaves out of `--json`.
#[derive(Serialize)]
struct ReportFile<'a> {
    #[serde(flatten)]
    report: &'a LoadReport,
    /// `[seconds, bytes]`.
    host_bytes_over_time: &'a Series,
    device_bytes_over_time: &'a Series,
}

impl LoadReport {
    /// Writes `index.html`, a page with pictures of memory over time, of the stages of every tensor and of its error
    /// where that was measured, and `report.json` with the same numbers, into `folder`, which is made if it is not
    /// there. The page needs no network and no other file.
    ///
    /// # Errors
    ///
    /// Where folder or files could not be written, or are files of something else ([`check_replace`]); the message names which.
    pub fn write_html(&self, folder: impl AsRef<Path>) -> io::Result<()> {
        let folder = folder.as_ref();
        let named = |path: &Path, written: io::Result<()>| {
            written.map_err(|error| {
                let reason = format!("{}: could not be written: {error}", path.display());
                io::Error::new(error.kind(), reason)
            })
        };
        named(folder, fs::create_dir_all(folder))?;
        let whole = ReportFile {
            report: self,
            host_bytes_over_time: &self.host_bytes,
            device_bytes_over_time: &self.device_bytes,
        };
        let json = serde_json::to_vec_pretty(&whole)?;
        let html = self.html();
        let files: [(_, &[u8], &[u8]); 2] = [
            ("index.html", html.as_bytes(), b"firebox</title>"),
            ("report.json", &json, b"\"model\""),
        ];
        // Both are looked at before one is written.
        let is_ours = |head: &[u8], mark: &[u8]| head.windows(mark.len()).any(|part| part == mark);
        for (file, _, mark) in files {
            let path = folder.join(file);
            named(&path, check_replace(&path, |head| is_ours(head, mark)))?;
        }
        for (file, bytes, mark) in files {
            let path = folder.join(file);
            named(&path, write_whole(&path, bytes, |head| is_ours(head, mark)))?;
        }
        Ok(())
    }

    /// The page.
    pub fn html(&self) -> String {
        document(&self.model, |markup| self.body(markup))
    }

    fn body(&self, markup: &mut Markup) {
        markup.element("h1", &[], &self.model);
        let rate = Bytes(self.bytes_per_second() as u64);
        let (tensors, seconds) = (self.tensors, self.seconds);
        let said = format_args!("{tensors} tensors in {seconds:.2} s, {rate}/s");
        markup.element("p", &[("class", &"note")], said);
        self.facts(markup);
        self.memory(markup);
        self.stages(markup);
        self.errors(markup);
        self.table(markup);
    }

    fn facts(&self, markup: &mut Markup) {
        let bytes =
            |bytes: Option<u64>| bytes.map_or("not told".to_owned(), |b| Bytes(b).to_string());
        let facts = [
            ("target", format!("{}: {}", self.target, self.device)),
            ("packed as", self.quant.clone()),
            (
                "dense type",
                dense_types(self.dtype, self.dtype_wanted, &self.halves),
            ),
            (
                "bits a linear weight",
                format!("{:.2}", self.bits_per_weight()),
            ),
            ("workers", self.workers.to_string()),
            ("read", self.read()),
            ("kept", Bytes(self.bytes_packed).to_string()),
            ("host memory before", bytes(self.host_bytes_before)),
            ("host memory at most", bytes(self.peak_host_bytes)),
        ];
        markup.within("dl", &[], |markup| {
            for (what, found) in facts {
                markup.within("div", &[], |markup| {
                    markup.element("dt", &[], what);
                    markup.element("dd", &[], found);
                });
            }
        });
        markup.newline();
    }

    fn read(&self) -> String {
        let bytes = Bytes(self.bytes_read);
        self.probe.map_or(bytes.to_string(), |probe| {
            format!("{bytes}, {}: {}", probe.chosen, probe.reason)
        })
    }

    fn memory(&self, markup: &mut Markup) {
        markup.element("h2", &[], "Host memory");
        let own = self.device_bytes.points().is_empty();
        // What the pipeline promises: weights that stay on the host, and what is in flight.
        let kept = if own { self.bytes_packed } else { 0 };
        let name = if own {
            "before + weights + in flight"
        } else {
            "before + in flight"
        };
        let promised = (name, Some(kept + self.in_flight_bytes_max));
        let budget = ("before + what the load may take", self.host_bytes_max);
        let before = self.host_bytes_before.unwrap_or_default();
        let limits: Vec<LimitLine> = [promised, budget]
            .into_iter()
            .filter_map(|(name, bytes)| {
                let bytes = before + bytes?;
                Some(LimitLine { name, bytes })
            })
            .collect();
        if self.host_bytes.points().is_empty() {
            markup.element("p", &[("class", &"note")], "This system does not tell.");
        } else {
            let said = "Anonymous memory of the process; pages of files do not count.";
            markup.element("p", &[("class", &"note")], said);
            chart::memory(markup, "host", &self.host_bytes, &limits, self.seconds);
        }
        if own {
            return;
        }
        markup.element("h2", &[], "Device memory");
        let said = "What the device has set aside, asked after every tensor.";
        markup.element("p", &[("class", &"note")], said);
        let limits = self.device_bytes_max.map(|bytes| LimitLine {
            name: "the model may take",
            bytes,
        });
        let limits: Vec<LimitLine> = limits.into_iter().collect();
        chart::memory(markup, "device", &self.device_bytes, &limits, self.seconds);
    }

    fn stages(&self, markup: &mut Markup) {
        markup.element("h2", &[], "Stages");
        let busy = [self.seconds_read, self.seconds_convert, self.seconds_place];
        markup.within("p", &[("class", &"legend note")], |markup| {
            for ((stage, _), seconds) in STAGES.iter().zip(busy) {
                markup.within("span", &[], |markup| {
                    let key = format!("key {stage}");
                    markup.element("span", &[("class", &key)], "");
                    markup.text(format_args!("{stage}, {seconds:.3} s at work"));
                });
            }
            markup.text("A bar reaches from the first tile to the last.");
        });
        let groups = stages::groups(&self.per_tensor, ROWS_MAX);
        stages::timeline(markup, &groups, self.seconds);
    }

    fn errors(&self, markup: &mut Markup) {
        markup.element("h2", &[], "Error by layer");
        if self.per_tensor.iter().all(|tensor| tensor.error.is_none()) {
            let said = "No weight was verified in this load, so nothing is known of errors.";
            markup.element("p", &[("class", &"note")], said);
            return;
        }
        let said = "Signal to quantization noise, a dot for each weight, or of very many the ends: \
                    more is better, 20 dB is a tenth.";
        markup.element("p", &[("class", &"note")], said);
        errors::errors(markup, &stages::layers(&self.per_tensor, ROWS_MAX));
    }

    fn table(&self, markup: &mut Markup) {
        let groups = stages::groups(&self.per_tensor, TABLE_MAX);
        markup.element("h2", &[], "Tensors");
        if groups.len() < self.per_tensor.len() {
            let said = "Added up by layer; report.json has every tensor.";
            markup.element("p", &[("class", &"note")], said);
        }
        let verified = self.per_tensor.iter().any(|tensor| tensor.error.is_some());
        let mut header = vec![
            "tensor",
            "packed as",
            "read",
            "kept",
            "read ms",
            "convert ms",
            "place ms",
        ];
        header.extend(verified.then_some("SQNR dB"));
        markup.within("div", &[("class", &"scroll")], |markup| {
            markup.within("table", &[], |markup| {
                markup.within("thead", &[], |markup| {
                    markup.within("tr", &[], |markup| {
                        for name in header {
                            markup.element("th", &[], name);
                        }
                    });
                });
                markup.within("tbody", &[], |markup| {
                    for group in &groups {
                        row(markup, group, verified);
                        markup.newline();
                    }
                });
            });
        });
    }
}

/// A tensor, or several added up.
fn row(markup: &mut Markup, group: &RowGroup<'_>, verified: bool) {
    let tensors = group.tensors;
    let bytes = |of: fn(&TensorReport) -> u64| Bytes(tensors.iter().map(of).sum()).to_string();
    let ms =
        |of: fn(&TensorReport) -> f64| format!("{:.2}", 1e3 * tensors.iter().map(of).sum::<f64>());
    let mut quants: Vec<String> = tensors
        .iter()
        .map(|tensor| tensor.quant.to_string())
        .collect();
    quants.sort();
    quants.dedup();
    let mut cells = vec![
        group.name.clone(),
        quants.join(" + "),
        bytes(|tensor| tensor.bytes_read),
        bytes(|tensor| tensor.bytes_packed),
        ms(|tensor| tensor.seconds_read),
        ms(|tensor| tensor.seconds_convert),
        ms(|tensor| tensor.seconds_place),
    ];
    if verified {
        let ratios = tensors
            .iter()
            .filter_map(|tensor| Some(tensor.error.as_ref()?.sqnr));
        let worst = ratios.reduce(f64::min);
        cells.push(worst.map_or(String::new(), |worst| {
            if worst == f64::INFINITY {
                "∞".to_owned()
            } else {
                format!("{worst:.2}")
            }
        }));
    }
    markup.within("tr", &[], |markup| {
        for cell in cells {
            markup.element("td", &[], cell);
        }
    });
}
