//! Fuzz targets of the settings' own formats.

use std::fmt::Write;

use bolero::check;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::dotenv;
use super::redis::RedisUrl;
use super::{ListenAddrs, RedisNode, RedisShape};

#[test]
fn dot_env() {
    check!().with_iterations(1000).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let pairs = match dotenv::parse(&text) {
            Ok(pairs) => pairs,
            Err((line, _)) => {
                assert!((1..=text.lines().count()).contains(&line), "there is no line {line}");
                return;
            }
        };
        let mut again = String::from("# as any value can be written\n");
        for (name, value) in &pairs {
            assert!(!name.is_empty() && !name.contains(char::is_whitespace), "{name:?}");
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            let value = value.replace('\n', "\\n").replace('\r', "\\r");
            writeln!(again, "export {name}=\"{value}\"").unwrap();
        }
        assert_eq!(dotenv::parse(&again), Ok(pairs));
    });
}

#[test]
fn listen_addresses() {
    check!().with_iterations(1000).with_max_len(300).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let Ok(addresses) = ListenAddrs::parse(&text) else { return };
        assert_eq!(ListenAddrs::parse(&addresses.to_string()), Ok(addresses.clone()));
        let mut bound = Vec::new();
        for socket in addresses.iter().flat_map(super::ListenAddr::sockets) {
            assert!(socket.port() == 0 || !bound.contains(&socket), "{socket} twice in {text:?}");
            bound.push(socket);
        }
    });
}

#[test]
fn redis_url() {
    check!().with_iterations(1000).with_max_len(300).for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let Ok(url) = RedisUrl::parse(&text) else { return };
        assert_eq!(RedisUrl::parse(&written(&url)).as_ref(), Ok(&url), "{text:?}");
    });
}

/// Another way to write it: nothing left out, everything escaped.
fn written(url: &RedisUrl) -> String {
    let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let s = if url.tls { "s" } else { "" };
    let user = url.user.as_deref().map(escaped).unwrap_or_default();
    let who = match &url.password {
        Some(password) => format!("{user}:{}@", escaped(password.reveal())),
        None => String::new(),
    };
    let listed = |nodes: &[RedisNode]| {
        let nodes: Vec<_> = nodes
            .iter()
            .map(|RedisNode { host, port }| {
                if host.contains(':') {
                    format!("[{host}]:{port}")
                } else {
                    format!("{host}:{port}")
                }
            })
            .collect();
        nodes.join(",")
    };
    match &url.shape {
        RedisShape::Single { node, db } => {
            format!("redis{s}://{who}{}/{db}", listed(std::slice::from_ref(node)))
        }
        RedisShape::Sentinel { nodes, master, db } => {
            format!("redis{s}+sentinel://{who}{}/{master}/{db}", listed(nodes))
        }
        RedisShape::Cluster { nodes } => format!("redis{s}+cluster://{who}{}", listed(nodes)),
    }
}
