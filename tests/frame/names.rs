//! One word a thing: no name of a type is defined twice in the library and its kernels.

use std::{collections::BTreeMap, path::Path};

use super::{imports::CRATES, scan::Crate};

/// Names that several types share, each with the reason. The table of terms in `lib.rs` says more.
const SHARED: [(&str, &str); 1] = [(
    "Direct",
    "one for Linux, one for systems without direct reads; only one is compiled",
)];

#[test]
fn no_name_means_two_types() {
    let mut defined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for folder in CRATES {
        for file in Crate::read(Path::new(folder)).files.values() {
            for name in types(&file.code) {
                let path = Path::new(folder).join(&file.path);
                let places = defined.entry(name).or_default();
                places.push(path.display().to_string());
            }
        }
    }
    let count = defined.len();
    defined.retain(|_, places| places.len() > 1);
    println!("{count} names of types, {} of several types", defined.len());
    for (name, reason) in SHARED {
        let shared = defined.remove(name).is_some();
        assert!(
            shared,
            "{name} ({reason}) is not shared any more: strike it out"
        );
    }
    let wrong: Vec<String> = defined
        .iter()
        .map(|(name, places)| format!("{name}: {}", places.join(", ")))
        .collect();
    assert!(
        wrong.is_empty(),
        "several types have these names:\n{}",
        wrong.join("\n")
    );
}

/// Names that the code defines as a struct, an enum, a trait or an alias; associated types are none.
fn types(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    // Aliases inside an `impl` or a `trait` are indented.
    for line in code.lines() {
        let indented = line.starts_with(' ');
        let line = line.trim_start();
        let line = match line.strip_prefix("pub") {
            Some(rest) => rest
                .strip_prefix('(')
                .and_then(|rest| rest.split_once(')'))
                .map_or(rest, |(_, rest)| rest)
                .trim_start(),
            None => line,
        };
        let kinds = ["struct ", "enum ", "trait ", "union ", "type "];
        let kind = kinds.iter().find(|kind| line.starts_with(**kind));
        let Some(kind) = kind.filter(|kind| !(indented && **kind == "type ")) else {
            continue;
        };
        let name = &line[kind.len()..];
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        found.push(name[..end.unwrap_or(name.len())].to_owned());
    }
    found
}

#[test]
fn names_of_types_are_found() {
    let code = "pub struct A;\npub(crate) enum B<T> {}\n    struct C(u8);\nimpl A {\n    type Output = B;\n}\ntype D = A;\nlet structure = 1;\n";
    assert_eq!(types(code), ["A", "B", "C", "D"]);
}
