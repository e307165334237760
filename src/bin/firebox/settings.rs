//! `--config FILE`: flags of a command as TOML. Flags on the command line come before the file.
//!
//! The file is turned into flags before the command line is read, so that every value is checked as a flag is.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Args, Command};
use firebox::{
    config::Bytes,
    train::{FinetuneConfig, FinetuneConfigError},
};
use toml::Value;

use crate::{Failure, output::Usage};

/// Settings in a file.
#[derive(Debug, Clone, Args)]
pub(crate) struct SettingsArgs {
    /// Read flags from a TOML file, as `recommend` writes it: their names without the dashes, with the values that they take. Flags
    /// on the command line come before the file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Bytes of a file of settings at most.
const SETTINGS_BYTES_MAX: u64 = 1 << 20;

/// The settings of a file.
pub(crate) fn read(file: &Path) -> Result<toml::Table, Failure> {
    let failed = |error: io::Error| format!("{}: {error}", file.display());
    let mut text = Vec::new();
    let mut from = fs::File::open(file)
        .map_err(failed)?
        .take(SETTINGS_BYTES_MAX + 1);
    from.read_to_end(&mut text).map_err(failed)?;
    if from.limit() == 0 {
        let most = Bytes(SETTINGS_BYTES_MAX);
        return Err(wrong(
            file,
            &format_args!("it has more than {most}; name a file of settings"),
        ));
    }
    let text = String::from_utf8(text).map_err(|error| wrong(file, &error.utf8_error()))?;
    toml::from_str(&text).map_err(|error| wrong(file, &error))
}

/// What a file of settings says is wrong.
pub(crate) fn wrong(file: &Path, reason: &dyn fmt::Display) -> Failure {
    Usage(format!("{}: {reason}", file.display())).into()
}

/// The command line with the flags of its settings file, where it names one; `keeps` says which settings a command reads by itself.
pub(crate) fn expanded(
    all: &Command,
    args: Vec<OsString>,
    keeps: impl Fn(&str, &str) -> bool,
) -> Result<Vec<OsString>, Failure> {
    let place = args.iter().skip(1).position(|arg| !starts(arg, "-"));
    let Some(place) = place.map(|place| place + 1) else {
        return Ok(args);
    };
    let name = args[place].to_string_lossy().into_owned();
    let Some(command) = all.find_subcommand(&name) else {
        return Ok(args);
    };
    if flag(command, "config").is_none() {
        return Ok(args);
    }
    let end = args
        .iter()
        .position(|arg| arg == "--")
        .unwrap_or(args.len());
    let given = &args[place + 1..end];
    let Some(file) = value_of(given, "--config") else {
        return Ok(args);
    };
    let file = PathBuf::from(file);
    let mut flags = Vec::new();
    for (key, value) in read(&file)? {
        let key = key.replace('_', "-");
        if keeps(&name, &key) || is_given(given, &key) {
            continue;
        }
        match flag(command, &key) {
            Some(arg) if key != "config" => {
                let written = written(arg, &key, &value);
                flags.extend(written.map_err(|why| wrong(&file, &format_args!("`{key}` {why}")))?);
            }
            // A file may serve several commands.
            None if all
                .get_subcommands()
                .any(|other| flag(other, &key).is_some()) =>
            {
                tracing::debug!("{}: `{key}` is no setting of {name}", file.display());
            }
            _ => {
                let advice = match FinetuneConfig::refused(&key, "") {
                    FinetuneConfigError::Key {
                        nearest: Some(nearest),
                        ..
                    } if flag(command, nearest).is_some() => format!("did you mean `{nearest}`?"),
                    _ => format!(
                        "`firebox {name} --help` lists its flags, which have the same names"
                    ),
                };
                let reason = format_args!("`{key}` is no setting of {name}; {advice}");
                return Err(wrong(&file, &reason));
            }
        }
    }
    let mut args = args;
    args.splice(place + 1..place + 1, flags);
    Ok(args)
}

fn flag<'c>(command: &'c Command, long: &str) -> Option<&'c Arg> {
    let mut args = command.get_arguments();
    args.find(|arg| arg.get_long() == Some(long))
}

fn starts(arg: &OsString, with: &str) -> bool {
    arg.as_encoded_bytes().starts_with(with.as_bytes())
}

