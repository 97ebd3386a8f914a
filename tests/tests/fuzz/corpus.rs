//! The committed inputs, for tests that do more with each than its target has time for.

use std::fs;
use std::path::PathBuf;

/// Names and bytes of the corpus of `target`, which is written as its folder in `__fuzz__`.
pub(crate) fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/__fuzz__");
    let folder = fuzz.join(target).join("corpus");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{target}: {error}"));
    let inputs: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap())
        })
        .collect();
    assert!(!inputs.is_empty(), "{target} has no corpus");
    inputs
}
