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

/// How the names of files of safetensors end.
pub(crate) const SAFETENSORS: &str = ".safetensors";
/// How the names of GGUF files end.
pub(crate) const GGUF: &str = ".gguf";
/// How the names of files of PyTorch end.
pub(crate) const TORCH: [&str; 4] = [".bin", ".pt", ".pth", ".ckpt"];
/// How the names of files of Burn end.
pub(crate) const BURNPACK: &str = ".bpk";

/// Whether a file is one of weights, by its name.
pub(super) fn is_weights(file: &str) -> bool {
    let ends = [SAFETENSORS, GGUF, BURNPACK];
    ends.iter().chain(&TORCH).any(|end| file.ends_with(end))
}
