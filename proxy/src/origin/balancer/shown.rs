//! What operators are shown of origins and routes.

use std::sync::Arc;
use std::time::Instant;

use super::{Balancer, Decision, NoOrigin, State};
use crate::origin::balance::{Policy, choose};
use crate::origin::health::Service;
use crate::origin::origin::{Listener, ServerName};
use crate::origin::registry::Member;
use crate::origin::standing::Standing;
use crate::origin::view::{Counts, Explanation, OriginView, Target};
use crate::stream::StreamKey;

impl Balancer {
    /// Every origin that is alive.
    pub fn origins(&self, now: Instant) -> Vec<OriginView> {
        let state = self.state.lock();
        state.registry.alive(now).map(|member| state.view(member, now)).collect()
    }

    /// The server or run of this name, if it is alive.
    pub fn view(&self, name: &str, now: Instant) -> Option<OriginView> {
        let state = self.state.lock();
        state.member(name, now).map(|member| state.view(member, now))
    }

    /// The server of this name, or of the run of this name, if it is alive, or if an operator wants
    /// something of it: one that was taken out may come back.
    pub fn server_named(&self, name: &str, now: Instant) -> Option<ServerName> {
        let state = self.state.lock();
        let alive = state.member(name, now).map(|member| member.origin.server().clone());
        alive.or_else(|| state.registry.remembered(name))
    }

    /// Where a client of this stream would go, and why. Changes nothing.
    pub fn explain(&self, key: &StreamKey, listener: Listener, now: Instant) -> Explanation {
        let state = self.state.lock();
        let (chosen, reason) = state.expect(self.policy, key, listener, now);
        Explanation {
            stream: key.to_string(),
            listener: listener.as_str(),
            origin: chosen.map(|member| Arc::clone(member.origin.name())),
            target: chosen.and_then(|member| {
                let (host, port) = member.origin.targets(listener).next()?;
                Some(Target { host: host.to_owned(), port })
            }),
            reason,
            owner: state.mirror.get(key).map(Arc::clone),
            policy: self.policy.as_str(),
            origins: state.registry.alive(now).map(|member| state.view(member, now)).collect(),
        }
    }

    /// How much there is of everything.
    pub fn counts(&self, now: Instant) -> Counts {
        let state = self.state.lock();
        let mut counts = Counts {
            routes_idle: state.routes.len() - state.routes.in_use(),
            routes_in_use: state.routes.in_use(),
            routes_mirrored: state.mirror.len(),
            ..Counts::default()
        };
        for member in state.registry.alive(now) {
            counts.count(OriginView::state_of(member));
        }
        counts
    }
}

impl State {
    /// Where a client would go, as far as one proxy can tell, and why.
    fn expect(
        &self,
        policy: Policy,
        key: &StreamKey,
        listener: Listener,
        now: Instant,
    ) -> (Option<&Member>, String) {
        let candidates = match self.decide(key, listener, &[], now) {
            Ok(Decision::Keep(member)) => {
                return (Some(member), "the stream is routed to it".into());
            }
            Ok(Decision::Place(candidates)) => candidates,
            Err(none) => return (None, none.to_string()),
        };
        let is_deaf = self.registry.is_deaf();
        match self.theirs(key, Service::of(listener), now) {
            Some(member) if member.origin.offers(listener) => {
                let reason = if is_deaf {
                    "another proxy had it there last, and the store does not answer"
                } else if member.standing == Standing::Draining {
                    "another proxy has it there; if nobody uses it any more, a new route"
                } else {
                    "another proxy has it there, or had it last"
                };
                return (Some(member), reason.to_owned());
            }
            Some(member) if !is_deaf => {
                let name = member.origin.name();
                return (None, format!("another proxy has it at {name}: {}", NoOrigin::NotOffered));
            }
            _ => {}
        }
        if is_deaf {
            let chosen = choose(Policy::Rendezvous, key, &candidates, 0);
            let member = chosen.and_then(|chosen| self.registry.get(&chosen.server, now));
            let reason = "a new route, by the policy rendezvous: the store does not answer";
            return (member, reason.to_owned());
        }
        if policy == Policy::Random && candidates.len() > 1 {
            return (None, "a new route, to any origin that is up".to_owned());
        }
        let chosen = choose(policy, key, &candidates, 0);
        let member = chosen.and_then(|chosen| self.registry.get(&chosen.server, now));
        (member, format!("a new route, by the policy {}", policy.as_str()))
    }

