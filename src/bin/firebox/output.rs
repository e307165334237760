//! Printing: JSON, tables, errors with their causes, logs.

use std::{
    error::Error,
    ffi::OsString,
    fmt::{self, Display},
    io::{self, ErrorKind, Write, stderr, stdout},
    sync::OnceLock,
};

use comfy_table::{CellAlignment, Table, presets};
use firebox::{
    source::{self, FetchTotals},
    train::{FinetuneConfigError, TrainError},
};
use serde::Serialize;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{Failure, stops::Signalled};

/// A call that is wrong whatever the model and the machine: an option or a setting of a file that cannot be, or does not go with
/// another one.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}

/// What the program ends with after a failure: 2 where the command line or the file of settings is wrong, as clap does, 128 and the
/// signal for training that a signal ended, 1 for everything else.
pub(crate) fn code(failure: &(dyn Error + 'static)) -> u8 {
    if let Some(signalled) = failure.downcast_ref::<Signalled>() {
        return signalled.code();
    }
    let is_wrong = failure.is::<Usage>()
        || failure.is::<FinetuneConfigError>()
        || matches!(failure.downcast_ref(), Some(TrainError::Config(_)));
    if is_wrong { 2 } else { 1 }
}

/// One JSON value on stdout.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string_pretty(value)?)
}

/// What came over the network, in a line; nothing where nothing did.
pub(crate) fn fetched(fetched: Option<FetchTotals>) -> Result<(), Failure> {
    fetched.map_or(Ok(()), line)
}

/// An answer as JSON, with what came over the network beside its own fields.
#[derive(Serialize)]
pub(crate) struct WithFetched<A> {
    #[serde(flatten)]
    pub(crate) answer: A,
    #[serde(flatten)]
    pub(crate) fetched: Option<FetchTotals>,
}

/// A line on stdout. Whoever closed it (`| head`) has read enough, which is no failure.
pub(crate) fn line(line: impl Display) -> Result<(), Failure> {
    match text(format_args!("{line}\n")) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(format!("the output could not be written: {error}").into()),
        Ok(()) => Ok(()),
    }
}

/// Part of a line on stdout, seen at once.
pub(crate) fn text(text: impl Display) -> io::Result<()> {
    if !is_first() {
        return Ok(());
    }
    let mut stdout = stdout().lock();
    write!(stdout, "{text}")?;
    stdout.flush()
}

/// A line on stderr, for people. A stderr that is full or closed changes no answer and no exit code.
pub(crate) fn note(line: impl Display) {
    if is_first() {
        let _ = writeln!(stderr(), "{line}");
    }
}

/// Arguments with a user, a password or a signature in an address, and what is shown in their place.
static HIDDEN: OnceLock<Vec<(String, String)>> = OnceLock::new();

/// From now on errors that repeat one of these arguments say nothing that is secret in it.
pub(crate) fn hide_secrets(args: &[OsString]) {
    let args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
    let shown = args.map(|arg| (source::without_secrets(&arg), arg));
    let hidden = shown.filter(|(shown, arg)| shown != arg);
    let _ = HIDDEN.set(hidden.map(|(shown, arg)| (arg, shown)).collect());
}

/// A text without what is secret in arguments.
pub(crate) fn without_secrets(text: &str) -> String {
    let hidden = HIDDEN.get().map_or(&[][..], |hidden| hidden);
    hidden.iter().fold(text.to_owned(), |text, (arg, shown)| {
        // An option and its value may be one argument.
        let value = |text: &str| Some(text.split_once('=')?.1.to_owned());
        let of_option = arg.starts_with("--").then(|| value(arg).zip(value(shown)));
        let text = text.replace(arg, shown);
        match of_option.flatten() {
            Some((arg, shown)) => text.replace(&arg, &shown),
            None => text,
        }
    })
}

/// The error that the program ends with, on stderr; of several ranks, which one's.
pub(crate) fn failed(failure: &dyn Error) {
    let chain = without_secrets(&chain(failure));
    let line = match RANK.get() {
        Some(rank) => format!("error: rank {rank}: {chain}\n"),
        None => format!("error: {chain}\n"),
    };
    // At once: several ranks share one stderr.
    let _ = stderr().write_all(line.as_bytes());
}

/// The number of this process among several ranks.
static RANK: OnceLock<usize> = OnceLock::new();

/// From now on this process is one of several ranks, of which the first prints for all.
pub(crate) fn as_rank(rank: usize) {
    let _ = RANK.set(rank);
}

/// Whether this process writes what the program is asked for.
pub(crate) fn is_first() -> bool {
    RANK.get().is_none_or(|rank| *rank == 0)
}

/// A table that Markdown understands too: text to the left, numbers (`right`) to the right.
pub(crate) fn table<R>(header: &[&str], right: &[usize], rows: R) -> Table
where
    R: IntoIterator<Item = Vec<String>>,
{
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_header(header.iter().copied())
        .add_rows(rows);
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// An error and its causes in one line, without saying twice what a cause repeats.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Logs to stderr: warnings, or as much as `-v` and `RUST_LOG` ask for. Without colours, so that `NO_COLOR` needs no special case.
pub(crate) fn log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    // Those print the bytes of requests, keys and tokens among them, whatever is asked for.
    let quiet = ["ureq=warn", "ureq_proto=warn", "rustls=warn"].map(str::parse);
    let filter = quiet
        .into_iter()
        .flatten()
        .fold(filter, EnvFilter::add_directive);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(false)
        // Such an error is printed to stderr, and a panic where that fails too.
        .log_internal_errors(false)
        .with_target(false)
        .init();
}
