//! Redis: which servers, as whom and over what, from its settings or from one URL.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::Error;
use super::settings::{self as row, Setting};
use super::source::{Effective, Source};
use super::value::{self, Secret};

/// The store that proxies share.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Where it is and how it is reached.
    pub target: RedisTarget,
    /// Put with a colon in front of every key, unless empty.
    pub key_prefix: String,
    /// For the answer to one command.
    pub timeout: Duration,
    /// A route stays this long after it was last used; none for ever.
    pub route_ttl: Option<Duration>,
}

/// Where Redis is and how it is reached.
#[derive(Clone, Debug)]
pub struct RedisTarget {
    /// Its servers.
    pub shape: RedisShape,
    /// Of its ACL; none for the default user.
    pub user: Option<String>,
    /// If it demands one; there is one if there is a user.
    pub password: Option<Secret>,
    /// If the Sentinels demand one.
    pub sentinel_password: Option<Secret>,
    /// TLS, if that is spoken, with Sentinels as well.
    pub tls: Option<RedisTls>,
}

/// How many servers Redis is, and which of them are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisShape {
    /// One server.
    Single {
        /// The server.
        node: RedisNode,
        /// Number of the database.
        db: u32,
    },
    /// A master that may change, and those who know it.
    Sentinel {
        /// The Sentinels, at least one.
        nodes: Vec<RedisNode>,
        /// What they call it.
        master: String,
        /// Number of the database.
        db: u32,
    },
    /// A Cluster.
    Cluster {
        /// Those to ask for the others, at least one.
        nodes: Vec<RedisNode>,
    },
}

/// One server, Sentinel or node of a Cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisNode {
    /// IP address without brackets, or host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Whom TLS trusts, and as whom the proxy appears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTls {
    /// PEM file of the authorities; none for those that the host trusts.
    pub ca: Option<PathBuf>,
    /// What the proxy shows of itself.
    pub identity: Option<RedisIdentity>,
}

/// A certificate of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisIdentity {
    /// PEM file of the certificate and those that lead to its authority.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
}

impl Redis {
    /// Reads every setting, also those that the URL stands for.
    pub(super) fn read(said: &Effective) -> Result<Self, Error> {
        let route_ttl = said.get(&row::PROXY_REDIS_ROUTE_TTL)?;
        Ok(Self {
            target: RedisTarget::read(said)?,
            key_prefix: said.get(&row::PROXY_REDIS_KEY_PREFIX)?,
            timeout: said.get(&row::PROXY_REDIS_TIMEOUT)?,
            route_ttl: (!route_ttl.is_zero()).then_some(route_ttl),
        })
    }
}

impl RedisTarget {
    fn read(said: &Effective) -> Result<Self, Error> {
        let node = RedisNode {
            host: said.get(&row::PROXY_REDIS_HOST)?,
            port: said.get(&row::PROXY_REDIS_PORT)?,
        };
        let db = said.get(&row::PROXY_REDIS_DB)?;
        let mut user = said.get(&row::PROXY_REDIS_USER)?;
        let mut password = said.get(&row::PROXY_REDIS_PASSWORD)?;
        let mut has_tls = said.get(&row::PROXY_REDIS_TLS)?;
        let mut shape = RedisShape::Single { node, db };
        if let Some(url) = said.get(&row::PROXY_REDIS_URL)? {
            let who: &[Setting] = match url.password {
                Some(_) => &[row::PROXY_REDIS_USER.setting, row::PROXY_REDIS_PASSWORD.setting],
                None => &[],
            };
            url_alone(said, &WHERE)?;
            url_alone(said, who)?;
            if url.password.is_some() {
                (user, password) = (url.user, url.password);
            }
            (shape, has_tls) = (url.shape, url.tls);
        }
        if user.is_some() && password.is_none() {
            return lacks(said, &row::PROXY_REDIS_USER.setting, row::PROXY_REDIS_PASSWORD.setting);
        }
        let sentinel_password = said.get(&row::PROXY_REDIS_SENTINEL_PASSWORD)?;
        if sentinel_password.is_some() && !matches!(shape, RedisShape::Sentinel { .. }) {
            let url = row::PROXY_REDIS_URL.setting.name;
            let problem = format!("expected {url} to name Sentinels");
            return wrong(said, &row::PROXY_REDIS_SENTINEL_PASSWORD.setting, problem);
        }
        Ok(Self { shape, user, password, sentinel_password, tls: tls(said, has_tls)? })
    }
}

/// What a URL always says.
const WHERE: [Setting; 4] = [
    row::PROXY_REDIS_HOST.setting,
    row::PROXY_REDIS_PORT.setting,
    row::PROXY_REDIS_DB.setting,
    row::PROXY_REDIS_TLS.setting,
];

