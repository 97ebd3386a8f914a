//! Who serves a stream: always the same live origin, whoever asks.
//!
//! [`registration`] turns a heartbeat into an [`Origin`]; [`Balancer`] keeps the origins and the
//! streams routed to them, and gives out a [`Lease`] per client.

mod balance;
mod balancer;
mod health;
mod kept;
#[expect(clippy::module_inception, reason = "the origin itself, beside what is done with it")]
mod origin;
pub mod registration;
mod registry;
mod routes;
mod standing;

pub use balance::Policy;
pub use balancer::{Balancer, BalancerSettings, Counts, Explanation, Lease, NoOrigin, OriginView};
pub use health::Service;
pub use kept::KeptOrigin;
pub use origin::{Endpoint, Listener, Origin, OriginHost, OriginId, ServerName, Transport};
pub use registry::{NotRegistered, Registered};
pub use standing::Standing;
