//! Where a value comes from, and which of several counts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::settings::{PREFIX, Row, Setting, settings};
use super::{Error, dotenv, file};

/// Who said a value, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    File(PathBuf),
    DotEnv,
    Environment,
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::DotEnv => f.write_str(".env"),
            Self::Environment => f.write_str("environment"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// What counts: for every setting that somebody gave a value, the strongest one.
#[derive(Default)]
pub(super) struct Effective {
    said: BTreeMap<&'static str, Said>,
    /// Names that begin like a setting's and are none.
    pub(super) warnings: Vec<String>,
}

/// A value and who said it. Not to be shown: it may be a secret.
#[derive(Clone)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) source: Source,
}

/// What can be read, before any of it is understood.
pub(super) struct Sources<'a> {
    pub(super) flags: Vec<(&'static Setting, String)>,
    pub(super) environment: Vec<(OsString, OsString)>,
    /// Need not exist.
    pub(super) dotenv: &'a Path,
    /// Must exist if it is named.
    pub(super) file: Option<&'a Path>,
}

impl Effective {
    /// Reads the sources from the weakest to the strongest.
    pub(super) fn read(sources: Sources<'_>) -> Result<Self, Error> {
        let mut effective = Self::default();
        if let Some(path) = sources.file {
            let text = fs::read_to_string(path).map_err(|cause| unreadable(path, cause))?;
            for (setting, text) in file::parse(&text, path)? {
                effective.say(setting, text, Source::File(path.into()));
            }
        }
        for (name, text) in read_dotenv(sources.dotenv)? {
            if let Some(setting) = effective.recognize(&name, &Source::DotEnv) {
                effective.say(setting, text, Source::DotEnv);
            }
        }
        for (name, text) in sources.environment {
            // A name that is not UTF-8 is not a setting's.
            let name = name.to_str().unwrap_or_default();
            if let Some(setting) = effective.recognize(name, &Source::Environment) {
                let text = text.into_string();
                let text = text.map_err(|_| Error::NotUtf8 { name: setting.name })?;
                effective.say(setting, text, Source::Environment);
            }
        }
        for (setting, text) in sources.flags {
            effective.say(setting, text, Source::Flag);
        }
        Ok(effective)
    }

    /// The value of a setting and who said it.
    pub(super) fn of(&self, setting: &Setting) -> Said {
        let default = || Said { text: setting.default.into(), source: Source::Default };
        self.said.get(setting.name).cloned().unwrap_or_else(default)
    }

    /// The value of a setting, as what it means.
    pub(super) fn get<T>(&self, row: &Row<T>) -> Result<T, Error> {
        (row.parse)(&self.of(&row.setting).text)
            .map_err(|problem| Error::Value { said: self.spell(&row.setting), problem })
    }

    /// The setting as its author wrote it, for a message: `PROXY_LOG="x" (environment)`.
    pub(super) fn spell(&self, setting: &Setting) -> String {
        let Said { text, source } = self.of(setting);
        let name = match source {
            Source::File(_) => setting.key(),
            Source::Flag => format!("--{}", setting.flag()),
            Source::Default | Source::DotEnv | Source::Environment => setting.name.into(),
        };
        let value = if setting.secret { "***".into() } else { format!("{text:?}") };
        format!("{name}={value} ({source})")
    }

    /// The setting of a variable. One that only looks like a setting's is warned of.
    fn recognize(&mut self, name: &str, source: &Source) -> Option<&'static Setting> {
        let setting = settings().iter().find(|setting| setting.name == name);
        if setting.is_none() && name.starts_with(PREFIX) {
            let nearest = nearest(name, settings().iter().map(|setting| setting.name.into()));
            self.warnings.push(format!("{name} ({source}) is not a setting{nearest}"));
        }
        setting
    }

    /// An empty value counts as unset, so that no source can switch a default off by it.
    fn say(&mut self, setting: &Setting, text: String, source: Source) {
        if !text.is_empty() {
            self.said.insert(setting.name, Said { text, source });
        }
    }
}

fn read_dotenv(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(unreadable(path, cause)),
    };
    dotenv::parse(&text).map_err(|(line, problem)| Error::Malformed {
        path: path.into(),
        line,
        problem: problem.into(),
    })
}

fn unreadable(path: &Path, cause: io::Error) -> Error {
    Error::Unreadable { path: path.into(), cause }
}

/// A question that names the candidate which was probably meant; empty if there is none.
pub(super) fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> String {
    let typos = (name.trim_start_matches(PREFIX).len() / 3).min(MOST_TYPOS);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, &candidate), candidate))
        .min()
        .filter(|&(distance, _)| distance <= typos)
        .map(|(_, candidate)| format!("; did you mean {candidate}?"))
        .unwrap_or_default()
}

/// More than a slip of the finger is another word.
const MOST_TYPOS: usize = 3;