fn is_given(args: &[OsString], key: &str) -> bool {
    let (alone, with) = (format!("--{key}"), format!("--{key}="));
    args.iter().any(|arg| *arg == *alone || starts(arg, &with))
}

/// The value of a flag that is given as `--flag value` or `--flag=value`.
fn value_of(args: &[OsString], flag: &str) -> Option<OsString> {
    let with = format!("{flag}=");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == flag {
            return args.next().cloned();
        }
        let text = arg.to_str().and_then(|arg| arg.strip_prefix(&*with));
        if let Some(text) = text {
            return Some(text.into());
        }
    }
    None
}

/// A setting as flags.
fn written(arg: &Arg, key: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let plain = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(is) => Ok(is.to_string()),
        other => Err(format!(
            "is {other}; write a text, a number, true or false, or a list of them"
        )),
    };
    let with = |text: &str| OsString::from(format!("--{key}={text}"));
    if let ArgAction::SetTrue = arg.get_action() {
        return match value {
            Value::Boolean(true) => Ok(vec![format!("--{key}").into()]),
            Value::Boolean(false) => Ok(Vec::new()),
            other => Err(format!("is {other}, and has to be true or false")),
        };
    }
    match value {
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(plain).collect::<Result<_, _>>()?;
            Ok(match arg.get_action() {
                ArgAction::Append => values.iter().map(|text| with(text)).collect(),
                _ => vec![with(&values.join(","))],
            })
        }
        value => Ok(vec![with(&plain(value)?)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let flag = |name: &'static str| Arg::new(name).long(name);
        let load = Command::new("load")
            .arg(flag("config"))
            .arg(flag("quant"))
            .arg(flag("presinq").action(ArgAction::SetTrue))
            .arg(flag("rule").action(ArgAction::Append))
            .arg(flag("devices"));
        let plan = Command::new("plan").arg(flag("length"));
        Command::new("firebox").subcommand(load).subcommand(plan)
    }

    fn expand(text: &str, args: &[&str]) -> Result<Vec<String>, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("writable");
        let file = format!("--config={}", file.path().display());
        let all = ["firebox", "load", "MODEL", &file];
        let args = all.iter().chain(args).map(OsString::from).collect();
        let expanded = expanded(&command(), args, |_, key| key == "kept");
        let expanded = expanded.map_err(|error| error.to_string())?;
        let given = expanded
            .into_iter()
            .map(|arg| arg.into_string().expect("UTF-8"));
        Ok(given.filter(|arg| *arg != file).collect())
    }

    /// Would catch a flag that the file overrides, one that is read twice, and lists and switches that are written wrongly.
    #[test]
    fn settings_become_flags_before_those_that_are_given() {
        // In the order of their names; rules keep their order.
        let text = "devices = [0, 1]\nkept = 1\nlength = 5\npresinq = true\nquant = 'nf4'\nrule = ['a=nf4', 'b=fp8']\n";
        let expected = [
            "firebox",
            "load",
            "--devices=0,1",
            "--presinq",
            "--quant=nf4",
            "--rule=a=nf4",
            "--rule=b=fp8",
            "MODEL",
        ];
        assert_eq!(expand(text, &[]), Ok(expected.map(String::from).into()));
        let given = expand(text, &["--quant", "int8", "--rule=c=int8"]);
        let expected = [
            "firebox",
            "load",
            "--devices=0,1",
            "--presinq",
            "MODEL",
            "--quant",
            "int8",
            "--rule=c=int8",
        ];
        assert_eq!(given, Ok(expected.map(String::from).into()));
        assert_eq!(
            expand("presinq = false", &[]),
            Ok(["firebox", "load", "MODEL"].map(String::from).into())
        );
    }

    #[test]
    fn what_is_no_setting_is_refused_by_name() {
        for (text, parts) in [
            ("quannt = 'nf4'", &["`quannt`", "no setting of load"][..]),
            ("quant = { a = 1 }", &["`quant`", "write a text"]),
            ("presinq = 'yes'", &["`presinq`", "true or false"]),
            ("quant = ", &["quant"]),
        ] {
            let error = expand(text, &[]).expect_err(text);
            for part in parts {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
    }
}
