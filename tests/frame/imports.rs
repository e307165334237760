//! Rooms import only rooms above them, in the order of `lib.rs`, and no two files of different folders import each other,
//! directly or around.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::scan::{Crate, Module};

/// Rooms that still import one below them: the crate's folder, from, to. Strike out those that are mended.
const BACK: [(&str, &str, &str); 0] = [];

/// Files that may import each other, below a folder, each with the reason.
const CIRCLES: [(&str, &[&str], &str); 2] = [
    (
        "src/dialect",
        &[""],
        "a recipe names the dialect that carries it out",
    ),
    ("src/synth", &[""], ""),
];

const LIBRARY: &str = "src";
const KERNELS: &str = "kernels/src";

#[test]
fn rooms_import_only_rooms_above_them() {
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for folder in [LIBRARY, KERNELS] {
        let sources = Crate::read(Path::new(folder));
        let order = rooms(&sources);
        let place = |room: &str| order.iter().position(|known| known == room);
        for module in sources.files.keys().filter(|module| !module.is_empty()) {
            for imported in sources.imports(module) {
                // The root hands on what rooms define.
                let Some(room) = imported.first() else {
                    continue;
                };
                let [from, to] = [&module[0], room].map(|room| place(room));
                let arrow = (folder, &*module[0], &**room);
                let known = BACK.iter().position(|known| *known == arrow);
                seen.extend(known);
                if from < to && known.is_none() {
                    let [from, to] = [module, &imported].map(|module| shown(&sources, module));
                    wrong.push(format!("{folder}: {from} imports {to}"));
                }
            }
        }
    }
    for (place, (_, from, to)) in BACK.iter().enumerate() {
        let still = seen.contains(&place);
        assert!(still, "{from} does not import {to} any more: strike it out");
    }
    assert!(
        wrong.is_empty(),
        "these run against the order of `mod` lines in lib.rs:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_files_import_each_other_around() {
    let mut wrong = Vec::new();
    let mut known: BTreeSet<usize> = BTreeSet::new();
    for folder in [LIBRARY, KERNELS] {
        let sources = Crate::read(Path::new(folder));
        let circles = circles(&sources);
        let largest = circles.iter().map(Vec::len).max().unwrap_or(0);
        println!(
            "{folder}: {} files, {} circles, {largest} files in the largest",
            sources.files.len(),
            circles.len()
        );
        for circle in circles {
            let files: Vec<String> = circle
                .iter()
                .map(|module| {
                    let path = Path::new(folder).join(&sources.files[module].path);
                    path.display().to_string()
                })
                .collect();
            println!("  {}", files.join(", "));
            match CIRCLES.iter().position(|known| is_within(&files, known)) {
                Some(place) => {
                    known.insert(place);
                }
                None => wrong.push(files.join(", ")),
            }
        }
    }
    for (place, (folder, files, _)) in CIRCLES.iter().enumerate() {
        let still = known.contains(&place);
        assert!(
            still,
            "{folder}, {files:?}: no circle any more: strike it out"
        );
    }
    assert!(
        wrong.is_empty(),
        "these import each other:\n{}",
        wrong.join("\n")
    );
}

/// Whether all files are among those of a known circle.
fn is_within(files: &[String], (folder, known, _): &(&str, &[&str], &str)) -> bool {
    let known = |file: &Path| known.iter().any(|known| file.starts_with(known));
    files
        .iter()
        .all(|file| Path::new(file).strip_prefix(folder).is_ok_and(known))
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

fn shown(sources: &Crate, module: &Module) -> String {
    let path: &PathBuf = &sources.files[module].path;
    path.display().to_string()
}

/// Files that reach each other, in groups; the root is left out, since it hands everything on.
fn circles(sources: &Crate) -> Vec<Vec<Module>> {
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
        let circle: Vec<Module> = reached
            .iter()
            .filter(|other| all[*other].contains(module))
            .map(|other| (*other).clone())
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}
