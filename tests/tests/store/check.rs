//! What the existing proxy can read: every key that is shared with it, its JSON and its life.
//!
//! Made from what that proxy was seen to write, and from nothing of the writer's.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use redis::{Commands, Connection, cmd};
use serde_json::Value;

use crate::fleet::Where;

/// Looks at every key. The answer is the kinds of shared keys that there were.
pub(crate) fn all(place: &Where<'_>, prefix: &str) -> Result<BTreeSet<String>> {
    let head = if prefix.is_empty() { String::new() } else { format!("{prefix}:") };
    let mut kinds = BTreeSet::new();
    for mut redis in place.connections()? {
        let keys: Vec<String> = cmd("KEYS").arg("*").query(&mut redis)?;
        for key in keys {
            let name = key.strip_prefix(&head).and_then(|it| it.strip_prefix("srs-proxy-"));
            let name = name.with_context(|| format!("{key} begins as none of a proxy"))?;
            let kind = one(&mut redis, &head, &key, name).with_context(|| key.clone())?;
            kinds.extend(kind);
        }
    }
    Ok(kinds)
}

/// The kind of a shared key, none if it is only of this kind of proxy.
fn one(redis: &mut Connection, head: &str, key: &str, name: &str) -> Result<Option<String>> {
    let life: i64 = redis.pttl(key)?;
    if name == "all-servers" {
        ensure!(life == -1, "it ends in {life} ms");
        let keys: Vec<String> = serde_json::from_str(&redis.get::<_, String>(key)?)?;
        let unique: BTreeSet<&String> = keys.iter().collect();
        ensure!(unique.len() == keys.len(), "an origin twice: {keys:?}");
        let is_server = |it: &String| it.starts_with(&format!("{head}srs-proxy-server:"));
        ensure!(keys.iter().all(is_server), "{keys:?}");
        return Ok(Some(name.to_owned()));
    }
    let Some((kind, name)) = name.split_once(':') else {
        ensure!(["standings", "withdrawn", "votes", "proxies", "log", "secret"].contains(&name));
        ensure!(life > 0 || !["withdrawn", "votes", "proxies"].contains(&name), "for ever");
        return Ok(None);
    };
    if ["claim", "proxy", "place"].contains(&kind) {
        ensure!(life > 0, "it stays for ever");
        return Ok(None);
    }
    let value: String = redis.get(key)?;
    match kind {
        "server" => {
            ensure!((1..=300_000).contains(&life), "it ends in {life} ms");
            server(name, &value)?;
        }
        "url" => {
            // Until somebody has found the stream it may go soon: nobody else uses it.
            let claim = format!("{head}srs-proxy-claim:{{{key}}}");
            // A name with braces has its claim under another key.
            let found = redis.hget::<_, _, Option<String>>(claim, "found").unwrap_or_default();
            let is_found = found.as_deref() == Some("1");
            ensure!(
                life == -1 || life > if is_found { 3_600_000 } else { 0 },
                "it ends in {life} ms"
            );
            let server = value.strip_prefix(&format!("{head}srs-proxy-server:"));
            let server = server.with_context(|| format!("its owner is {value}"))?;
            ensure!(server.split('-').count() >= 3, "its owner is {value}");
        }
        "hls" | "spbhid" => {
            ensure!((100_000..=120_000).contains(&life), "it ends in {life} ms");
            let object = members(&value, &["spbhid", "stream_url", "full_url"])?;
            let of = if kind == "hls" { "stream_url" } else { "spbhid" };
            ensure!(object.get(of).and_then(Value::as_str) == Some(name), "{value}");
        }
        "rtc" | "ufrag" => {
            ensure!((100_000..=120_000).contains(&life), "it ends in {life} ms");
            let object = members(&value, &["stream_url", "ufrag"])?;
            let of = if kind == "rtc" { "stream_url" } else { "ufrag" };
            ensure!(object.get(of).and_then(Value::as_str) == Some(name), "{value}");
            let ufrag = object.get("ufrag").and_then(Value::as_str);
            ensure!(ufrag.is_some_and(|it| it.split(':').count() == 2), "{value}");
        }
        _ => bail!("no key of a proxy"),
    }
    Ok(Some(kind.to_owned()))
}

fn server(name: &str, value: &str) -> Result<()> {
    const MEMBERS: [&str; 11] = [
        "ip",
        "device_id",
        "server_id",
        "service_id",
        "pid",
        "rtmp",
        "http",
        "api",
        "srt",
        "rtc",
        "update_at",
    ];
    let object: serde_json::Map<String, Value> = serde_json::from_str(value)?;
    let present: Vec<_> = MEMBERS.into_iter().filter(|it| object.contains_key(*it)).collect();
    members(value, &present)?;
    let text = |member: &str| {
        let text = object.get(member).and_then(Value::as_str);
        text.with_context(|| format!("{member} in {value}"))
    };
    let id = format!("{}-{}-{}", text("server_id")?, text("service_id")?, text("pid")?);
    ensure!(id == name, "it is of {id}");
    ensure!(!text("ip")?.is_empty() && object.contains_key("rtmp"), "{value}");
    for (member, value) in &object {
        let Value::Array(endpoints) = value else {
            ensure!(value.as_str().is_some_and(|it| !it.is_empty()), "{member} is {value}");
            continue;
        };
        ensure!(!endpoints.is_empty(), "{member} is empty");
        for endpoint in endpoints {
            let endpoint = endpoint.as_str().context("an endpoint is text")?;
            let port = match member.as_str() {
                "rtmp" | "http" | "api" => endpoint,
                _ => {
                    let parts: Vec<_> = endpoint.split(':').collect();
                    let [_, _, port] = parts[..] else { bail!("{endpoint} of {member}") };
                    port
                }
            };
            ensure!(port.parse::<u16>().is_ok_and(|it| it > 0), "{endpoint} of {member}");
        }
    }
    // RFC 3339 5.6, with nanoseconds.
    let heard = text("update_at")?;
    let shape: String = heard.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    ensure!(shape == "0000-00-00T00:00:00.000000000Z", "update_at is {heard}");
    Ok(())
}

/// An object that has these members in this order, and no others.
fn members(value: &str, names: &[&str]) -> Result<serde_json::Map<String, Value>> {
    let object: serde_json::Map<String, Value> = serde_json::from_str(value)?;
    ensure!(object.len() == names.len(), "other members than {names:?}: {value}");
    let places = names.iter().map(|name| value.find(&format!("\"{name}\":")));
    let places = places.collect::<Option<Vec<_>>>();
    let places = places.with_context(|| format!("one of {names:?} lacks: {value}"))?;
    ensure!(places.is_sorted(), "in another order than {names:?}: {value}");
    ensure!(!value.contains(", ") && !value.contains(": "), "blanks: {value}");
    Ok(object)
}
