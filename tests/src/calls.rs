//! A session of WebRTC and one of SRT side by side, whose packets their origins send back.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::echo::Echo;
use crate::engine::Stage;
use crate::ice;
use crate::ice_client::Client;
use crate::srt_call::{self, Caller};
use crate::whip::Role;

/// Packets a second of a client.
pub const RATE: u32 = 200;
/// Packets of a client in a second.
pub const SECOND: u64 = 200;

/// An origin of WebRTC and one of SRT, which send packets back.
pub struct Origins(ice::Origin, srt_call::Origin);

/// A client of WebRTC and a caller of SRT, each with packets that come back.
pub struct Calls {
    /// Of WebRTC.
    pub webrtc: Echo<Client>,
    /// Of SRT.
    pub srt: Echo<Caller>,
}

impl Origins {
    /// Both, registered.
    pub fn start(stage: &Stage<'_>) -> Result<Self> {
        let webrtc = stage.origin(ice::Origin::start_at)?;
        let srt = stage.origin(start_receiver)?;
        let origins = Self(webrtc, srt);
        origins.register(stage)?;
        Ok(origins)
    }

    /// Registers them with the proxy that runs now.
    pub fn register(&self, stage: &Stage<'_>) -> Result<()> {
        let Self(webrtc, srt) = self;
        stage.register(|api| {
            webrtc.register_at(api, "webrtc")?;
            srt.register_at(api, "srt")
        })
    }

    /// A call of each on this stream.
    pub fn call(&self, stage: &Stage<'_>, stream: &str) -> Result<Calls> {
        let client = Client::open(stage.proxy.http_api(), Role::Publish, stream, stream)?;
        client.connect()?;
        Ok(Calls { webrtc: Echo::start(client, RATE, 0), srt: call_srt(stage, stream)? })
    }
}

/// An origin of SRT on this host.
pub fn start_receiver(host: IpAddr) -> Result<srt_call::Origin> {
    srt_call::Origin::start((host, 10080).into(), 1 << 20)
}

/// A caller of SRT on this stream.
pub fn call_srt(stage: &Stage<'_>, stream: &str) -> Result<Echo<Caller>> {
    let stream_id = format!("#!::r=live/srt-{stream},m=publish");
    let caller = Caller::call(stage.proxy.srt(), 7, &stream_id, SOON)?;
    Ok(Echo::start(caller, RATE, 0))
}

impl Calls {
    /// Waits for a second of packets of each.
    pub fn must_go_on(&self) -> Result<()> {
        self.webrtc.must_go_on_for(SECOND, SOON).context("WebRTC")?;
        self.srt.must_go_on_for(SECOND, SOON).context("SRT")
    }

    /// The clients, and a number that none of them has used.
    pub fn must_finish_without_loss(self) -> Result<(Client, Caller, u64)> {
        let (webrtc, one) = self.webrtc.must_finish_without_loss().context("WebRTC")?;
        let (srt, other) = self.srt.must_finish_without_loss().context("SRT")?;
        Ok((webrtc, srt, one.sent.max(other.sent)))
    }
}

const SOON: Duration = Duration::from_secs(10);
