//! Rooms import only rooms above them, in the order of `lib.rs`, and no two files import each other, directly or around.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::scan::{Crate, Module};

/// The library and its kernels.
pub(crate) const CRATES: [&str; 2] = ["src", "kernels/src"];

#[test]
fn rooms_import_only_rooms_above_them() {
    for folder in CRATES {
        let wrong = backward(&Crate::read(Path::new(folder)));
        assert!(
            wrong.is_empty(),
            "{folder}: these run against the order of `mod` lines in lib.rs:\n{}",
            wrong.join("\n")
        );
    }
}

#[test]
fn no_files_import_each_other_around() {
    for folder in CRATES {
        let sources = Crate::read(Path::new(folder));
        let circles = circles(&sources);
        let largest = circles.iter().map(Vec::len).max().unwrap_or(0);
        println!(
            "{folder}: {} files, {} circles, {largest} files in the largest",
            sources.files.len(),
            circles.len()
        );
        let circles: Vec<String> = circles.iter().map(|circle| circle.join(", ")).collect();
        assert!(
            circles.is_empty(),
            "{folder}: these import each other:\n{}",
            circles.join("\n")
        );
    }
}

/// What the other tests rest on: imports of every kind are seen, and names that a room hands on are followed to the file
/// that defines them.
#[test]
fn wrong_imports_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |file: &str, text: &str| {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        fs::write(path, text).expect("writable");
    };
    write("lib.rs", "pub mod low;\nmod high;\npub use high::High;\n");
    write(
        "low/mod.rs",
        "mod a;\nmod b;\npub use a::A;\npub use b::B;\n",
    );
    write("low/a.rs", "use super::B;\npub struct A(B);\n");
    write(
        "low/b.rs",
        "pub struct B;\nimpl B { fn a(self) { super::A::new(self) } }\n",
    );
    write("high.rs", "use crate::low::A;\npub struct High(A);\n");
    let sources = Crate::read(folder.path());
    assert_eq!(backward(&sources), [""; 0]);
    assert_eq!(circles(&sources), [["low/a.rs", "low/b.rs"]]);

    write("low/b.rs", "pub struct B(crate::High);\n");
    let sources = Crate::read(folder.path());
    assert_eq!(backward(&sources), ["low/b.rs imports high.rs"]);
    assert_eq!(circles(&sources), [["high.rs", "low/a.rs", "low/b.rs"]]);
}

/// Imports of a room below.
fn backward(sources: &Crate) -> Vec<String> {
    let order = rooms(sources);
    let place = |room: &str| order.iter().position(|known| known == room);
    let mut wrong = Vec::new();
    for module in sources.files.keys().filter(|module| !module.is_empty()) {
        for imported in sources.imports(module) {
            // The root defines nothing that a room could import.
            let Some(room) = imported.first() else {
                continue;
            };
            if place(&module[0]) < place(room) {
                let [from, to] = [module, &imported].map(|module| sources.shown(module));
                wrong.push(format!("{from} imports {to}"));
            }
        }
    }
    wrong
}

/// The rooms in the order of their `mod` lines in `lib.rs`.
fn rooms(sources: &Crate) -> Vec<String> {
    let lines = sources.files[&Module::new()].code.lines();
    let rooms = lines.filter_map(|line| {
        let line = line.trim().trim_start_matches("pub ");
        let room = line.strip_prefix("mod ")?.strip_suffix(';')?;
        Some(room.to_owned())
    });
    rooms.collect()
}

/// Files that reach each other, in groups; the root is left out, since it hands everything on.
fn circles(sources: &Crate) -> Vec<Vec<String>> {
    let imports: BTreeMap<&Module, BTreeSet<Module>> = sources
        .files
        .keys()
        .filter(|module| !module.is_empty())
        .map(|module| (module, sources.imports(module)))
        .collect();
    let reached = |from: &Module| {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(module) = open.pop() {
            for next in imports.get(module).into_iter().flatten() {
                if !next.is_empty() && reached.insert(next) {
                    open.push(next);
                }
            }
        }
        reached
    };
    let all: BTreeMap<&Module, BTreeSet<&Module>> = imports
        .keys()
        .map(|module| (*module, reached(module)))
        .collect();
    let mut circles = BTreeSet::new();
    for (module, reached) in &all {
        let circle: Vec<String> = reached
            .iter()
            .filter(|other| all[*other].contains(module))
            .map(|other| sources.shown(other))
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}
