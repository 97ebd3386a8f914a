//! What an operator reads is what the code has.

use std::collections::BTreeMap;

use super::{File, Finding, Tree};

/// Every `PROXY_*` variable stands in the table of variables, and the other way round.
pub(super) fn variables(tree: &Tree) -> Vec<Finding> {
    same_names(tree, "proxy/src/config", "docs/configuration.md", "variables", |text| {
        names(text, "PROXY_", |c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    })
}

/// Every metric stands in the table of metrics, and the other way round.
pub(super) fn metrics(tree: &Tree) -> Vec<Finding> {
    same_names(tree, "proxy/src/metrics", "docs/metrics.md", "metrics", |text| {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let mut found = names(text, "srs_proxy_", is_name);
        for (_, name) in &mut found {
            // OpenMetrics: the samples of a counter have a suffix that its family has not.
            if let Some(family) = name.strip_suffix("_total") {
                *name = family.to_owned();
            }
        }
        found
    })
}

/// Names that stand in the code's folder and not in the document, and the other way round.
/// Nothing is asked while the code is not there.
fn same_names(
    tree: &Tree,
    code: &str,
    document: &str,
    rule: &'static str,
    find: fn(&str) -> Vec<(usize, String)>,
) -> Vec<Finding> {
    let collect = |files: &mut dyn Iterator<Item = &File>| {
        let mut all = BTreeMap::new();
        for file in files {
            for (line, name) in find(without_tests(&file.text)) {
                all.entry(name).or_insert_with(|| (file.path.clone(), line));
            }
        }
        all
    };
    let module = format!("{code}.rs");
    let in_code = collect(&mut tree.rust(code).chain(tree.rust(&module)));
    let in_document = collect(&mut tree.get(document).into_iter());
    let finding = |name: &str, (path, line): &(String, usize), other: &str| Finding {
        path: path.clone(),
        line: *line,
        rule,
        what: format!("`{name}` is not in {other}"),
    };
    if in_code.is_empty() {
        return Vec::new();
    }
    let undocumented = in_code.iter().filter(|(name, _)| !in_document.contains_key(*name));
    let gone = in_document.iter().filter(|(name, _)| !in_code.contains_key(*name));
    undocumented
        .map(|(name, place)| finding(name, place, document))
        .chain(gone.map(|(name, place)| finding(name, place, code)))
        .collect()
}

/// The text before the tests, which by the house's order stand last.
fn without_tests(text: &str) -> &str {
    text.split_once("\n#[cfg(test)]\n").map_or(text, |(code, _)| code)
}

/// Names with this prefix and at least one more character, with their lines from 1.
fn names(text: &str, prefix: &str, is_name: fn(char) -> bool) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices(prefix) {
            let starts = line.get(..at).and_then(|text| text.chars().next_back());
            let name: String =
                line.get(at..).unwrap_or_default().chars().take_while(|&c| is_name(c)).collect();
            // `PROXY_*` is a family, not a name.
            if name.len() > prefix.len() && !name.ends_with('_') && !starts.is_some_and(is_name) {
                found.push((index + 1, name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{metrics, variables};
    use crate::tidy::Tree;

    #[test]
    fn a_variable_on_one_side_only_is_found() {
        let tree = Tree::of(&[
            ("proxy/src/config/table.rs", "\"PROXY_RTMP_SERVER\"\n\"PROXY_NEW\"\n"),
            ("docs/configuration.md", "All `PROXY_*`:\n\n| PROXY_RTMP_SERVER |\n| PROXY_OLD |\n"),
        ]);
        let found: Vec<_> = variables(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "proxy/src/config/table.rs:2: variables: `PROXY_NEW` is not in docs/configuration.md",
                "docs/configuration.md:4: variables: `PROXY_OLD` is not in proxy/src/config",
            ]
        );
    }

    #[test]
    fn counters_are_families_and_what_only_tests_name_needs_no_document() {
        let code = "\"srs_proxy_sessions\"\n\"srs_proxy_ends\"\n#[cfg(test)]\nmod tests { \"srs_proxy_ghost\" }\n";
        let tree = Tree::of(&[
            ("proxy/src/metrics.rs", code),
            ("docs/metrics.md", "srs_proxy_sessions srs_proxy_ends_total"),
        ]);
        assert_eq!(metrics(&tree), []);
    }
}
