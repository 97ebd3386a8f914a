//! The link to Redis against real servers: let in or refused, behind Sentinels, in a Cluster, and
//! gone in every way in which a server can go.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use redis::cmd;
use srs_proxy::cluster::redis::{Link, LinkError, Script};
use srs_proxy::config::{RedisIdentity, RedisNode, RedisShape, RedisTarget, RedisTls, Secret};
use srs_proxy_tests::redis::{Certificates, Delay, Redis, RedisCluster, Sentinel, obstacle};
use srs_proxy_tests::skip;
use tempfile::TempDir;

#[test]
fn a_server_lets_in_who_knows_the_password() -> Result<()> {
    with_redis(async {
        let redis = Redis::options()
            .password("hunter2")
            .user("proxy", "hunter3", "~ours:* +@all -ping -debug")
            .start()?;
        let user = |name: &str, password: &str| RedisTarget {
            user: Some(name.into()),
            password: Some(Secret::new(password)),
            ..single(redis.address(), None)
        };
        for target in [single(redis.address(), Some("hunter2")), user("proxy", "hunter3")] {
            let link = Link::open(&target, DEADLINE);
            link.greet(SOON).await?;
            link.query::<()>(cmd("SET").arg("ours:a").arg("1")).await?;
            assert_eq!(
                link.query::<Option<String>>(cmd("GET").arg("ours:a")).await?,
                Some("1".into())
            );
            let script = Script::new("return {KEYS[1], ARGV[1], ARGV[2]}");
            for _ in 0..2 {
                let said: Vec<String> = link.script(&script, &["ours:a"], &["b", "c"]).await?;
                assert_eq!(said, ["ours:a", "b", "c"]);
            }
            let mut commands = redis::pipe();
            commands.cmd("INCR").arg("ours:a").cmd("DEL").arg("ours:a");
            assert_eq!(link.pipeline::<(i64, i64)>(&commands).await?, (2, 1));
            link.query::<()>(cmd("RPUSH").arg("ours:l").arg("x")).await?;
            let error = link.query::<String>(cmd("GET").arg("ours:l")).await.unwrap_err();
            assert!(
                matches!(&error, LinkError::Server { code, .. } if &**code == "WRONGTYPE"),
                "{error}"
            );
            let mut commands = redis::pipe();
            commands.cmd("PING").cmd("INCR").arg("ours:l");
            let failed = link.pipeline::<(String, i64)>(&commands).await.unwrap_err();
            if target.user.is_none() {
                assert_eq!(failed, error, "one of a pipeline fails as it does alone");
            } else {
                assert_eq!(failed.as_str(), "refused", "it may not PING: {failed}");
            }
            let error = link.query::<i64>(cmd("RPOP").arg("ours:l")).await.unwrap_err();
            assert_eq!(error.as_str(), "malformed", "{error}");
        }
        let link = Link::open(&user("proxy", "hunter3"), DEADLINE);
        link.greet(SOON).await?;
        let error = link.query::<()>(cmd("SET").arg("theirs").arg("1")).await.unwrap_err();
        assert!(matches!(&error, LinkError::Refused(why) if why.starts_with("NOPERM")), "{error}");
        link.query::<()>(cmd("SET").arg("ours:a").arg("1")).await?;

        for wrong in [
            single(redis.address(), None),
            single(redis.address(), Some("hunter9")),
            user("proxy", "hunter9"),
            user("nobody", "hunter9"),
        ] {
            let begun = Instant::now();
            let error = Link::open(&wrong, DEADLINE).greet(SOON).await.unwrap_err();
            assert_eq!(error.as_str(), "refused", "{error}");
            assert!(!format!("{error} {error:?} {wrong:?}").contains("hunter9"), "{error:?}");
            assert!(begun.elapsed() < SOON, "a refusal is known at once");
        }
        Ok(())
    })
}

#[test]
fn tls_is_spoken_with_those_whom_the_authority_knows() -> Result<()> {
    with_redis(async {
        let folder = TempDir::new()?;
        let ours = Certificates::create(folder.path(), "ours")?;
        let other = Certificates::create(folder.path(), "other")?;
        let redis = Redis::options().password("hunter2").tls(&ours).start()?;
        let target = |ca: &Certificates, identity| RedisTarget {
            tls: Some(RedisTls { ca: Some(ca.ca.clone()), identity }),
            ..single(redis.address(), Some("hunter2"))
        };
        let identity = RedisIdentity { cert: ours.cert.clone(), key: ours.key.clone() };
        for identity in [None, Some(identity)] {
            let link = Link::open(&target(&ours, identity), DEADLINE);
            link.greet(SOON).await?;
            link.query::<()>(cmd("SET").arg("a").arg("1")).await?;
        }
        let why = |target: RedisTarget| async move {
            let greeted = Link::open(&target, DEADLINE).greet(Duration::from_secs(1)).await;
            greeted.unwrap_err().to_string()
        };
        let text = why(target(&other, None)).await;
        assert!(text.contains("invalid peer certificate"), "{text}");
        let missing = Certificates { ca: folder.path().join("nowhere.pem"), ..ours.clone() };
        let text = why(target(&missing, None)).await;
        assert!(text.contains("cannot read") && text.contains("nowhere.pem"), "{text}");
        let text = why(single(redis.address(), Some("hunter2"))).await;
        assert!(text.starts_with("Redis cannot be reached"), "{text}");
        Ok(())
    })
}

