//! A session that an earlier process has served, and that goes on here.

use std::sync::Arc;
use std::time::Instant;

use tracing::Instrument;

use super::guest::Guest;
use super::signalling::Listed;
use super::{Ice, Known, Webrtc, select};
use crate::cluster::store::{WebrtcPlace, WebrtcRecord};
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
        let own_name = name;
        let record = |name: &str, password: Option<&str>| WebrtcRecord {
            name: name.to_owned(),
            stream: lease.key().clone(),
            place: password.map(|password| WebrtcPlace {
                server: lease.origin().server().clone(),
                media: lane.origin(),
                password: password.to_owned(),
                role: memo.role,
                former: (name != own_name).then(|| own_name.clone()),
            }),
        };
        // The other kind of proxy has told none.
        let is_guest = passwords.is_empty();
        let names: Vec<_> = if is_guest {
            vec![(name.as_str(), None)]
        } else {
            passwords.iter().map(|(name, password)| (name.as_str(), Some(&**password))).collect()
        };
        let is_shared = self.cluster.is_shared();
        let kept = names.iter().filter(|_| is_shared);
        let kept = kept.map(|(name, word)| self.cluster.keep_webrtc(record(name, *word))).collect();
        let known = Known {
            name: name.as_str().into(),
            ice: Ice::adopted(passwords, now),
            ending: Arc::clone(&ending),
            reached: live.session().destination.ip(),
            origin: Arc::clone(lease.origin()),
            session: Arc::clone(live.session()),
            guest: is_guest.then(|| Guest::proven(record(name, None))),
            kept,
        };
        let key = memo.key();
        let mut table = self.table.lock();
        let id = table.insert(known, Arc::clone(&lane), memo.flow_ends(), now);
        let names = names.into_iter().map(|(name, _)| name);
        for name in [name.as_str()].into_iter().chain(names).filter(|_| !is_guest) {
            table.name(id, Name::Ice(name.into()));
        }
        table.learn(id, key, exit, now);
        select(&mut table, id, &key);
        drop(table);
        let place = is_guest.then(|| self.guests.list(name, key, id)).flatten();
        let listed = Listed { webrtc: Arc::clone(self), id, ending, lease, place };
        tokio::spawn(Arc::clone(self).serve(listed, lane, live, memo.role).instrument(span));
        Ok(())
    }
}
