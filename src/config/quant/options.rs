//! Options after the colon: each at most once, each known.

use super::error::SpecError;

/// The value of an option, and the option as it was written.
pub(super) type Said<'a, T> = Option<(&'a str, T)>;

/// Records the value of an option, at most once.
pub(super) fn say<'a, T>(
    spec: &str,
    said: &mut Said<'a, T>,
    option: &'a str,
    value: T,
) -> Result<(), SpecError> {
    match said {
        Some((first, _)) => Err(SpecError::Repeated {
            spec: spec.to_owned(),
            first: (*first).to_owned(),
            second: option.to_owned(),
        }),
        None => {
            *said = Some((option, value));
            Ok(())
        }
    }
}

pub(super) fn no_options<'a>(
    spec: &str,
    method: &'static str,
    mut options: impl Iterator<Item = &'a str>,
) -> Result<(), SpecError> {
    match options.next() {
        None => Ok(()),
        Some(option) => Err(unknown_option(spec, method, option, "no options")),
    }
}

pub(super) fn unknown_option(
    spec: &str,
    method: &'static str,
    option: &str,
    known: &'static str,
) -> SpecError {
    SpecError::Option {
        spec: spec.to_owned(),
        method,
        option: option.to_owned(),
        known,
    }
}

/// Records the value of the option `name`, or reports the values that it can have.
pub(super) fn set<'a, T>(
    spec: &str,
    said: &mut Said<'a, T>,
    option: &'a str,
    (name, text): (&'static str, &str),
    known: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<(), SpecError> {
    let value = read(text).ok_or_else(|| SpecError::Value {
        spec: spec.to_owned(),
        option: name,
        value: text.to_owned(),
        known,
    })?;
    say(spec, said, option, value)
}
