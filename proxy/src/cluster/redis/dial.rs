//! One attempt to connect to Redis, in each of its shapes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo,
    IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisFuture, TlsCertificates, Value,
};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use super::link::LinkError;
use crate::config::{RedisNode, RedisShape, RedisTarget, RedisTls, Secret};

/// Something that commands can be sent on. A clone is the same connection.
#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

/// Connects. `deadline` is that of a command; the caller bounds the whole.
pub(super) async fn connect(
    target: &RedisTarget,
    deadline: Duration,
) -> Result<Connection, LinkError> {
    let certificates = match target.tls.clone() {
        Some(tls) => {
            let files = spawn_blocking(move || read(&tls)).await;
            Some(files.map_err(|error| LinkError::Down(error.to_string().into()))??)
        }
        None => None,
    };
    let dialer = Dialer { target, certificates, deadline };
    match &target.shape {
        RedisShape::Single { node, db } => dialer.server(node, *db).await.map(Connection::Server),
        RedisShape::Sentinel { nodes, master, db } => {
            dialer.master(nodes, master, *db).await.map(Connection::Server)
        }
        RedisShape::Cluster { nodes } => dialer.cluster(nodes).await.map(Connection::Cluster),
    }
}

/// The files of TLS as they are now.
fn read(tls: &RedisTls) -> Result<TlsCertificates, LinkError> {
    let read = |path: &Path| {
        let why =
            |error| LinkError::Down(format!("cannot read {}: {error}", path.display()).into());
        fs::read(path).map_err(why)
    };
    let client_tls = match &tls.identity {
        Some(identity) => Some(ClientTlsConfig {
            client_cert: read(&identity.cert)?,
            client_key: read(&identity.key)?,
        }),
        None => None,
    };
    let root_cert = tls.ca.as_deref().map(read).transpose()?;
    Ok(TlsCertificates { client_tls, root_cert })
}

struct Dialer<'a> {
    target: &'a RedisTarget,
    /// If TLS is spoken.
    certificates: Option<TlsCertificates>,
    deadline: Duration,
}

