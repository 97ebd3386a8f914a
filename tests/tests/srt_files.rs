//! Files by SRT through the proxy: what arrives is what was sent, plain and encrypted, both ways.

use std::time::Duration;

use anyhow::Result;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::srt::{self, End, Peer, Program};
use srs_proxy_tests::{ports, story, wait};

const SOON: Duration = Duration::from_secs(10);
const A_MINUTE: Duration = Duration::from_mins(1);
const SECRET: &str = "a long secret of ours";

/// Seconds of a longer run, to be said in `SRS_PROXY_SRT_SECONDS`.
fn time() -> Duration {
    let seconds = std::env::var("SRS_PROXY_SRT_SECONDS").ok().and_then(|it| it.parse().ok());
    seconds.map_or(A_MINUTE, Duration::from_secs)
}

#[test]
fn what_is_published_arrives_as_it_was_sent() -> Result<()> {
    use Program::{Ffmpeg, LiveTransmit};
    exchange(&[
        (Peer::plain(LiveTransmit), "#!::r=live/one,m=publish", Peer::plain(Ffmpeg)),
        (Peer::plain(Ffmpeg), "#!::r=live/two,m=publish", Peer::plain(LiveTransmit)),
        (
            Peer::secret(Ffmpeg, SECRET),
            "#!::r=live/three,m=publish",
            Peer::secret(LiveTransmit, SECRET),
        ),
    ])
}

#[test]
fn what_is_played_arrives_as_it_was_sent() -> Result<()> {
    use Program::{Ffmpeg, LiveTransmit};
    exchange(&[
        (Peer::plain(LiveTransmit), "live/one", Peer::plain(Ffmpeg)),
        (Peer::plain(Ffmpeg), "#!::h=127.0.0.1,r=live/two,m=request", Peer::plain(LiveTransmit)),
        (Peer::secret(LiveTransmit, SECRET), "live/three", Peer::secret(Ffmpeg, SECRET)),
    ])
}

#[test]
fn a_wrong_secret_and_a_missing_origin_are_refused_at_once() -> Result<()> {
    story(|folder| {
        let proxy = Proxy::start(folder, &[])?;
        let file = srt::transport_stream(folder, 1)?;
        let caller = End::Caller(proxy.srt(), "#!::r=live/show,m=publish");
        let refused = |name: &str, peer: Peer| -> Result<()> {
            let mut sender = peer.send(folder, name, caller, &file, SOON)?;
            // libsrt waits three seconds for an answer: a refusal ends it before.
            let status = sender.process.wait(Duration::from_millis(2500))?;
            assert!(!status.success(), "{name} was let in");
            Ok(())
        };
        refused("no-origin", Peer::plain(Program::Ffmpeg))?;
        let address = ports::free()?;
        let listener = Peer::secret(Program::LiveTransmit, SECRET);
        let _origin = listener.receive(folder, "origin", End::Listener(address))?;
        srt::must_listen(address)?;
        srt::register(address, proxy.system_api(), "origin")?;
        refused("wrong-secret", Peer::secret(Program::Ffmpeg, "another long secret"))?;
        wait::until_true("nobody is left", SOON, || Ok(proxy.sessions()?.is_empty()))
    })
}

/// Callers and listeners exchange a file through the proxy, side by side, each pair with a proxy's
/// stream of its own. A caller whose stream id says publish sends, any other receives.
fn exchange(pairs: &[(Peer, &str, Peer)]) -> Result<()> {
    story(|folder| {
        let time = time();
        let file = srt::transport_stream(folder, u32::try_from(time.as_secs().div_ceil(10))?)?;
        let mut running = Vec::new();
        for (place, (first, id, second)) in pairs.iter().enumerate() {
            // A listener takes one caller: each pair has a proxy of its own, whose one origin it is.
            let proxy = Proxy::start_named(folder, &format!("proxy-{place}"), &[])?;
            let address = ports::free()?;
            let (listener, caller) = (End::Listener(address), End::Caller(proxy.srt(), id));
            let name = |role: &str| format!("{role}-{place}");
            let (sender, receiver) = if id.ends_with("publish") {
                let receiver = second.receive(folder, &name("receiver"), listener)?;
                srt::must_listen(address)?;
                srt::register(address, proxy.system_api(), "origin")?;
                (first.send(folder, &name("sender"), caller, &file, time)?, receiver)
            } else {
                let sender = first.send(folder, &name("sender"), listener, &file, time)?;
                srt::must_listen(address)?;
                srt::register(address, proxy.system_api(), "origin")?;
                (sender, second.receive(folder, &name("receiver"), caller)?)
            };
            running.push((proxy, sender, receiver));
        }
        for (_, _, receiver) in &running {
            receiver.must_have_all_of(&file, time + 2 * SOON)?;
        }
        for (proxy, sender, receiver) in running {
            let sessions = proxy.sessions()?;
            let protocols: Vec<_> = sessions.iter().map(|it| it.protocol.as_str()).collect();
            assert_eq!(protocols, ["srt"], "sessions of the proxy");
            drop((sender, receiver));
            // Both programs say goodbye; if not, ten seconds of silence do.
            wait::until_true("the session has ended", 2 * SOON, || {
                Ok(proxy.sessions()?.is_empty())
            })?;
        }
        Ok(())
    })
}