#[test]
fn the_replica_that_sentinels_promote_is_found() -> Result<()> {
    with_redis(async {
        let mut master = Redis::options().password("hunter2").start()?;
        let replica = Redis::options().replica_of(&master).start()?;
        let sentinel = Sentinel::start_with(Redis::options().password("hunter5"), &master, 1)?;
        // One of the Sentinels is gone, which holds nobody up.
        let nodes = vec![node(srs_proxy_tests::ports::free()?), node(sentinel.address())];
        let target = RedisTarget {
            shape: RedisShape::Sentinel { nodes, master: Sentinel::MASTER.into(), db: 0 },
            sentinel_password: Some(Secret::new("hunter5")),
            ..single(master.address(), Some("hunter2"))
        };
        let link = Link::open(&target, DEADLINE);
        link.greet(SOON).await?;
        link.query::<()>(cmd("SET").arg("a").arg("1")).await?;
        master.kill()?;
        until("the replica is master", Duration::from_secs(12), || async {
            link.query::<()>(cmd("SET").arg("a").arg("2")).await
        })
        .await?;
        assert_eq!(replica.cli(&["GET", "a"])?, "2");

        let unknown = RedisShape::Sentinel {
            nodes: vec![node(sentinel.address())],
            master: "nobody".into(),
            db: 0,
        };
        let unknown = RedisTarget { shape: unknown, ..target.clone() };
        let error = Link::open(&unknown, DEADLINE).greet(Duration::from_secs(1)).await.unwrap_err();
        assert!(error.to_string().contains("no master nobody"), "{error}");
        let unasked = RedisTarget { sentinel_password: None, ..target };
        let error = Link::open(&unasked, DEADLINE).greet(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.as_str(), "refused", "{error}");
        Ok(())
    })
}

