//! Short HTTP requests to a server on loopback.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use ureq::Agent;

/// An answer of any status.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The whole body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body)
            .with_context(|| format!("status {}, not JSON: {}", self.status, self.body))
    }
}

/// GET of `path`, which begins with a slash.
pub fn get(server: SocketAddr, path: &str) -> Result<Answer> {
    answer(AGENT.get(format!("http://{server}{path}")).call()?)
}

/// POST of this text.
pub fn post(server: SocketAddr, path: &str, body: &str) -> Result<Answer> {
    let request = AGENT.post(format!("http://{server}{path}"));
    answer(request.header("Content-Type", "application/json").send(body)?)
}

/// DELETE of `path`.
pub fn delete(server: SocketAddr, path: &str) -> Result<Answer> {
    answer(AGENT.delete(format!("http://{server}{path}")).call()?)
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Result<Answer> {
    let status = response.status().as_u16();
    Ok(Answer { status, body: response.body_mut().read_to_string()? })
}

static AGENT: LazyLock<Agent> = LazyLock::new(|| {
    let config = Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(5)))
        .http_status_as_error(false)
        // A server that was restarted on the same port must not meet an old connection.
        .max_idle_connections(0)
        .build();
    Agent::new_with_config(config)
});
