//! What an operator wants of an origin.

use serde::{Deserialize, Serialize};

/// What a server is to be used for. It outlives the server's runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Everything.
    #[default]
    Active,
    /// The streams that are used there, until nobody uses them; no others.
    Draining,
    /// Nothing: whoever comes goes elsewhere. Sessions that are there go on.
    Maintenance,
}

impl Standing {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Active, Self::Draining, Self::Maintenance];

    /// The word used in logs and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }
}
