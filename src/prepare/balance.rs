//! Pre-SINQ: columns of weights are balanced before they are packed, and the layer that makes their input takes up the
//! factors.
//!
//! A format whose values share a scale loses most where some of them are much larger than others. The scales make up for
//! large rows, and not for large columns. So every column is divided by a factor, and the feature that it
//! multiplies gets that factor where it is made, in the norm or the layer before: nothing is computed later that was not
//! computed before, and any format and dialect takes the result.
//!
//! The factors are those of SINQ (Sinkhorn-normalized quantization, arXiv 2509.22944), found by Sinkhorn's iteration:
//! with rows of equal mean square, each column is divided by its mean square, again and again. The paper
//! alternates short steps over a matrix in memory. Here one step is one pass over the weights: a row is divided by its
//! own mean square as it passes, under the factors so far, so that rows are balanced in every step and memory is
//! one tile. All matrices of a [`Link`] are rows of one matrix.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::{
    model::Link,
    observe::{Event, tell},
    pipeline::{Original, PipelineError, RowReader, Settings, StepReads, fetching, read_error},
    plan::{Plan, Step},
    source::Source,
};

/// Passes over the weights. After two, factors move by less than a percent.
const STEPS: usize = 4;

/// The most that a factor may differ from the mean of its link: a column of almost nothing would take a norm out of the
/// range of f16.
const FACTOR_MAX: f64 = 64.0;

/// Rows whose sums are added in `f32`. Fixed, so that sums depend on neither threads nor memory.
const ROWS: usize = 16;

/// Finds the factors for every link of `plan` and leaves them in its steps. Weights are read [`STEPS`] times.
///
/// # Errors
///
/// [`PipelineError::Read`], [`PipelineError::Workers`], [`PipelineError::Cancelled`].
pub(crate) fn balance(
    plan: &mut Plan,
    source: &dyn Source,
    settings: &Settings<'_>,
) -> Result<(), PipelineError> {
    if plan.links.is_empty() {
        return Ok(());
    }
    let places: HashMap<String, usize> = (plan.steps.iter().enumerate())
        .map(|(place, step)| (step.slot.name.clone(), place))
        .collect();
    let to = |link: &Link| -> Vec<&Step> {
        let names = link.to.iter();
        names.map(|name| &plan.steps[places[name]]).collect()
    };
    let passes = plan.links.iter().flat_map(|link| {
        let to = to(link);
        (0..STEPS).flat_map(move |_| to.clone())
    });
    let reads = passes.map(StepReads::of_pass);
    let bytes = settings.in_flight.free() / 4 * 3;
    let all = fetching(source, reads, (&settings.in_flight, bytes), |reading| {
        let reader = RowReader::new(reading, settings)?;
        let mut passed = 0;
        let links = plan.links.iter().map(|link| {
            let factors = factors(link, &to(link), &reader, &mut passed)?;
            let event = Event::Balanced { link };
            tell(settings.observer, &event, 0, plan.steps.len())?;
            Ok(factors)
        });
        links.collect::<Result<Vec<_>, PipelineError>>()
    })?;
    for (link, factors) in plan.links.iter().zip(all) {
        let inverse = factors
            .iter()
            .map(|factor| (1.0 / f64::from(*factor)) as f32);
        let columns = factors.len() * link.times;
        let columns = (0..columns).map(|column| factors[link.feature(column)]);
        let [rows, columns] = [inverse.collect(), columns.collect()].map(Some);
        for name in &link.from {
            plan.steps[places[name]].scaling.rows.clone_from(&rows);
        }
        for name in &link.to {
            plan.steps[places[name]].scaling.cols.clone_from(&columns);
        }
    }
    Ok(())
}

/// The factors of the columns of every feature; their geometric mean is 1. `passed` counts the passes over weights.
fn factors(
    link: &Link,
    to: &[&Step],
    reader: &RowReader<'_>,
    passed: &mut usize,
) -> Result<Vec<f32>, PipelineError> {
    let cols = to.first().map_or(0, |step| step.matrix()[1]);
    let mut factors = vec![1.0_f64; cols / link.times];
    for _ in 0..STEPS {
        let columns: Vec<f32> = (0..cols)
            .map(|column| factors[link.feature(column)] as f32)
            .collect();
        let mut sums = vec![0.0; cols];
        for step in to {
            add(step, &columns, reader, &mut sums)?;
            reader.finished(*passed);
            *passed += 1;
        }
        let mut squares = vec![0.0; factors.len()];
        for (column, sum) in sums.iter().enumerate() {
            squares[link.feature(column)] += sum;
        }
        // Each row contributes 1, so the sums have a known total; the constant cancels in the ratio.
        let used = squares
            .iter()
            .filter(|square| **square > 0.0 && square.is_finite());
        let mean = used.clone().sum::<f64>() / used.count().max(1) as f64;
        for (factor, square) in factors.iter_mut().zip(&squares) {
            // A column of zeros has no factor, one with a NaN none that would help.
            if *square > 0.0 && square.is_finite() {
                *factor *= (mean / square).sqrt();
            }
        }
    }
    Ok(centred(&factors))
}

/// Factors over their geometric mean, within [`FACTOR_MAX`] of it.
fn centred(factors: &[f64]) -> Vec<f32> {
    let logs = factors.iter().map(|factor| factor.ln());
    let mean = logs.sum::<f64>() / factors.len().max(1) as f64;
    let most = FACTOR_MAX.ln();
    let centred = factors
        .iter()
        .map(|factor| (factor.ln() - mean).clamp(-most, most));
    centred.map(|log| log.exp() as f32).collect()
}

/// Adds to `sums` the squares of each column of a weight, its columns multiplied and each row divided by its own mean
/// square.
fn add(
    step: &Step,
    columns: &[f32],
    reader: &RowReader<'_>,
    sums: &mut [f64],
) -> Result<(), PipelineError> {
    let original = Original::of(step);
    let (dtype, [rows, cols]) = (original.dtype, original.shape);
    let row_bytes = cols * dtype.size();
    for tile in reader.tiles(&original, 0..rows, ROWS) {
        let tile = tile.map_err(|source| read_error(step, source))?;
        let of_rows = |bytes: &[u8]| {
            let (mut row, mut sums) = (vec![0.0; cols], vec![0.0; cols]);
            for bytes in bytes.chunks(row_bytes) {
                dtype.widen(bytes, &mut row);
                add_row(&mut row, columns, &mut sums);
            }
            sums
        };
        let parts: Vec<Vec<f32>> = reader.workers().install(|| {
            let parts = tile.bytes().par_chunks(ROWS * row_bytes).map(of_rows);
            parts.collect()
        });
        for part in parts {
            for (sum, part) in sums.iter_mut().zip(part) {
                *sum += f64::from(part);
            }
        }
    }
    Ok(())
}

/// Squares of one row, so that their mean is 1.
fn add_row(row: &mut [f32], columns: &[f32], sums: &mut [f32]) {
    /// Sums side by side, so that the loop becomes vector code.
    const LANES: usize = 16;
    let mut lanes = [0.0_f32; LANES];
    for (values, factors) in row.chunks_mut(LANES).zip(columns.chunks(LANES)) {
        for ((value, factor), lane) in values.iter_mut().zip(factors).zip(&mut lanes) {
            let scaled = *value * factor;
            *value = scaled * scaled;
            *lane += *value;
        }
    }
    let square = lanes.iter().sum::<f32>();
    // A row of zeros has no information about its columns.
    if square > 0.0 {
        let unit = row.len() as f32 / square;
        for (sum, square) in sums.iter_mut().zip(row) {
            *sum += *square * unit;
        }
    }
}
