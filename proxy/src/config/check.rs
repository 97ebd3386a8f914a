//! What no setting can see alone: conflicts between settings, and what deserves a warning.

use std::time::Duration;

use super::settings::{self as row, Setting};
use super::source::{Effective, Source};
use super::{Config, Error, ListenAddrs};
use crate::listen::media::HAS_RATES;

/// An error if this version cannot serve what the settings say together.
pub(super) fn conflicts(config: &Config, said: &Effective) -> Result<(), Error> {
    let wrong =
        |setting: &Setting, problem| Err(Error::Value { said: said.spell(setting), problem });
    if config.client.accept && config.client.trusted.is_empty() {
        let trusted = row::PROXY_TRUSTED_PROXIES.setting.name;
        let problem = format!("expected {trusted} to be set, too");
        return wrong(&row::PROXY_PROTOCOL_ACCEPT.setting, problem);
    }
    if config.shutdown.force < config.shutdown.grace {
        let grace = said.spell(&row::PROXY_GRACE_QUIT_TIMEOUT.setting);
        let force = &row::PROXY_FORCE_QUIT_TIMEOUT.setting;
        if said.of(force).source == Source::Default {
            let problem = format!("expected no more than {}", said.spell(force));
            return wrong(&row::PROXY_GRACE_QUIT_TIMEOUT.setting, problem);
        }
        let problem = format!("expected no less than {grace}");
        return wrong(force, problem);
    }
    // An origin must have its own time to fail before the time for all is over, or it is never
    // found to be down: to connect, to shake hands, to answer, and to answer the proxy itself.
    let origin = &config.origin;
    let connections = origin.connect_timeout.saturating_mul(3);
    if origin.setup_timeout < connections.saturating_add(origin.answer_timeout) {
        let problem = format!(
            "expected no less than three times {} and {} together",
            said.spell(&row::PROXY_ORIGIN_CONNECT_TIMEOUT.setting),
            said.spell(&row::PROXY_ORIGIN_ANSWER_TIMEOUT.setting),
        );
        return wrong(&row::PROXY_ORIGIN_SETUP_TIMEOUT.setting, problem);
    }
    let webrtc_tcp = config.webrtc.listen_tcp.as_ref();
    let tcp: Vec<_> = [
        (row::PROXY_RTMP_SERVER.setting, &config.rtmp.listen),
        (row::PROXY_SYSTEM_API.setting, &config.system_api.listen),
        (row::PROXY_HTTP_SERVER.setting, &config.http.listen),
        (row::PROXY_HTTP_API.setting, &config.http.api),
    ]
    .into_iter()
    .chain(webrtc_tcp.map(|listen| (row::PROXY_WEBRTC_TCP_SERVER.setting, listen)))
    .collect();
    let udp = [
        (row::PROXY_WEBRTC_SERVER.setting, &config.webrtc.listen),
        (row::PROXY_SRT_SERVER.setting, &config.srt.listen),
    ];
    one_server_per_port(&tcp, said)?;
    one_server_per_port(&udp, said)?;
    Ok(())
}

/// What the operator should know, one line each.
pub(super) fn warnings(config: &Config, said: &Effective) -> Vec<String> {
    let mut warnings = said.warnings.clone();
    // RFC 7675 5.1: agents check every five seconds, more or less, and a check may be lost.
    if config.webrtc.consent_timeout < Duration::from_secs(15) {
        let said = said.spell(&row::PROXY_WEBRTC_CONSENT_TIMEOUT.setting);
        warnings
            .push(format!("{said} may end sessions that go on: clients check every five seconds"));
    }
    if config.tcp.max_rate.is_some() && !HAS_RATES {
        let said = said.spell(&row::PROXY_TCP_MAX_RATE.setting);
        warnings.push(format!("{said} has no effect: this system holds no connection to a rate"));
    }
    let api = &config.system_api;
    if api.token.is_none() && api.allow.is_empty() && !api.listen.are_loopback() {
        warnings.push(format!(
            "any host that reaches {} may register origins: set {} or {}",
            said.spell(&row::PROXY_SYSTEM_API.setting),
            row::PROXY_SYSTEM_API_ALLOW.setting.name,
            row::PROXY_HTTP_API_AUTH_ENABLED.setting.name,
        ));
    }
    warnings
}

fn one_server_per_port(servers: &[(Setting, &ListenAddrs)], said: &Effective) -> Result<(), Error> {
    let is_default = |setting: &Setting| said.of(setting).source == Source::Default;
    for (index, (setting, listen)) in servers.iter().enumerate() {
        for (other, other_listen) in servers.iter().skip(index + 1) {
            if let Some((here, there)) = listen.overlap(other_listen) {
                // The one that somebody set is to be looked at.
                let swap = is_default(setting) && !is_default(other);
                let (setting, other, here, there) = if swap {
                    (other, setting, there, here)
                } else {
                    (setting, other, here, there)
                };
                let other = said.spell(other);
                let problem = format!("{here} is the same port as {there} in {other}");
                return Err(Error::Value { said: said.spell(setting), problem });
            }
        }
    }
    Ok(())
}
