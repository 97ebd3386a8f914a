//! Who serves a stream: always the same live origin, whoever asks.
//!
//! [`registration`] turns a heartbeat into an [`Origin`]; [`Balancer`] keeps the origins and the
//! streams routed to them, and gives out a [`Lease`] per client.

mod balance;
mod balancer;
mod health;
mod kept;
mod mirror;
#[expect(clippy::module_inception, reason = "the origin itself, beside what is done with it")]
mod origin;
pub mod registration;
mod registry;
mod routes;
mod standing;
mod view;

pub use balance::Policy;
pub use balancer::{
    Asked, Balancer, BalancerSettings, Hearsay, Lease, NoOrigin, Unsettled, UsedStream, Wish,
};
pub use health::Service;
pub use kept::KeptOrigin;
pub use origin::{Endpoint, Listener, Origin, OriginHost, OriginId, ServerName, Transport};
pub use registry::{NotRegistered, Registered};
pub use routes::Use;
pub use standing::Standing;
pub use view::{Counts, Explanation, OriginView};
