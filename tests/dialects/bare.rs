//! Folders that cannot be written to.

use std::fs;

use firebox::{
    Cpu, Error, Loader,
    model::llama::Llama,
    save::{SaveConfig, SaveError},
};
use tempfile::TempDir;

use super::{QUANTIZED, load};

/// Nothing that is there is overwritten.
#[test]
fn a_folder_with_something_in_it_is_refused() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("notes.txt"), "mine").expect("written");
    let loader = Loader::<Cpu>::new(load(&QUANTIZED[0].base())).expect("a checkpoint");
    let error = loader
        .save::<Llama>(&SaveConfig::new(folder.path()))
        .unwrap_err();
    let Error::Save(SaveError::NotEmpty { folder: named }) = error else {
        panic!("{error}");
    };
    assert_eq!(named, folder.path());
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}
