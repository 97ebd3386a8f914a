//! A session that an earlier process has served, and that goes on here.

use std::sync::Arc;
use std::time::Instant;

use tracing::Instrument;

use super::signalling::Listed;
use super::{Ice, Known, Webrtc, select};
use crate::origin::Listener;
use crate::session::adopt::{Adopted, adopt};
use crate::session::flow::Name;
use crate::session::memo::{BadMemo, Matter, Memo};
use crate::session::{Ending, Estate, NotAdopted};

impl Webrtc {
    /// Goes on with a session, as if its origin had just consented.
    pub fn adopt(self: &Arc<Self>, memo: &Memo, estate: Estate<'_>) -> Result<(), NotAdopted> {
        let Matter::Webrtc { name, passwords } = &memo.matter else {
            return Err(BadMemo::Malformed.into());
        };
        let now = Instant::now();
        let buffer = self.settings.buffer;
        let adopted = adopt(memo, &self.sessions, Listener::Api, estate, buffer)?;
        let Adopted { live, span, lease, lane, exit } = adopted;
        let ending = Arc::new(Ending::default());
        let known = Known {
            name: name.as_str().into(),
            ice: Ice::adopted(passwords, now),
            ending: Arc::clone(&ending),
            reached: live.session().destination.ip(),
            origin: Arc::clone(lease.origin()),
            session: Arc::clone(live.session()),
        };
        let key = memo.key();
        let mut table = self.table.lock();
        let id = table.insert(known, Arc::clone(&lane), memo.flow_ends(), now);
        for name in [name].into_iter().chain(passwords.iter().map(|(name, _)| name)) {
            table.name(id, Name::Ice(name.as_str().into()));
        }
        table.learn(id, key, exit, now);
        select(&mut table, id, &key);
        drop(table);
        let listed = Listed { webrtc: Arc::clone(self), id, ending, lease };
        tokio::spawn(Arc::clone(self).serve(listed, lane, live, memo.role).instrument(span));
        Ok(())
    }
}
