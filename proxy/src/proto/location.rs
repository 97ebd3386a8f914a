//! Where the `Location` of an answer leads, as a path of whoever passes the answer on.

/// Path and query of a reference (RFC 3986 4.2) in the answer to a request for the target `base`,
/// `/path?query`. The host of an absolute reference is left out, and so is a fragment.
///
/// None if it names nothing that could be asked for over HTTP, or if a client could read another
/// host in it.
pub fn path_of(reference: &str, base: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.is_empty() || !reference.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
        return None;
    }
    let relative = match scheme(reference) {
        Some((scheme, rest))
            if ["http", "https"].iter().any(|s| s.eq_ignore_ascii_case(scheme)) =>
        {
            behind_authority(rest)?
        }
        Some(_) => return None,
        None => behind_authority(reference).unwrap_or(reference),
    };
    let (base_path, base_query) = at_query(base);
    let (path, query) = at_query(relative);
    // RFC 3986 5.2.2 and 5.2.3.
    let (path, query) = match path {
        "" if relative.len() < reference.len() => ("/".to_owned(), query),
        "" if query.is_empty() => (base_path.to_owned(), base_query),
        "" => (base_path.to_owned(), query),
        _ if path.starts_with('/') => (path.to_owned(), query),
        _ => {
            let folder = base_path.rsplit_once('/').map_or("", |(folder, _)| folder);
            (format!("{folder}/{path}"), query)
        }
    };
    let path = without_dots(&path);
    // Behind two slashes stands a host.
    (!path.starts_with("//")).then(|| path + query)
}

/// RFC 3986 3.1: a scheme, and what follows its colon.
fn scheme(reference: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = reference.split_once(':')?;
    let is_sign = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(is_sign))
        .then_some((scheme, rest))
}

/// What follows `//host`.
fn behind_authority(rest: &str) -> Option<&str> {
    let rest = rest.strip_prefix("//")?;
    Some(rest.find(['/', '?']).map_or("", |at| rest.split_at(at).1))
}

/// In front of the query, and from its mark on.
fn at_query(target: &str) -> (&str, &str) {
    target.find('?').map_or((target, ""), |at| target.split_at(at))
}

/// RFC 3986 5.2.4, as browsers do before they ask.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(part),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn every_form_of_a_reference_gives_a_path_and_its_query() {
        for (reference, path) in [
            ("/rtc/v1/whip/?action=delete&session=a:b", "/rtc/v1/whip/?action=delete&session=a:b"),
            ("http://10.0.0.1:1985/rtc/v1/whip/?token=a", "/rtc/v1/whip/?token=a"),
            ("HTTPS://origin/s/1#part", "/s/1"),
            ("http://origin", "/"),
            ("http://origin?a=b", "/?a=b"),
            ("//origin:80/s/1", "/s/1"),
            ("session/1", "/rtc/v1/whip/session/1"),
            ("./1?x", "/rtc/v1/whip/1?x"),
            ("../../s/./1", "/rtc/s/1"),
            ("../../../../..", "/"),
            ("/a/b/..", "/a/"),
            ("?session=1", "/rtc/v1/whip/?session=1"),
            ("1?u=http://a/../b", "/rtc/v1/whip/1?u=http://a/../b"),
        ] {
            let found = path_of(reference, "/rtc/v1/whip/?app=live");
            assert_eq!(found.as_deref(), Some(path), "{reference}");
        }
        assert_eq!(path_of("1", "/whip/live").as_deref(), Some("/whip/1"));
    }

    #[test]
    fn what_leads_elsewhere_or_nowhere_is_refused() {
        for reference in [
            "",
            "#part",
            "ftp://origin/1",
            "http:session",
            "mailto:a@b",
            "http://origin//evil/1",
            "/.//evil",
            "/\\evil",
            "/a b",
            "/a\nb",
            "/\u{e9}",
        ] {
            assert_eq!(path_of(reference, "/rtc/v1/whip/"), None, "{reference:?}");
        }
    }
}
