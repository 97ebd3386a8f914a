//! Which host names are virtual hosts of their own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

/// The vhosts that origins tell apart (`PROXY_VHOSTS`); any other host name is the default one,
/// because people publish and play one stream under different names of the same cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vhosts {
    /// Lower case, without the root's dot.
    listed: BTreeSet<String>,
    every_domain: bool,
}

impl Vhosts {
    /// The vhost that every host name belongs to unless it is one of its own.
    pub const DEFAULT: &'static str = "__defaultVhost__";

    /// These names; `*` stands for every domain, that is every host name with a dot which is
    /// not an IP address.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        let mut vhosts = Self::default();
        for name in names {
            match name.as_ref().trim() {
                "" => {}
                "*" => vhosts.every_domain = true,
                name => {
                    vhosts.listed.insert(folded(name));
                }
            }
        }
        vhosts
    }

    /// The vhost of a host name as written in a request, with or without a port.
    pub(super) fn vhost(&self, host: &str) -> String {
        // A slash would end the vhost early in the key; SRS removes it too.
        let name = folded(&without_port(host).replace('/', ""));
        let domain = name.contains('.') && name.parse::<IpAddr>().is_err();
        if self.listed.contains(&name) || (self.every_domain && domain) {
            name
        } else {
            Self::DEFAULT.to_owned()
        }
    }
}

/// Host names are compared without case (RFC 4343), and the root's dot adds nothing.
fn folded(name: &str) -> String {
    name.trim_end_matches('.').to_lowercase()
}

fn without_port(host: &str) -> &str {
    if let Some(bracketed) = host.strip_prefix('[') {
        // RFC 3986 3.2.2: brackets hold an IPv6 address; anything else in them names no host.
        let address = bracketed.split_once(']').map_or("", |(address, _)| address);
        return if address.parse::<Ipv6Addr>().is_ok() { address } else { "" };
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}