/// An error if somebody has set one of these beside the URL.
fn url_alone(said: &Effective, others: &[Setting]) -> Result<(), Error> {
    match others.iter().find(|other| said.of(other).source != Source::Default) {
        Some(other) => {
            let problem = format!("expected not to be set beside {}", said.spell(other));
            wrong(said, &row::PROXY_REDIS_URL.setting, problem)
        }
        None => Ok(()),
    }
}

/// What TLS needs, if it is spoken; files that nobody would read are an error.
fn tls(said: &Effective, is_on: bool) -> Result<Option<RedisTls>, Error> {
    let ca = said.get(&row::PROXY_REDIS_TLS_CA)?;
    let cert = said.get(&row::PROXY_REDIS_TLS_CERT)?;
    let key = said.get(&row::PROXY_REDIS_TLS_KEY)?;
    let files = [
        (&ca, row::PROXY_REDIS_TLS_CA.setting),
        (&cert, row::PROXY_REDIS_TLS_CERT.setting),
        (&key, row::PROXY_REDIS_TLS_KEY.setting),
    ];
    if let Some((_, setting)) = files.into_iter().find(|(file, _)| file.is_some() && !is_on) {
        let (switch, url) = (row::PROXY_REDIS_TLS.setting.name, row::PROXY_REDIS_URL.setting.name);
        return wrong(
            said,
            &setting,
            format!("expected {switch} to be on, or a {url} with rediss"),
        );
    }
    let identity = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some(RedisIdentity { cert, key }),
        (cert, _) => {
            let (cert_row, key_row) =
                (row::PROXY_REDIS_TLS_CERT.setting, row::PROXY_REDIS_TLS_KEY.setting);
            let (one, other) =
                if cert.is_some() { (cert_row, key_row) } else { (key_row, cert_row) };
            return lacks(said, &one, other);
        }
    };
    Ok(is_on.then_some(RedisTls { ca, identity }))
}

fn lacks<T>(said: &Effective, setting: &Setting, other: Setting) -> Result<T, Error> {
    wrong(said, setting, format!("expected {} to be set, too", other.name))
}

fn wrong<T>(said: &Effective, setting: &Setting, problem: String) -> Result<T, Error> {
    Err(Error::Value { said: said.spell(setting), problem })
}

/// What one URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedisUrl {
    pub(super) shape: RedisShape,
    pub(super) user: Option<String>,
    /// There is one if there is a user.
    pub(super) password: Option<Secret>,
    pub(super) tls: bool,
}

impl RedisUrl {
    /// A URL; none if the text is empty.
    pub(super) fn parse_optional(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() { Ok(None) } else { Self::parse(text).map(Some) }
    }

    /// `scheme://[[user]:password@]host[:port][,…][/master][/db]`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("expected at most {LONGEST} bytes"));
        }
        let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
        let (tls, kind) = match scheme.strip_prefix("rediss") {
            Some(kind) => (true, kind),
            None => (false, scheme.strip_prefix("redis").ok_or(EXPECTED)?),
        };
        // The last one: nothing behind the password can have an @.
        let (who, rest) = match rest.rsplit_once('@') {
            Some((who, rest)) => (Some(who), rest),
            None => (None, rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let shape = match kind {
            "" => single(hosts, path)?,
            "+sentinel" => sentinel(hosts, path)?,
            "+cluster" => cluster(hosts, path)?,
            _ => return Err(EXPECTED.into()),
        };
        let (user, password) = match who {
            Some(who) => credentials(who)?,
            None => (None, None),
        };
        Ok(Self { shape, user, password, tls })
    }
}

fn single(hosts: &str, path: &str) -> Result<RedisShape, String> {
    let mut nodes = nodes(hosts, PORT)?;
    match (nodes.pop(), nodes.is_empty()) {
        (Some(node), true) => Ok(RedisShape::Single { node, db: db(path)? }),
        _ => Err("expected one host, or redis+sentinel or redis+cluster for several".into()),
    }
}

fn sentinel(hosts: &str, path: &str) -> Result<RedisShape, String> {
    let (master, path) = path.split_once('/').unwrap_or((path, ""));
    // What a name may have, as sentinel.conf says.
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if master.is_empty() || !master.bytes().all(is_name) {
        return Err("expected the master's name behind the Sentinels, such as /mymaster".into());
    }
    Ok(RedisShape::Sentinel {
        nodes: nodes(hosts, SENTINEL_PORT)?,
        master: master.to_owned(),
        db: db(path)?,
    })
}

fn cluster(hosts: &str, path: &str) -> Result<RedisShape, String> {
    match db(path)? {
        0 => Ok(RedisShape::Cluster { nodes: nodes(hosts, PORT)? }),
        _ => Err("expected no database but 0: a Cluster has no other".into()),
    }
}

fn db(path: &str) -> Result<u32, String> {
    let digits = if path.is_empty() { "0" } else { path };
    digits.parse().map_err(|_| "expected the number of a database behind the last /".into())
}

