//! Whose word on a client's address is taken.

use std::net::IpAddr;

use ipnet::IpNet;

/// The load balancers and proxies in front.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Whether this is the address of one of them; an IPv4-mapped address is the IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<IpNet>> for TrustedProxies {
    fn from(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_known_by_its_network_through_either_family_of_sockets() {
        let networks = ["10.0.0.0/8", "2001:db8::7/128"].map(|text| text.parse().unwrap());
        let trusted = TrustedProxies::from(networks.to_vec());
        for (text, is_trusted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("2001:db8::7", true),
            ("2001:db8::8", false),
        ] {
            assert_eq!(trusted.contains(text.parse().unwrap()), is_trusted, "{text}");
        }
        assert!(!TrustedProxies::default().contains("10.1.2.3".parse().unwrap()));
    }
}
