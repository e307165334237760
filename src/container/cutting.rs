//! How a text is cut before pairs of bytes merge: `tokenizer.ggml.pre`, and `pre_tokenizer` of `tokenizer.json`.

use serde_json::{Value, json};

use super::cuttings::{CUTTINGS, Cutting, TextCut};

/// The expression of GPT-2.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

impl Cutting {
    /// The one that a file names.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        let mut cuttings = CUTTINGS.iter();
        cuttings.find(|cutting| cutting.names.contains(&name))
    }

    /// Every name, for messages.
    pub(super) fn known() -> String {
        let names = CUTTINGS.iter().flat_map(|cutting| cutting.names);
        let mut names: Vec<&str> = names.copied().collect();
        names.sort_unstable();
        names.join(", ")
    }

    /// The one of a `tokenizer.json`. Its normal form is no matter: llama.cpp has none.
    pub(super) fn of(tokenizer: &Value) -> Result<&'static Self, String> {
        let mut cuts = Vec::new();
        let cutter = &tokenizer["pre_tokenizer"];
        collect(cutter, &mut cuts)?;
        let whole_words = tokenizer["model"]["ignore_merges"] == true;
        let normal_form = tokenizer["normalizer"]["type"] == "NFC";
        let is_same = |cutting: &&Cutting| {
            let own: Vec<String> = cutting.cuts.iter().map(TextCut::expression).collect();
            own == cuts && cutting.whole_words == whole_words
        };
        let fitting = || CUTTINGS.iter().filter(is_same);
        let best = fitting().find(|cutting| cutting.normal_form == normal_form);
        best.or_else(|| fitting().next()).ok_or_else(|| {
            format!(
                "llama.cpp has no name for its `pre_tokenizer`, which cuts at {}{}",
                cuts.join(" then "),
                if whole_words {
                    " and takes whole words"
                } else {
                    ""
                }
            )
        })
    }

    /// `pre_tokenizer` of `tokenizer.json`.
    pub(super) fn json(&self) -> Value {
        let bytes = |regex: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": regex,
            })
        };
        if self.cuts == [TextCut::Gpt2] {
            return bytes(true);
        }
        let cuts = self.cuts.iter().map(|cut| match cut {
            TextCut::Digits => json!({ "type": "Digits", "individual_digits": true }),
            TextCut::At(_) | TextCut::Gpt2 => json!({
                "type": "Split", "pattern": { "Regex": cut.expression() },
                "behavior": "Isolated", "invert": false,
            }),
        });
        let cuts: Vec<Value> = cuts.chain([bytes(false)]).collect();
        json!({ "type": "Sequence", "pretokenizers": cuts })
    }
}

impl TextCut {
    fn expression(&self) -> String {
        match self {
            Self::At(expression) => (*expression).to_owned(),
            Self::Digits => r"\p{N}".to_owned(),
            Self::Gpt2 => GPT2.to_owned(),
        }
    }
}

/// Adds the expressions of a `pre_tokenizer`, the last of which has to make bytes of the text.
fn collect(cutter: &Value, cuts: &mut Vec<String>) -> Result<(), String> {
    let refused = |what: &str| Err(format!("its `pre_tokenizer` has {what}"));
    match cutter["type"].as_str() {
        Some("Sequence") => {
            let parts = cutter["pretokenizers"].as_array();
            let mut parts = parts.into_iter().flatten();
            parts.try_for_each(|part| collect(part, cuts))
        }
        Some("ByteLevel") if cutter["add_prefix_space"] == true => {
            refused("a space put before each text, which llama.cpp does not have for byte pairs")
        }
        Some("ByteLevel") => {
            if cutter["use_regex"] != false {
                cuts.push(GPT2.to_owned());
            }
            Ok(())
        }
        Some("Digits") if cutter["individual_digits"] == true => {
            cuts.push(r"\p{N}".to_owned());
            Ok(())
        }
        Some("Digits") => {
            cuts.push(r"\p{N}+".to_owned());
            Ok(())
        }
        Some("Split") => {
            let isolated = cutter["behavior"] == "Isolated" && cutter["invert"] != true;
            // What is between the finds of an expression that finds all of a text is nothing.
            let removed = cutter["behavior"] == "Removed" && cutter["invert"] == true;
            match cutter["pattern"]["Regex"].as_str() {
                Some(expression) if isolated || removed => {
                    cuts.push(plain(expression));
                    Ok(())
                }
                _ => refused("a cut that is not at what an expression finds"),
            }
        }
        Some(other) => refused(&format!("a part of the type {other}")),
        None => refused("no type"),
    }
}

/// An expression with its line ends and group of endings as the list here writes them.
fn plain(expression: &str) -> String {
    let mut plain = expression.replace('\r', r"\r").replace('\n', r"\n");
    for spelt in [
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
        r"(?i:'[sdmt]|'ll|'ve|'re)",
        r"'(?i:[sdmt]|ll|ve|re)",
    ] {
        plain = plain.replace(spelt, r"(?i:'s|'t|'re|'ve|'m|'ll|'d)");
    }
    // Possessive counts find the same here, since what follows cannot find what they hold.
    plain.replace("?+", "?").replace("++", "+")
}