#[test]
fn a_dead_node_of_a_cluster_takes_only_its_own_keys() -> Result<()> {
    with_redis(async {
        let mut cluster = RedisCluster::start_with(&Redis::options().password("hunter2"), 3)?;
        let nodes = cluster.nodes.iter().map(|it| node(it.address())).collect();
        let shape = RedisShape::Cluster { nodes };
        let target = RedisTarget { shape, ..single(cluster.nodes[0].address(), Some("hunter2")) };
        let wrong = RedisTarget { password: Some(Secret::new("hunter9")), ..target.clone() };
        let error = Link::open(&wrong, DEADLINE).greet(SOON).await.unwrap_err();
        assert_eq!(error.as_str(), "refused", "{error}");

        // Long enough that a busy machine is not taken for a dead node.
        let deadline = DEADLINE * 2;
        let link = Link::open(&target, deadline);
        link.greet(SOON).await?;
        let script = Script::new("return redis.call('INCR', KEYS[1])");
        let keys: Vec<_> = (0..60).map(|it| format!("key:{it}")).collect();
        for key in &keys {
            link.query::<()>(cmd("SET").arg(key).arg(1)).await?;
            assert_eq!(link.script::<i64>(&script, &[key], &[""; 0]).await?, 2);
            let mut commands = redis::pipe();
            commands.cmd("INCR").arg(key).cmd("GET").arg(key);
            assert_eq!(link.pipeline::<(i64, i64)>(&commands).await?, (3, 3));
        }
        let (mut dead, mut alive) = (Vec::new(), Vec::new());
        for key in keys {
            let keys = if cluster.node_of(&key)? == 2 { &mut dead } else { &mut alive };
            keys.push(key);
        }
        for paused in [true, false] {
            if paused {
                cluster.nodes[2].pause()?;
            } else {
                cluster.nodes[2].kill()?;
            }
            let mut late = None;
            for round in 0..5 {
                let ask = |key: &String| {
                    let (link, key) = (link.clone(), key.clone());
                    tokio::spawn(async move {
                        let begun = Instant::now();
                        (link.query::<i64>(cmd("GET").arg(&key)).await, begun.elapsed())
                    })
                };
                let of_dead: Vec<_> = dead.iter().take(5).map(ask).collect();
                for one in alive.iter().map(ask).collect::<Vec<_>>() {
                    let (answer, took) = one.await?;
                    ensure!(took < deadline + SLACK, "it took {took:?}");
                    // The crate holds everybody up while it looks for a lost node, on a busy
                    // machine for longer than a deadline, but not again.
                    let is_held_up =
                        answer == Err(LinkError::Late) && late.is_none_or(|it| it == round);
                    assert!(is_held_up || answer == Ok(3), "paused: {paused}, {round}: {answer:?}");
                    late = if is_held_up { Some(round) } else { late };
                }
                for one in of_dead {
                    let (answer, took) = one.await?;
                    ensure!(took < deadline + SLACK, "it took {took:?}");
                    let error = answer.unwrap_err();
                    assert!(matches!(error.as_str(), "down" | "late"), "{error}");
                }
            }
            if paused {
                cluster.nodes[2].resume()?;
                until("the node is back", SOON, || async {
                    link.query::<i64>(cmd("GET").arg(&dead[0])).await
                })
                .await?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_server_that_was_killed_is_found_again_and_nobody_waits_for_it() -> Result<()> {
    with_redis(async {
        let mut redis = Redis::start()?;
        let link = Link::open(&single(redis.address(), None), DEADLINE);
        link.greet(SOON).await?;
        redis.kill()?;
        let error = link.query::<()>(&cmd("PING")).await.unwrap_err();
        assert_eq!(error.as_str(), "down", "{error}");
        for _ in 0..100 {
            let begun = Instant::now();
            let error = link.query::<()>(&cmd("PING")).await.unwrap_err();
            assert!(begun.elapsed() < SLACK, "it took {:?}", begun.elapsed());
            assert_eq!(error.as_str(), "down", "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        redis.restart()?;
        until("the server is back", SOON, || async { link.query::<()>(&cmd("PING")).await })
            .await?;

        let nobody = Link::open(&single(srs_proxy_tests::ports::free()?, None), DEADLINE);
        let error = nobody.greet(Duration::from_millis(500)).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        Ok(())
    })
}

#[test]
fn no_command_outlives_its_deadline() -> Result<()> {
    with_redis(async {
        let redis = Redis::start()?;
        let relay = Delay::before(redis.address(), Duration::ZERO)?;
        let link = Link::open(&single(relay.address(), None), DEADLINE);
        link.greet(SOON).await?;
        link.query::<()>(&cmd("PING")).await?;

        relay.set(DEADLINE / 2);
        let begun = Instant::now();
        link.query::<()>(&cmd("PING")).await?;
        ensure!(begun.elapsed() >= DEADLINE / 2, "the relay does not delay");
        relay.set(DEADLINE * 2);
        assert_eq!(link.query::<()>(&cmd("PING")).await, Err(LinkError::Late));
        relay.set(Duration::ZERO);
        // Behind the answer that was late.
        until("it is fast again", SOON, || async { link.query::<()>(&cmd("PING")).await }).await?;

        relay.black_hole(true);
        let hole = Instant::now();
        let mut down = 0;
        while hole.elapsed() < Duration::from_secs(4) {
            let many = [&link; 20].map(|link| {
                let link = link.clone();
                tokio::spawn(async move {
                    let begun = Instant::now();
                    (link.query::<()>(&cmd("PING")).await.unwrap_err(), begun.elapsed())
                })
            });
            for one in many {
                let (error, took) = one.await?;
                let is_down = error.as_str() == "down";
                let limit = if is_down { SLACK } else { DEADLINE + SLACK };
                ensure!(took < limit, "{error}: it took {took:?}");
                down += u32::from(is_down);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ensure!(down > 0, "a connection that answers nothing is given up");
        relay.black_hole(false);
        until("the network is back", SOON, || async { link.query::<()>(&cmd("PING")).await }).await
    })
}

fn with_redis(story: impl Future<Output = Result<()>>) -> Result<()> {
    match obstacle() {
        Some(why) => skip(&why),
        None => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?
            .block_on(story),
    }
}

fn single(address: SocketAddr, password: Option<&str>) -> RedisTarget {
    RedisTarget {
        shape: RedisShape::Single { node: node(address), db: 0 },
        user: None,
        password: password.map(Secret::new),
        sentinel_password: None,
        tls: None,
    }
}

fn node(address: SocketAddr) -> RedisNode {
    RedisNode { host: address.ip().to_string(), port: address.port() }
}

async fn until<T, F: Future<Output = Result<T, LinkError>>>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match ask().await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => bail!("{what}: not in {limit:?}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Of a command.
const DEADLINE: Duration = Duration::from_millis(200);
/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_millis(100);
/// For what should come at once, or after one pause between attempts.
const SOON: Duration = Duration::from_secs(5);
