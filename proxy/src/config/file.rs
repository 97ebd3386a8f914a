//! The TOML file: flat, one key per setting.

use std::path::Path;

use toml::{Table, Value};

use super::Error;
use super::settings::{Setting, settings};
use super::source::nearest;

/// The settings that the file's text has, each with its value as text. `path` is for errors.
pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<(&'static Setting, String)>, Error> {
    let table: Table = text.parse().map_err(|error| malformed(text, path, &error))?;
    let said = table.into_iter().map(|(key, value)| {
        let setting = settings().iter().find(|setting| setting.key() == key);
        let setting = setting.ok_or_else(|| Error::UnknownKey {
            path: path.into(),
            nearest: nearest(&key, settings().iter().map(Setting::key)),
            key: key.clone(),
        })?;
        let text = as_text(&value).ok_or_else(|| Error::NoText {
            path: path.into(),
            key,
            found: value.type_str(),
        })?;
        Ok((setting, text))
    });
    said.collect()
}

/// The value as it would stand in an environment variable.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(switch) => Some(switch.to_string()),
        Value::Array(items) => {
            let items: Option<Vec<_>> = items
                .iter()
                .map(|item| if item.is_array() { None } else { as_text(item) })
                .collect();
            items.map(|items| items.join(","))
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

fn malformed(text: &str, path: &Path, error: &toml::de::Error) -> Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
    Error::Malformed {
        path: path.into(),
        line: before.matches('\n').count() + 1,
        // The message alone: the error as a whole shows the line, which may hold a secret.
        problem: error.message().replace('\n', ", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(&'static str, String)>, String> {
        let said =
            super::parse(text, Path::new("proxy.toml")).map_err(|error| error.to_string())?;
        Ok(said.into_iter().map(|(setting, text)| (setting.name, text)).collect())
    }

    #[test]
    fn every_kind_of_value_becomes_its_text() {
        for (text, name, value) in [
            ("rtmp_server = \"1935\"", "PROXY_RTMP_SERVER", "1935"),
            ("rtmp_server = 1935", "PROXY_RTMP_SERVER", "1935"),
            ("rtmp_server = [1935, \"[::1]:1936\"]", "PROXY_RTMP_SERVER", "1935,[::1]:1936"),
            ("default_backend_enabled = true", "PROXY_DEFAULT_BACKEND_ENABLED", "true"),
            ("vhosts = [\"a.example\", \"b.example\"]", "PROXY_VHOSTS", "a.example,b.example"),
            ("vhosts = []", "PROXY_VHOSTS", ""),
        ] {
            assert_eq!(parse(text), Ok(vec![(name, value.into())]), "{text}");
        }
    }

    #[test]
    fn a_wrong_file_is_answered_in_one_line_that_names_the_place() {
        for (text, answer) in [
            (
                "log = \"info\"\nrtmp_sever = 1935",
                "proxy.toml: unknown key rtmp_sever; did you mean rtmp_server?",
            ),
            ("[rtmp]\nserver = 1935", "proxy.toml: unknown key rtmp"),
            (
                "idle_timeout = 1.5",
                "proxy.toml: idle_timeout has the type float; \
                 expected a string, an integer, a boolean or an array of these",
            ),
            (
                "vhosts = [[\"a\"]]",
                "proxy.toml: vhosts has the type array; \
                 expected a string, an integer, a boolean or an array of these",
            ),
        ] {
            assert_eq!(parse(text), Err(answer.into()), "{text}");
        }
        let answer = parse("log = \"info\"\nredis_password = \"hunter2\n").unwrap_err();
        assert!(answer.starts_with("proxy.toml line 2: "), "{answer}");
        assert!(!answer.contains("hunter2") && !answer.contains('\n'), "{answer}");
    }
}
