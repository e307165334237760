//! The end of a run: its adapter and its page.

use super::{
    checkpoint::{CheckpointFault, PREFIX, RunProgress},
    config::FinetuneConfig,
    error::TrainError,
    folder::write_folder,
    report::{ADAPTER, BEST, PAGE, RunReport, write_page},
};
use crate::adapter::AdapterFile;

/// Writes adapter and page of a run that is over: the adapter of its last checkpoint, or the one with the lowest perplexity where
/// the run waited for a lower one.
pub(super) fn finish(
    config: &FinetuneConfig,
    progress: &RunProgress,
    report: &RunReport,
) -> Result<(), TrainError> {
    let out = &config.out;
    let last = out.join(format!("{PREFIX}{}", progress.step));
    let from = match config.patience.is_some() && progress.best_loss.is_some() {
        true => out.join(BEST),
        false => last.clone(),
    };
    if config.trains_adapter() {
        let file = AdapterFile::open(&from)?;
        let written = write_folder(&out.join(ADAPTER), |part| {
            file.save(part).map_err(CheckpointFault::from)
        });
        written.map_err(|source| TrainError::Unsaved {
            step: progress.step,
            source: Box::new(source),
            kept: Some(last),
        })?;
    }
    let title = out.file_name().unwrap_or(out.as_os_str());
    let page = write_page(out, &title.to_string_lossy(), report);
    page.map_err(|source| TrainError::File {
        file: out.join(PAGE),
        source,
    })
}
