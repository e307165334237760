//! Checkpoints without a `tokenizer.json`, against transformers.

use std::{collections::BTreeMap, fs, path::PathBuf};

use firebox::text::{SpecialTokens, Tokenizer, TokenizerFiles};
use serde_json::Value;

use super::{golden, ids};

/// What transformers made of some files, and what its tokenizer then answered.
struct Case {
    name: String,
    files: BTreeMap<String, Vec<u8>>,
    golden: Value,
}

impl Case {
    fn tokenizer(&self) -> Tokenizer {
        let read = |file: &str| self.files.get(file).map(Vec::as_slice);
        let vocabulary = ["tokenizer.model", "tiktoken.model", "spiece.model", "qwen.tiktoken"]
            .into_iter()
            .find_map(|file| Some((file, read(file)?)));
        let model: Value = serde_json::from_slice(read("config.json").unwrap()).unwrap();
        Tokenizer::from_bytes(TokenizerFiles {
            at: &self.name,
            tokenizer_json: read("tokenizer.json"),
            vocabulary,
            vocab_json: read("vocab.json"),
            merges_txt: read("merges.txt"),
            config: read("tokenizer_config.json"),
            special_tokens_map: read("special_tokens_map.json"),
            added_tokens: read("added_tokens.json"),
            model_config: Some(&model),
            ..TokenizerFiles::default()
        })
        .unwrap_or_else(|error| panic!("{}: {error:?}", self.name))
    }
}

fn folder() -> PathBuf {
    std::env::var("CONVERTED").map_or_else(|_| golden().join("tokenizer/converted"), PathBuf::from)
}

fn cases() -> (Vec<String>, Vec<Case>) {
    let folder = folder();
    let file = fs::read(folder.join("cases.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    let texts = file["texts"].as_array().unwrap().iter();
    let texts = texts.map(|text| text.as_str().unwrap().to_owned()).collect();
    let cases = file["cases"].as_array().unwrap().iter().map(|golden| {
        let mut files = BTreeMap::new();
        for (name, source) in golden["files"].as_object().unwrap() {
            let bytes = fs::read(folder.join(source.as_str().unwrap())).unwrap();
            files.insert(name.clone(), bytes);
        }
        for (name, value) in golden["json"].as_object().unwrap() {
            files.insert(name.clone(), value.to_string().into_bytes());
        }
        Case {
            name: golden["name"].as_str().unwrap().to_owned(),
            files,
            golden: golden.clone(),
        }
    });
    (texts, cases.collect())
}

/// A class that is not the one of transformers, a rule of it that differs, a merge in another order, an added token with
/// another id or property: each changes ids of these texts.
#[test]
fn ids_and_texts_are_those_of_transformers() {
    let (texts, cases) = cases();
    let mut wrong = 0;
    for case in &cases {
        let tokenizer = case.tokenizer();
        let golden = &case.golden;
        let class = golden["cls"].as_str().unwrap();
        let id = |id: &Value| id.as_u64().map(|id| id as u32);
        let mut bad = Vec::new();
        if !tokenizer.made_from().ends_with(class) && !case.files.contains_key("tokenizer.json") { bad.push(format!("{} {class}", tokenizer.made_from())); }
        if tokenizer.vocab_size() as u64 != golden["size"].as_u64().unwrap() { bad.push(format!("size {} {}", tokenizer.vocab_size(), golden["size"])); }
        if tokenizer.bos() != id(&golden["bos"]) { bad.push(format!("bos {:?} {}", tokenizer.bos(), golden["bos"])); }
        if tokenizer.pad() != id(&golden["pad"]) { bad.push(format!("pad {:?} {}", tokenizer.pad(), golden["pad"])); }
        if tokenizer.eos_ids() != id(&golden["eos"]).into_iter().collect::<Vec<_>>() { bad.push(format!("eos {:?} {}", tokenizer.eos_ids(), golden["eos"])); }
        for (at, text) in texts.iter().enumerate() {
            let with = tokenizer.encode(text, SpecialTokens::Include).unwrap();
            if with != ids(&golden["ids"][at]) { bad.push(format!("{text:?} {with:?} {}", golden["ids"][at])); }
            let plain = tokenizer.encode(text, SpecialTokens::Omit).unwrap();
            if plain != ids(&golden["plain"][at]) { bad.push(format!("plain {text:?} {plain:?} {}", golden["plain"][at])); }
            for (special, field) in [(SpecialTokens::Omit, "skip"), (SpecialTokens::Include, "keep")] {
                let golden_text = golden[field][at].as_str().unwrap();
                let ids = ids(&golden["ids"][at]);
                let decoded = tokenizer.decode(&ids, special).unwrap();
                if decoded != golden_text { bad.push(format!("{field} {text:?} {decoded:?} {golden_text:?}")); }
                let mut stream = tokenizer.stream(special);
                let mut streamed = String::new();
                for id in ids { if let Some(piece) = stream.push(id).unwrap() { streamed += &piece; } }
                streamed += &stream.finish().unwrap();
                if streamed != golden_text { bad.push(format!("stream {field} {text:?} {streamed:?} {golden_text:?}")); }
            }
        }
        if !bad.is_empty() { wrong += 1; println!("{}: {} wrong", case.name, bad.len()); for b in bad.iter().take(4) { println!("   {b}"); } }
    }
    assert_eq!(wrong, 0, "of {}", cases.len());
}