impl Dialer<'_> {
    /// A server that lets the proxy in.
    async fn server(&self, node: &RedisNode, db: u32) -> Result<MultiplexedConnection, LinkError> {
        let mut login = self.login();
        login = login.set_db(db.into());
        let mut server = open(self.client(node, login)?).await?;
        // Without a password nothing has been asked so far.
        let pong = redis::cmd("PING").query_async::<Value>(&mut server).await;
        is_let_in(pong.map(|_| ()).map_err(LinkError::from))?;
        Ok(server)
    }

    /// The master of this name. All Sentinels are asked at once: the first that knows one which
    /// really is a master is believed.
    async fn master(
        &self,
        sentinels: &[RedisNode],
        name: &str,
        db: u32,
    ) -> Result<MultiplexedConnection, LinkError> {
        let mut answers = JoinSet::new();
        for sentinel in sentinels {
            let mut login = RedisConnectionInfo::default();
            if let Some(password) = &self.target.sentinel_password {
                login = login.set_password(password.reveal());
            }
            let mut question = redis::cmd("SENTINEL");
            question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
            answers.spawn(ask_sentinel(self.client(sentinel, login)?, question));
        }
        let mut why = LinkError::Down("no Sentinel answers".into());
        while let Some(answer) = answers.join_next().await {
            let master = match answer {
                Ok(Ok(Some((host, port)))) => RedisNode { host, port },
                Ok(Ok(None)) => {
                    why = LinkError::Down(format!("the Sentinels know no master {name}").into());
                    continue;
                }
                Ok(Err(error)) => {
                    why = error;
                    continue;
                }
                // A task that panicked has said so itself.
                Err(_) => continue,
            };
            // A master that vanished must not use up the time of the one that follows it.
            match timeout(ONE_OF_SEVERAL, self.checked_master(&master, db)).await {
                Ok(Ok(server)) => return Ok(server),
                Ok(Err(error)) => why = error,
                Err(_) => why = LinkError::Late,
            }
        }
        Err(why)
    }

    async fn checked_master(
        &self,
        node: &RedisNode,
        db: u32,
    ) -> Result<MultiplexedConnection, LinkError> {
        let mut server = self.server(node, db).await?;
        let role = redis::cmd("ROLE").query_async::<Vec<Value>>(&mut server).await;
        let is_master = |role: Vec<Value>| match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(()),
            _ => Err(LinkError::Down(
                format!("{}:{} is no longer the master", node.host, node.port).into(),
            )),
        };
        is_let_in(role.map_err(LinkError::from).and_then(is_master))?;
        Ok(server)
    }

    /// The Cluster of which these are nodes.
    async fn cluster(&self, nodes: &[RedisNode]) -> Result<ClusterConnection, LinkError> {
        let infos = nodes.iter().map(|node| self.info(node, self.login()));
        let infos = infos.collect::<Result<Vec<_>, _>>()?;
        // While the crate looks for a lost node, commands for the others wait: that takes less than
        // their time.
        let mut builder = ClusterClient::builder(infos)
            .tcp_settings(tcp_settings())
            .connection_timeout(self.deadline / 2)
            .response_timeout(self.deadline)
            .retries(RETRIES)
            .min_retry_wait(SHORTEST_WAIT)
            .max_retry_wait(LONGEST_WAIT);
        if let Some(certificates) = self.certificates.clone() {
            builder = builder.certs(certificates);
        }
        let connected = match builder.build() {
            Ok(client) => client.get_async_connection().await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(cluster) => Ok(cluster),
            Err(error) => {
                // The crate tells that no node could be used, a node why.
                for node in nodes {
                    let one = timeout(self.deadline, self.server(node, 0)).await;
                    if let Ok(Err(why)) = one {
                        return Err(why);
                    }
                }
                Err(error.into())
            }
        }
    }

    fn login(&self) -> RedisConnectionInfo {
        let RedisTarget { user, password, .. } = self.target;
        let mut login = RedisConnectionInfo::default();
        if let Some(user) = user {
            login = login.set_username(user);
        }
        if let Some(password) = password.as_ref().map(Secret::reveal) {
            login = login.set_password(password);
        }
        login
    }

    fn client(&self, node: &RedisNode, login: RedisConnectionInfo) -> Result<Client, LinkError> {
        let info = self.info(node, login)?;
        let client = match self.certificates.clone() {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        };
        Ok(client?)
    }

    fn info(
        &self,
        node: &RedisNode,
        login: RedisConnectionInfo,
    ) -> Result<ConnectionInfo, LinkError> {
        let RedisNode { host, port } = node.clone();
        let addr = match self.certificates {
            Some(_) => {
                // Refused if there is one, which does as well.
                let _ = rustls::crypto::ring::default_provider().install_default();
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            }
            None => ConnectionAddr::Tcp(host, port),
        };
        let info = addr.into_connection_info()?;
        Ok(info.set_redis_settings(login).set_tcp_settings(tcp_settings()))
    }
}

/// Commands are small, and somebody waits for each. A node of a Cluster that vanishes is known by
/// TCP alone: the crate asks for its successor only when the connection has ended.
fn tcp_settings() -> TcpSettings {
    let probes = TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(probes);
    // Probes are sent only while nothing waits for an acknowledgement (tcp(7)).
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(SILENCE * 2);
    settings
}

/// Callers have deadlines of their own, which end before the crate's would.
async fn open(client: Client) -> Result<MultiplexedConnection, LinkError> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

async fn ask_sentinel(client: Client, question: Cmd) -> Result<Option<(String, u16)>, LinkError> {
    let mut sentinel = open(client).await?;
    Ok(question.query_async(&mut sentinel).await?)
}

/// A user whose rights are few may not ask this, and yet is let in.
fn is_let_in(answer: Result<(), LinkError>) -> Result<(), LinkError> {
    match answer {
        Err(LinkError::Refused(why)) if why.starts_with("NOPERM") => Ok(()),
        other => other,
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(server) => server.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(server) => server.req_packed_commands(commands, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(server) => server.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

const ONE_OF_SEVERAL: Duration = Duration::from_millis(700);

/// Of TCP, before it asks whether the other side is there; it gives up after the second time.
const SILENCE: Duration = Duration::from_secs(1);

/// Of a command that a Cluster sends elsewhere. Each may look for a lost node anew, while the
/// commands for the others wait. Times are in milliseconds.
const RETRIES: u32 = 2;
const SHORTEST_WAIT: u64 = 10;
const LONGEST_WAIT: u64 = 50;
