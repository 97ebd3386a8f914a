//! Dependencies between the proxy's folders point one way.

use super::code::code_lines;
use super::{Finding, Tree};

pub(super) fn proto_imports_nothing_of_ours(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust("proxy/src/proto") {
        for (line, code) in code_lines(&file.text) {
            let ours = |name: &str| !matches!(name, "proto");
            for name in imported(&code).filter(|name| ours(name)) {
                findings.push(file.finding(line, "proto imports", format!("`crate::{name}`")));
            }
        }
    }
    findings
}

pub(super) fn plane_never_imports_api(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust("proxy/src/plane") {
        for (line, code) in code_lines(&file.text) {
            if imported(&code).any(|name| name == "api") {
                findings.push(file.finding(line, "plane imports", "`crate::api`"));
            }
        }
    }
    findings
}

/// The modules after each `crate::` of a line; a list in braces on that line gives each of its own.
fn imported(code: &str) -> impl Iterator<Item = &str> {
    code.split("crate::").skip(1).flat_map(|rest| {
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split(',').collect::<Vec<_>>(),
            None => vec![rest],
        };
        let end = |c: char| !(c.is_alphanumeric() || c == '_');
        names.into_iter().filter_map(move |name| name.trim().split(end).next())
    })
}

#[cfg(test)]
mod tests {
    use super::{imported, plane_never_imports_api, proto_imports_nothing_of_ours};
    use crate::tidy::Tree;

    #[test]
    fn imports_are_read_one_by_one() {
        let names: Vec<_> =
            imported("use crate::{api::Server, session}; crate::plane::x").collect();
        assert_eq!(names, ["api", "session", "plane"]);
    }

    #[test]
    fn a_parser_that_knows_sessions_is_found() {
        let text = "use crate::proto::rtmp;\nuse crate::session::End;\n";
        let found = proto_imports_nothing_of_ours(&Tree::of(&[("proxy/src/proto/amf0.rs", text)]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 2);
    }

    #[test]
    fn a_plane_that_knows_the_api_is_found() {
        let tree = Tree::of(&[("proxy/src/plane/mod.rs", "use crate::api::View;\n")]);
        assert_eq!(plane_never_imports_api(&tree).len(), 1);
    }
}
