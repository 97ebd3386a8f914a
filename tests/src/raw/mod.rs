//! Scripted HTTP peers: a client and an origin, on an implementation that is not the proxy's.
//!
//! Both read strictly by RFC 9112 and send whatever they are told to.

mod client;
mod files;
pub mod live;
mod message;
mod origin;
mod viewers;

use std::path::Path;

use anyhow::Result;

pub use self::client::Client;
pub use self::files::files;
pub use self::message::{Head, Request, Response};
pub use self::origin::{Exchange, Origin, register};
pub use self::viewers::Viewers;
use crate::proxy::Proxy;

/// A proxy with these variables, and a scripted origin that is registered with it.
pub fn behind_a_proxy(
    folder: &Path,
    variables: &[(&str, &str)],
    answer: impl Fn(&Request, &mut Exchange<'_>) -> Result<()> + Send + Sync + 'static,
) -> Result<(Proxy, Origin)> {
    let origin = Origin::start(answer)?;
    let proxy = Proxy::start(folder, variables)?;
    origin.register_at(proxy.system_api(), "origin")?;
    Ok((proxy, origin))
}