fn nodes(hosts: &str, default_port: u16) -> Result<Vec<RedisNode>, String> {
    let nodes: Vec<_> =
        hosts.split(',').map(|text| node(text, default_port)).collect::<Result<_, _>>()?;
    if nodes.len() > MOST_NODES {
        return Err(format!("expected at most {MOST_NODES} hosts"));
    }
    Ok(nodes)
}

fn node(text: &str, default_port: u16) -> Result<RedisNode, String> {
    let end_of_host = text.find(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match text.get(end_of_host..).and_then(|rest| rest.rfind(':')) {
        Some(colon) => {
            let (host, port) = text.split_at(end_of_host + colon);
            (host, value::port(port.strip_prefix(':').unwrap_or(port))?)
        }
        None => (text, default_port),
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err("expected an IPv6 address in brackets".into());
    }
    Ok(RedisNode { host: value::host(host)?, port })
}

/// User, if there is one, and password.
fn credentials(text: &str) -> Result<(Option<String>, Option<Secret>), String> {
    let decoded = |text: &str| match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err("expected user and password to be UTF-8".to_owned()),
    };
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let user = value::optional_text(&decoded(user)?)?;
    match value::secret(&decoded(password)?)? {
        Some(password) => Ok((user, Some(password))),
        None => Err("expected user:password or :password in front of the @".into()),
    }
}

const EXPECTED: &str = "expected redis://host:port/db, redis+sentinel://host:port,…/master/db or \
                        redis+cluster://host:port,…, each with rediss for TLS";

/// Far more than anybody has Sentinels; a Cluster tells its other nodes itself.
const MOST_NODES: usize = 64;
/// Of a URL, in bytes: this many long names.
const LONGEST: usize = 1 << 14;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RedisUrl {
        RedisUrl::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    fn node(host: &str, port: u16) -> RedisNode {
        RedisNode { host: host.into(), port }
    }

    #[test]
    fn every_shape_has_its_scheme() {
        let url = parse("redis://h:6380/3");
        assert_eq!(url.shape, RedisShape::Single { node: node("h", 6380), db: 3 });
        assert!(!url.tls && url.user.is_none() && url.password.is_none());
        for text in ["rediss://h", "rediss://h/", "rediss://h:6379/0"] {
            let url = parse(text);
            assert_eq!(url.shape, RedisShape::Single { node: node("h", 6379), db: 0 }, "{text}");
            assert!(url.tls, "{text}");
        }
        let url = parse("rediss+sentinel://h1:26380,h2/mymaster/2");
        let nodes = vec![node("h1", 26380), node("h2", 26379)];
        let master = "mymaster".to_owned();
        assert_eq!(url.shape, RedisShape::Sentinel { nodes, master, db: 2 });
        let url = parse("redis+cluster://[::1]:7001,[2001:db8::7],10.0.0.1:7003");
        let nodes = vec![node("::1", 7001), node("2001:db8::7", 6379), node("10.0.0.1", 7003)];
        assert_eq!(url.shape, RedisShape::Cluster { nodes });
    }

    #[test]
    fn who_asks_stands_in_front() {
        let who = |text: &str| {
            let RedisUrl { user, password, .. } = parse(text);
            (user, password.map(|password| password.reveal().to_owned()))
        };
        assert_eq!(who("redis://:hunter2@h"), (None, Some("hunter2".into())));
        assert_eq!(who("redis://ann:a%2Fb%40@h"), (Some("ann".into()), Some("a/b@".into())));
        let raw = (Some("ann".into()), Some("a/b@:c".into()));
        assert_eq!(who("redis+cluster://ann:a/b@:c@h:1,i:2"), raw, "as people write it");
    }

    #[test]
    fn what_is_no_url_of_redis_is_refused_without_its_password() {
        for text in [
            "h:6379",
            "http://h",
            "redis:/h",
            "redis-cluster://h",
            "rediss+unix://h",
            "redis://",
            "redis://:hunter2@",
            "redis://h:0",
            "redis://h:65536",
            "redis://h:",
            "redis://h/one",
            "redis://h/0/1",
            "redis://h/-1",
            "redis://h?db=1",
            "redis://h1,h2",
            "redis://::1:6379",
            "redis://[::1",
            "redis://[::1]6379",
            "redis://[h]:6379",
            "redis://ann@h",
            "redis://ann:@h",
            "redis://:%ff@h",
            "redis+sentinel://h",
            "redis+sentinel://h/my master",
            "redis+sentinel://h/m/0/1",
            "redis+cluster://:hunter2@h/1",
            "redis+cluster://h,",
        ] {
            let problem = RedisUrl::parse(text).expect_err(text);
            assert!(!problem.contains("hunter2"), "{text}: {problem}");
        }
        let many = format!("redis+cluster://{}", ["h"; MOST_NODES + 1].join(","));
        assert!(RedisUrl::parse(&many).is_err(), "too many hosts");
        assert!(RedisUrl::parse(&format!("redis://:{}@h", "x".repeat(LONGEST))).is_err());
        assert!(!format!("{:?}", parse("redis://:hunter2@h")).contains("hunter2"));
    }
}
