//! The files of a folder, for messages and for weights without an index.

use std::{fs, io, path::Path};

/// Names beyond as many are left out: a folder of a model has some hundreds.
const NAMES_MAX: usize = 1 << 16;

/// The names of the files in `folder` and in the folders of it, sorted. Links are followed; names that are not Unicode are
/// left out, for no checkpoint can name them.
pub(super) fn files(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut inside = Vec::new();
    for (name, is_folder) in entries(folder)? {
        match is_folder {
            true => inside.push(name),
            false => names.push(name),
        }
    }
    for folder_name in inside {
        // A folder that cannot be read has nothing that could be used.
        let files = entries(&folder.join(&folder_name)).unwrap_or_default();
        let files = files.into_iter().filter(|(_, is_folder)| !is_folder);
        names.extend(files.map(|(name, _)| format!("{folder_name}/{name}")));
    }
    names.sort_unstable();
    names.truncate(NAMES_MAX);
    Ok(names)
}

/// The name of each entry of a folder, and whether the entry is a folder too.
fn entries(folder: &Path) -> io::Result<Vec<(String, bool)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)?.take(NAMES_MAX) {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        found.push((name, entry.path().is_dir()));
    }
    Ok(found)
}
