//! Why the process cannot start, in words for the operator.

use std::io;
use std::path::PathBuf;

/// Why the process cannot start. Its text is for the operator: one line that names the setting,
/// the value and who said it; a secret's value is not in it. Only [`Self::Usage`] has more lines.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line has something that is no flag, or lacks something.
    #[error("{0}")]
    Usage(String),
    /// A file is missing or cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file is not written as it should be.
    #[error("{} line {line}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// The file has a key that is no setting's. Its value is not shown: it may be a secret.
    #[error("{}: unknown key {key}{nearest}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// A question that names what was probably meant, or nothing.
        nearest: String,
    },
    /// A value of the file is of a type that has no text.
    #[error(
        "{}: {key} has the type {found}; \
         expected a string, an integer, a boolean or an array of these",
        path.display()
    )]
    NoText {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type.
        found: &'static str,
    },
    /// A variable's value is not text.
    #[error("{name} (environment): expected UTF-8")]
    NotUtf8 {
        /// The variable.
        name: &'static str,
    },
    /// A value is wrong.
    #[error("{said}: {problem}")]
    Value {
        /// The setting, its value and who said it.
        said: String,
        /// What was expected.
        problem: String,
    },
}

impl Error {
    /// The code with which the process exits after any of these.
    pub const EXIT_CODE: u8 = 2;
}
