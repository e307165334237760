//! The command that makes a folder, for its card.

use serde_json::Value;

/// The command that makes such a folder, from what its record says was asked for.
pub(super) fn command(asked: &Value, base: Option<&str>) -> Option<String> {
    let quant = asked["quant"].as_str()?;
    let mut words = vec!["firebox".to_owned()];
    words.push(
        if quant == "none" {
            "convert"
        } else {
            "quantize"
        }
        .to_owned(),
    );
    words.push(quoted(base.unwrap_or("MODEL")));
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), quoted(&value)]);
    if quant != "none" {
        option("--quant", quant.to_owned());
    }
    for (field, name) in [
        ("rules", "--rule"),
        ("skip", "--skip"),
        ("candidates", "--candidate"),
    ] {
        for value in asked[field].as_array().into_iter().flatten() {
            option(name, text(value));
        }
    }
    if let Some(dialect) = asked["dialect"].as_str() {
        option("--to", dialect.to_owned());
    }
    if let Some(nested) = asked["nested"].as_bool() {
        option(
            "--scales",
            if nested { "nested" } else { "plain" }.to_owned(),
        );
    }
    for (field, name) in [
        ("presinq", "--presinq"),
        ("dequantize", "--dequantize"),
        ("requantize", "--requantize"),
    ] {
        if asked[field] == true {
            words.push(name.to_owned());
        }
    }
    // Nothing where it was not asked for.
    if let Some(bytes) = asked["shard_bytes"].as_u64() {
        words.extend(["--shard-size".to_owned(), size(bytes)]);
    }
    words.extend(["--out".to_owned(), "DIR".to_owned()]);
    Some(words.join(" "))
}

/// Bytes as the command line takes them, none of them lost.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 6] = [
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("KB", 1_000),
        ("KiB", 1 << 10),
    ];
    let mut units = UNITS.iter();
    let whole = units.find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or_else(
        || bytes.to_string(),
        |(name, unit)| format!("{}{name}", bytes / unit),
    )
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

pub(super) fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bytes;

    /// By what `--shard-size` reads: units of 1000 and of 1024.
    #[test]
    fn sizes_are_read_as_what_they_were() {
        for (bytes, shown) in [
            (800_000, "800KB"),
            (2_000_000_000, "2GB"),
            (3 << 20, "3MiB"),
            (4_096, "4KiB"),
            (1_234_567, "1234567"),
        ] {
            assert_eq!(size(bytes), shown);
            assert_eq!(shown.parse(), Ok(Bytes(bytes)), "{shown}");
        }
    }

    /// Catches a pattern that a shell would expand.
    #[test]
    fn words_of_the_command_are_quoted() {
        assert_eq!(quoted("nf4:block=64"), "nf4:block=64");
        assert_eq!(quoted("*.mlp.*=none"), "'*.mlp.*=none'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
