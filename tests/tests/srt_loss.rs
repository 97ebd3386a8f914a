//! SRT's own retransmission goes through the proxy: on either side of it packets may be lost.

use std::time::Duration;

use anyhow::Result;
use srs_proxy_tests::lossy::Lossy;
use srs_proxy_tests::proxy::Proxy;
use srs_proxy_tests::srt::{self, End, Peer, Program};
use srs_proxy_tests::{ports, story};

const TIME: Duration = Duration::from_secs(20);

#[test]
fn what_is_lost_before_the_proxy_is_sent_again() -> Result<()> {
    story(|folder| {
        let file = srt::transport_stream(folder, 6)?;
        let proxy = Proxy::start(folder, &[])?;
        let origin = ports::free()?;
        let receiver = Peer::plain(Program::LiveTransmit);
        let receiver = receiver.receive(folder, "origin", End::Listener(origin))?;
        srt::must_listen(origin)?;
        srt::register(origin, proxy.system_api(), "origin")?;
        let relay = Lossy::start(proxy.srt(), 5, 1)?;
        let caller = End::Caller(relay.address(), "#!::r=live/show,m=publish");
        let _sender = Peer::plain(Program::Ffmpeg).send(folder, "sender", caller, &file, TIME)?;
        receiver.must_have_all_of(&file, 2 * TIME)?;
        must_have_lost_some(&relay);
        Ok(())
    })
}

#[test]
fn what_is_lost_behind_the_proxy_is_sent_again() -> Result<()> {
    story(|folder| {
        let file = srt::transport_stream(folder, 6)?;
        let proxy = Proxy::start(folder, &[])?;
        let origin = ports::free()?;
        let listener = End::Listener(origin);
        let sender = Peer::plain(Program::LiveTransmit);
        let _sender = sender.send(folder, "origin", listener, &file, TIME)?;
        srt::must_listen(origin)?;
        let relay = Lossy::start(origin, 5, 2)?;
        srt::register(relay.address(), proxy.system_api(), "origin")?;
        let caller = End::Caller(proxy.srt(), "live/show");
        let receiver = Peer::plain(Program::Ffmpeg).receive(folder, "receiver", caller)?;
        receiver.must_have_all_of(&file, 2 * TIME)?;
        must_have_lost_some(&relay);
        Ok(())
    })
}

fn must_have_lost_some(relay: &Lossy) {
    let (passed, lost) = relay.passed_and_lost();
    assert!(passed > 1000 && lost > passed / 40, "{lost} lost, {passed} passed");
}
