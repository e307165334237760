//! Numbers of layers in the declaration of a quantization: modules that are skipped, or packed in another way.

use serde_json::{Map, Value};

use super::{ExpandError, Expansion};

/// The names of modules in a declaration, with the numbers that layers have after the expansion.
#[derive(Debug, Clone, Copy)]
pub(super) struct Renumber<'n> {
    pub(super) expansion: Expansion,
    /// What comes before the number of a layer: `layers`.
    pub(super) layers: &'n str,
}

impl Renumber<'_> {
    /// The same declaration. An entry about a layer that is copied is about the copy too.
    pub(super) fn declaration(self, value: &Value) -> Result<Value, ExpandError> {
        match value {
            Value::Array(entries) => {
                let mut renumbered = Vec::new();
                for entry in entries {
                    match entry {
                        Value::String(name) => {
                            renumbered.extend(self.names(name)?.into_iter().map(Value::from));
                        }
                        other => renumbered.push(self.declaration(other)?),
                    }
                }
                Ok(renumbered.into())
            }
            Value::Object(fields) => {
                let mut renumbered = Map::new();
                for (name, value) in fields {
                    let value = self.declaration(value)?;
                    for name in self.names(name)? {
                        renumbered.insert(name, value.clone());
                    }
                }
                Ok(renumbered.into())
            }
            other => Ok(other.clone()),
        }
    }

    /// A name with the new number of its layer, and with that of the copy.
    fn names(self, name: &str) -> Result<Vec<String>, ExpandError> {
        for (at, _) in name.match_indices(self.layers) {
            let (before, after) = (&name[..at], &name[at + self.layers.len()..]);
            if before.ends_with(|letter: char| letter.is_alphanumeric() || letter == '_') {
                continue;
            }
            let plain = after.strip_prefix('.');
            let digits = plain.map_or(0, |rest| {
                rest.bytes().take_while(u8::is_ascii_digit).count()
            });
            if digits > 0 {
                let rest = &after[1 + digits..];
                let old: usize = after[1..=digits].parse().unwrap_or(usize::MAX);
                let ends = rest.is_empty() || rest.starts_with(['.', '*', '\\', '$']);
                if ends && old < usize::MAX {
                    let places = self.expansion.places(old);
                    let name = |new| format!("{before}{}.{new}{rest}", self.layers);
                    return Ok(places.map(name).collect());
                }
            }
            let number = after.trim_start_matches(['\\', '.', '[', '(', '^', '?', ':', '{']);
            let is_numbered = number.len() < after.len()
                && number.starts_with(|letter: char| letter.is_ascii_digit());
            if is_numbered {
                return Err(ExpandError::Declared {
                    entry: name.to_owned(),
                });
            }
        }
        Ok(vec![name.to_owned()])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn renumbered(value: &Value) -> Result<Value, ExpandError> {
        let expansion = Expansion::new(4, 2).expect("2 divides 4");
        let layers = "layers";
        Renumber { expansion, layers }.declaration(value)
    }

    /// Of 4 layers with 2 copies, 1 is copied to 2, and 2 becomes 3.
    #[test]
    fn entries_follow_their_layers() {
        let before = json!({
            "bits": 4,
            "ignore": ["lm_head", "model.layers.1.mlp", "model.layers.2", "re:.*layers.*w2"],
            "model.layers.3.mlp.down_proj": { "bits": 8 },
            "mtp.players.1.mlp": false,
        });
        let after = json!({
            "bits": 4,
            "ignore": [
                "lm_head", "model.layers.1.mlp", "model.layers.2.mlp", "model.layers.3", "re:.*layers.*w2"
            ],
            "model.layers.4.mlp.down_proj": { "bits": 8 },
            "model.layers.5.mlp.down_proj": { "bits": 8 },
            "mtp.players.1.mlp": false,
        });
        assert_eq!(renumbered(&before).expect("names"), after);
    }

    #[test]
    fn expressions_with_numbers_are_refused() {
        for entry in [
            r"re:.*layers\.1\..*",
            "re:model.layers.(0|1).mlp",
            "model.layers.[0-2].mlp",
        ] {
            let error = renumbered(&json!({ "ignore": [entry] })).expect_err(entry);
            assert!(error.to_string().contains(entry), "{error}");
        }
        let any = json!({ "ignore": [r"re:.*layers\.\d+\.mlp"] });
        assert_eq!(renumbered(&any).expect("no number"), any);
    }
}