    fn view(&self, member: &Member, now: Instant) -> OriginView {
        let server = member.origin.server();
        let elsewhere = self.elsewhere.get(server).copied().unwrap_or(0);
        OriginView::of(member, self.routes.of(server), elsewhere, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::balancer::tests::{balancer, balancer_with, pick, stream};
    use crate::origin::balancer::{BalancerSettings, Hearsay};

    #[test]
    fn an_explanation_says_what_a_pick_would_do_and_does_nothing() {
        let now = Instant::now();
        let balancer = balancer(&["a", "b"], now);
        let key = stream("s");
        let before = balancer.explain(&key, Listener::Rtmp, now);
        assert_eq!(balancer.counts(now).routes_idle, 0, "the explanation made a route");
        let lease = pick(&balancer, &key, now);
        assert_eq!(before.origin.as_ref(), Some(lease.origin().name()), "{}", before.reason);
        assert_eq!(before.target, Some(Target { host: "10.0.0.1".to_owned(), port: 1935 }));
        let after = balancer.explain(&key, Listener::Rtmp, now);
        assert_eq!((after.origin, &*after.reason), (before.origin, "the stream is routed to it"));
        let none = Balancer::new(BalancerSettings::default()).explain(&key, Listener::Rtmp, now);
        assert_eq!((none.origin, &*none.reason), (None, "no origin is registered"));
    }

    #[test]
    fn an_explanation_knows_of_streams_that_others_have() {
        let now = Instant::now();
        let settings = BalancerSettings { policy: Policy::Random, ..Default::default() };
        let balancer = balancer_with(settings, &["a", "b"], now);
        let key = stream("s");
        let expect = |listener| {
            let explained = balancer.explain(&key, listener, now);
            (explained.origin.map(|it| it.to_string()), explained.reason)
        };
        let stand = |server: &str, standing| {
            let standings = [(server.into(), standing)].into();
            balancer.learn(Hearsay { standings, ..Hearsay::default() }, now);
        };
        assert_eq!(expect(Listener::Rtmp).0, None, "chance decides");
        let a = Arc::clone(balancer.named("a", now).unwrap().name());
        balancer.placed(&key, &a, 1);
        let theirs = (Some(a.to_string()), "another proxy has it there, or had it last".to_owned());
        assert_eq!(expect(Listener::Rtmp), theirs);
        assert_eq!(balancer.explain(&key, Listener::Rtmp, now).owner, Some(Arc::clone(&a)));
        stand("a", Standing::Draining);
        let (origin, reason) = expect(Listener::Rtmp);
        assert_eq!(origin, theirs.0, "what is used there stays");
        assert!(reason.contains("if nobody uses it any more"), "{reason}");
        stand("a", Standing::Maintenance);
        let b = Some(balancer.named("b", now).unwrap().name().to_string());
        assert_eq!(expect(Listener::Rtmp).0, b);
        stand("a", Standing::Active);
        balancer.listen(Some(now), now);
        let (origin, reason) = expect(Listener::Rtmp);
        assert_eq!(origin, Some(a.to_string()));
        assert!(reason.contains("the store does not answer"), "{reason}");
        balancer.unplaced(&key, 1);
        let (origin, reason) = expect(Listener::Rtmp);
        let alone = balancer.pick_alone(&key, Listener::Rtmp, &[], now).unwrap();
        assert_eq!(origin, Some(alone.origin().name().to_string()), "{reason}");
    }
}
