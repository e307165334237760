//! Source files as a list of names that they mention: enough to see who imports whom, without a compiler.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A crate's files by their module path: `["plan", "bind"]` is `plan/bind.rs`, `[]` is `lib.rs`.
pub(crate) struct Crate {
    pub(crate) files: BTreeMap<Module, File>,
}

pub(crate) type Module = Vec<String>;

pub(crate) struct File {
    /// Relative to the crate's folder of sources: `plan/bind.rs`.
    pub(crate) path: PathBuf,
    /// Without comments, texts and tests.
    pub(crate) code: String,
    uses: Vec<Use>,
}

/// One name that a `use` line brings in.
struct Use {
    path: Vec<String>,
    name: String,
    public: bool,
}

impl Crate {
    /// Reads every file below `folder` but those of programs.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut paths = Vec::new();
        collect(folder, &mut paths);
        let files = paths.into_iter().filter_map(|path| {
            let relative = path.strip_prefix(folder).expect("is below").to_owned();
            let module = module(&relative)?;
            let text = fs::read_to_string(&path).expect("a source file");
            let code = without_tests(&plain(&text));
            let uses = uses(&code);
            let path = relative;
            Some((module, File { path, code, uses }))
        });
        Self {
            files: files.collect(),
        }
    }

    /// The files that `module` imports from, re-exports followed to where a name is defined.
    pub(crate) fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let file = &self.files[module];
        let mut found = BTreeSet::new();
        let words: BTreeSet<String> = paths(&file.code).into_iter().flatten().collect();
        let mut known: BTreeMap<&str, Module> = BTreeMap::new();
        for imported in &file.uses {
            let Some(path) = self.absolute(module, &imported.path) else {
                continue;
            };
            if self.files.contains_key(&path) {
                known.insert(&imported.name, path.clone());
            }
            // A name of a room's own files that it only hands on, also to its own files, is no import.
            let handed_on = path.starts_with(module);
            if !handed_on || words.contains(&*imported.name) {
                found.extend(self.defining(&path, 0));
            }
        }
        for path in paths(&file.code) {
            if path.len() < 2 {
                continue;
            }
            let absolute = match known.get(&*path[0]) {
                Some(base) => Some([&base[..], &path[1..]].concat()),
                None => self.absolute(module, &path),
            };
            found.extend(absolute.and_then(|path| self.defining(&path, 0)));
        }
        found.remove(module);
        found
    }

    /// The path of a file, for messages.
    pub(crate) fn shown(&self, module: &Module) -> String {
        self.files[module].path.display().to_string()
    }

    /// The path from the root, `None` where it leads out of the crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let mut base = module.clone();
        let mut rest = path;
        match &*path[0] {
            "crate" => {
                base.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                base.push(child.to_owned());
                if !self.files.contains_key(&base) {
                    return None;
                }
                rest = &path[1..];
            }
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// The file that defines what `path` names.
    fn defining(&self, path: &[String], depth: usize) -> Option<Module> {
        if self.files.contains_key(path) {
            return Some(path.to_vec());
        }
        let known = (0..path.len())
            .rev()
            .find(|len| self.files.contains_key(&path[..*len]))?;
        let (module, rest) = (path[..known].to_vec(), &path[known..]);
        let handed_on = self.files[&module]
            .uses
            .iter()
            .find(|imported| imported.name == rest[0]);
        match handed_on.and_then(|imported| self.absolute(&module, &imported.path)) {
            Some(further) if depth < 8 => {
                let further = [&further[..], &rest[1..]].concat();
                self.defining(&further, depth + 1)
            }
            _ => Some(module),
        }
    }
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "bin") {
                collect(&path, into);
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

/// `None` for files of tests and programs.
fn module(relative: &Path) -> Option<Module> {
    let parts = relative.with_extension("");
    let mut parts: Module = parts
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    match parts.last().map(String::as_str) {
        Some("tests" | "main") => return None,
        Some("mod" | "lib") => {
            parts.pop();
        }
        _ => {}
    }
    Some(parts)
}

/// The text without comments, and with every literal text emptied.
fn plain(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if let Some(hashes) = raw_text(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = &rest[hashes + 2..];
            rest = &body[body.find(&end).expect("a text ends") + end.len()..];
            code.push_str("\"\"");
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = &rest[end.expect("a text ends") + 2..];
            code.push_str("\"\"");
        } else if rest.starts_with("'\"'") || rest.starts_with("'/'") {
            rest = &rest[3..];
        } else if rest.starts_with("'\\\"'") {
            rest = &rest[4..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

/// Hash signs of a raw text that begins here.
fn raw_text(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// The code up to its test module, which is the last thing in a file.
fn without_tests(code: &str) -> String {
    let ends = ["#[cfg(test)]\nmod tests", "#[cfg(all(test"];
    let end = ends.iter().filter_map(|end| code.find(end)).min();
    code[..end.unwrap_or(code.len())].to_owned()
}

/// Every name that the `use` lines bring in.
fn uses(code: &str) -> Vec<Use> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("use ") {
        let mut lines = code[..start].rsplit('\n').map(str::trim);
        let [line, before] = [(); 2].map(|()| lines.next().unwrap_or(""));
        let for_links = before == "#[cfg(doc)]";
        if for_links || !(line.is_empty() || line.starts_with("pub")) {
            continue;
        }
        let Some(end) = code[start..].find(';') else {
            continue;
        };
        let tree: String = code[start + 4..start + end]
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        expand(&[], &tree, !line.is_empty(), &mut found);
    }
    found
}

/// Expands `a::{b, c as d}`.
fn expand(base: &[String], tree: &str, public: bool, into: &mut Vec<Use>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, name) = match tree.split_once(" as ") {
            Some((path, name)) => (path, Some(name)),
            None => (tree, None),
        };
        let mut path: Vec<String> = [base, &parts(path)].concat();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if let Some(last) = path.last() {
            let name = name.unwrap_or(last).to_owned();
            into.push(Use { path, name, public });
        }
        return;
    };
    let base = [base, &parts(&tree[..open])].concat();
    let close = tree.rfind('}').expect("braces are closed");
    let (mut depth, mut from) = (0, open + 1);
    for (at, c) in tree[..close].char_indices().skip(open + 1) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&base, &tree[from..at], public, into);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !tree[from..close].trim().is_empty() {
        expand(&base, &tree[from..close], public, into);
    }
}

fn parts(path: &str) -> Vec<String> {
    let parts = path.split("::").map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Every path and word in the code, `use` and `mod` lines left out.
fn paths(code: &str) -> Vec<Vec<String>> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(word) {
        let before = rest[..at].ends_with("::") || rest[..at].ends_with('.');
        rest = &rest[at..];
        let mut path = Vec::new();
        loop {
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            path.push(rest[..end].to_owned());
            rest = &rest[end..];
            match rest.strip_prefix("::") {
                Some(next) if next.starts_with(word) => rest = next,
                _ => break,
            }
        }
        if path == ["use"] || path == ["mod"] {
            rest = &rest[rest.find(';').unwrap_or(rest.len())..];
        } else if !before {
            found.push(path);
        }
    }
    found
}

/// What the scan itself has to get right: an import that it does not see is one that no test refuses.
#[test]
fn names_are_found_in_use_lines_and_in_code() {
    let code = plain(
        "use crate::{a::{self, B as C}, d}; // use crate::no;\npub(crate) use e::F;\nfn f() { g::h(\"x::y\"); crate::i::J::k() }\n",
    );
    let found: Vec<(String, String, bool)> = uses(&code)
        .into_iter()
        .map(|found| (found.path.join("::"), found.name, found.public))
        .collect();
    let expected = [
        ("crate::a", "a", false),
        ("crate::a::B", "C", false),
        ("crate::d", "d", false),
        ("e::F", "F", true),
    ];
    let expected = expected.map(|(path, name, public)| (path.to_owned(), name.to_owned(), public));
    assert_eq!(found, expected);
    let found: Vec<String> = paths(&code).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["pub", "crate", "fn", "f", "g::h", "crate::i::J::k"]);
}
