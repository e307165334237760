//! Folders that are whole or not there.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Ends of names: of a folder that is being written, and of one that another has replaced.
const PART: &str = ".part";
const OLD: &str = ".old";

/// Writes a folder beside its place, with all of its files on the disk, and then gives it its name. An older folder of the name
/// stays until then, and stays where an error comes first.
pub(super) fn write_folder<E: From<FolderError>>(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let part = beside(folder, PART);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FolderError { path, source }
    };
    remove(&part).map_err(failed(&part))?;
    fs::create_dir_all(&part).map_err(failed(&part))?;
    let filled = fill(&part)
        .and_then(|()| Ok(sync(&part).map_err(failed(&part))?))
        .and_then(|()| Ok(replace(&part, folder).map_err(failed(folder))?));
    if filled.is_err() {
        // A full disk is the usual reason; a second failure would hide the first.
        let _ = fs::remove_dir_all(&part);
    }
    filled
}

/// Removes a folder, whose name is gone before the first of its files.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    let old = beside(folder, OLD);
    remove(&old)?;
    fs::rename(folder, &old)?;
    remove(&old)
}

/// Folders that are replaced, not removed.
const REPLACED: [&str; 2] = ["adapter", "best"];

/// Finishes or takes back what an earlier process was doing to the folders in `parent` when it ended. Those whose names begin with
/// `removed` were to be removed, [`REPLACED`] to be replaced; no other name is touched.
pub(super) fn recover(parent: &Path, removed: &str) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let Some(name) = name.strip_prefix('.') else {
            continue;
        };
        let is_ours = |name: &str| name.starts_with(removed) || REPLACED.contains(&name);
        if name.strip_suffix(PART).is_some_and(is_ours) && path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else if let Some(name) = name.strip_suffix(OLD).filter(|name| is_ours(name)) {
            let folder = parent.join(name);
            match folder.exists() || name.starts_with(removed) {
                true => fs::remove_dir_all(&path)?,
                false => fs::rename(&path, &folder)?,
            }
        }
    }
    Ok(())
}

/// A folder that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct FolderError {
    /// The folder or file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// `parent/.name` and an end.
fn beside(folder: &Path, end: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}{end}"))
}

fn replace(part: &Path, folder: &Path) -> io::Result<()> {
    let old = beside(folder, OLD);
    if folder.exists() {
        remove(&old)?;
        fs::rename(folder, &old)?;
    }
    fs::rename(part, folder)?;
    sync_names(folder.parent())?;
    remove(&old)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Brings the files of a folder and their names to the disk.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    sync_names(Some(folder))
}

#[cfg(unix)]
fn sync_names(folder: Option<&Path>) -> io::Result<()> {
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Other systems have no folders that can be opened for it.
#[cfg(not(unix))]
fn sync_names(_: Option<&Path>) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, name: &str, text: &str) {
        fs::create_dir_all(folder).expect("made");
        fs::write(folder.join(name), text).expect("written");
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into()).collect();
        names.sort();
        names
    }

    /// What a process can leave when it is killed between any two calls to the system. Would catch a replaced folder that is lost, a
    /// removed one that comes back, and half a folder that is taken for a whole one.
    #[test]
    fn a_later_process_finishes_or_takes_back() {
        let parent = tempfile::tempdir().expect("a folder");
        let at = |name: &str| parent.path().join(name);
        file(&at(".checkpoint-6.part"), "a", "half");
        file(&at(".checkpoint-2.old"), "a", "half removed");
        file(&at(".best.old"), "a", "the only one");
        file(&at(".adapter.old"), "a", "replaced");
        file(&at("adapter"), "a", "new");
        file(&at("checkpoint-4"), "a", "whole");
        file(parent.path(), ".hidden", "of somebody else");
        recover(parent.path(), "checkpoint-").expect("recovered");
        assert_eq!(
            names(parent.path()),
            [".hidden", "adapter", "best", "checkpoint-4"]
        );
        assert_eq!(fs::read(at("best/a")).expect("a file"), b"the only one");
        assert_eq!(fs::read(at("adapter/a")).expect("a file"), b"new");
    }

    #[test]
    fn a_folder_is_replaced_whole_or_stays() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("best");
        let write = |text: &'static str, fails: bool| {
            write_folder(&folder, |part| {
                file(part, "a", text);
                match fails {
                    true => Err(FolderError {
                        path: part.to_owned(),
                        source: io::Error::other("full"),
                    }),
                    false => Ok(()),
                }
            })
        };
        write("one", false).expect("written");
        write("two", true).expect_err("it fails");
        assert_eq!(fs::read(folder.join("a")).expect("a file"), b"one");
        write("three", false).expect("written");
        assert_eq!(fs::read(folder.join("a")).expect("a file"), b"three");
        remove_folder(&folder).expect("removed");
        assert_eq!(names(parent.path()), [""; 0]);
    }
}
