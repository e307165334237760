//! Names of files inside a model.

/// Whether `name` stays inside the folder that it is joined to.
///
/// Stricter than the operating system, and the same on each: a backslash is a separator on one of
/// them, and a colon can name a drive there. `.` and empty parts are refused because two spellings
/// of one file would be two files in a catalog.
pub(super) fn stays_inside(name: &str) -> bool {
    !name.contains(['\\', ':', '\0'])
        && name
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

/// The model's configuration.
pub(crate) const CONFIG: &str = "config.json";
