//! A session that an earlier process has served, and that goes on here.

use std::sync::Arc;
use std::time::Instant;

use tracing::Instrument;

use super::media::{Known, Open};
use super::{Established, Srt};
use crate::origin::Listener;
use crate::proto::srt::packet::SocketId;
use crate::session::adopt::{Adopted, adopt};
use crate::session::memo::{BadMemo, Matter, Memo};
use crate::session::{Estate, NotAdopted};

impl Srt {
    /// Goes on with a session.
    pub fn adopt(self: &Arc<Self>, memo: &Memo, estate: Estate<'_>) -> Result<(), NotAdopted> {
        let Matter::Srt { client, origin, window } = memo.matter else {
            return Err(BadMemo::Malformed.into());
        };
        let now = Instant::now();
        let buffer = self.settings.buffer;
        let adopted = adopt(memo, &self.sessions, Listener::Srt, estate, buffer)?;
        let Adopted { live, span, lease, lane, exit } = adopted;
        let key = memo.key();
        let sockets = (SocketId(client), SocketId(origin));
        let established = Established::adopted(key.client.ip(), sockets, window);
        let (session, at) = (Arc::clone(live.session()), Arc::clone(lease.origin()));
        let known = Arc::new(Known::new(established, None, session, at, now));
        let Some(listed) = self.list(key, &known, &lane, exit, lease) else {
            return Err(NotAdopted::Taken);
        };
        let srt = Arc::clone(self);
        let open = Open::new(listed, known, lane);
        let session = async move {
            let end = srt.relay(open).await;
            live.end(end);
        };
        tokio::spawn(session.instrument(span));
        Ok(())
    }
}
