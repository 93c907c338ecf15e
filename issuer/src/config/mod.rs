//! Configuration of the issuer. The whole YAML document is checked before anything starts. All
//! mistakes are reported together, each with its path and a remedy.

mod duration;
mod file;
mod reader;
mod sections;

pub use file::{ConfigFileError, check, from_file, from_yaml, yaml_to_json};
pub use reader::{Members, Mistake, Mistakes, Node};
pub(crate) use sections::{FIELDS, check_name, check_scope, issuer_path};

use std::path::PathBuf;

use crate::clients::Client;
use crate::keys::Algorithm;
use crate::store::Location;

/// Largest clock skew in seconds that an issuer's `clockSkew` may set, as in the filter (rule V12).
pub const MAX_CLOCK_SKEW_S: u64 = meshseal_core::limits::MAX_CLOCK_SKEW_S;

/// Longest possible life of any token in seconds, under any configuration at its issue: the maximum
/// of `tokens.maxLifetime`, plus the clock skew of proxies.
pub const MAX_TOKEN_LIFE_S: u64 = MAX_LIFETIME_S + MAX_CLOCK_SKEW_S;

/// Maximum of `tokens.maxLifetime` in seconds.
pub(crate) const MAX_LIFETIME_S: u64 = 86_400;

/// Maximum of `keys.jwksMaxAge` in seconds.
pub(crate) const MAX_JWKS_AGE_S: u64 = 86_400;

/// Complete, checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Issuer identifier: `iss` of every token, the same string everywhere (I24).
    pub issuer: String,
    /// Address of the listener for clients and proxies; port 0 selects a free port.
    pub listen: String,
    /// Address of the separate listener for operators (`/admin/…`).
    pub admin_listen: String,
    /// Address of an additional listener for Prometheus.
    pub metrics_listen: Option<String>,
    /// Location of the database.
    pub database: Location,
    /// Longest use of a connection to PostgreSQL in seconds.
    pub database_connection_life_s: u64,
    /// Settings of signing keys.
    pub keys: KeySettings,
    /// Settings of tokens.
    pub tokens: TokenSettings,
    /// Source of the master key.
    pub master_key: MasterKeySource,
    /// Settings of the trust bundle.
    pub bundle: BundleSettings,
    /// Limits on the work that one peer may cause (I32).
    pub limits: LimitSettings,
    /// Services, which receive tokens.
    pub services: Vec<Service>,
    /// Clients, which request tokens.
    pub clients: Vec<Client>,
}

/// Settings of signing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySettings {
    /// Algorithm of new keys.
    pub algorithm: Algorithm,
    /// Seconds for which a key signs before the next one replaces it; `None` for no schedule.
    pub rotate_every_s: Option<u64>,
    /// Seconds to wait for proxies to confirm the next key before a forced rotation.
    pub ack_timeout_s: u64,
    /// Longest time in seconds for which readers may keep a document of `/jwks`. A new key waits
    /// this long before it signs.
    pub jwks_max_age_s: u64,
}

/// Settings of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// Lifetime in seconds of tokens whose service sets none.
    pub lifetime_s: u64,
    /// Longest lifetime in seconds that a service may set. Keys and revocations are kept at least
    /// this long.
    pub max_lifetime_s: u64,
    /// Clock skew in seconds that is allowed when the issuer checks times set by others.
    pub clock_skew_s: u64,
}

impl TokenSettings {
    /// Returns the seconds after which every verifier rejects a token that is signed now. Proxies
    /// may allow the largest clock skew.
    #[must_use]
    pub const fn longest_life_s(&self) -> u64 {
        self.max_lifetime_s.saturating_add(MAX_CLOCK_SKEW_S)
    }
}

/// Source of the master key (32 bytes in base64).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeySource {
    /// Environment variable `MESHSEAL_MASTER_KEY`, or else a file beside the SQLite database. The
    /// file is generated if both are new.
    Default,
    /// File with this path.
    File(PathBuf),
}

/// Settings of the trust bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleSettings {
    /// Seconds from a bundle's issue until filters must no longer use it.
    pub not_after_s: u64,
    /// Digests of the poll tokens. An empty list allows polls without a token.
    pub poll_tokens: Vec<crate::clients::SecretHash>,
}

/// Limits on the work that one peer may cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Requests of any kind that one client may make in a second, and in one burst.
    pub requests_per_second: u32,
    /// Failed client authentications that one source address may cause in a second. A burst may be
    /// ten times as large.
    pub failures_per_second: u32,
    /// Simultaneous connections, including those of waiting proxies.
    pub connections: usize,
    /// Simultaneous connections of one source address other than loopback; 0 for no limit, as
    /// behind a gateway.
    pub connections_per_address: usize,
    /// Revoked tokens that one client may have at a time, unless it is an administrator.
    pub revoked_tokens_per_client: u64,
}

/// Service, which receives tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Audience: `aud` of its tokens.
    pub audience: String,
    /// Scopes that it supports.
    pub scopes: Vec<String>,
    /// Lifetime of its tokens in seconds.
    pub lifetime_s: u64,
    /// Clients (resource servers) that may introspect its tokens, besides the client of each token.
    pub introspectors: Vec<String>,
}

impl Config {
    /// Returns the service with this audience.
    #[must_use]
    pub fn service(&self, audience: &str) -> Option<&Service> {
        self.services
            .iter()
            .find(|service| service.audience == audience)
    }

    /// Returns the settings of `meshseal serve` without a configuration: loopback addresses, a
    /// SQLite file in the working directory, and no clients.
    #[must_use]
    pub fn default_settings() -> Self {
        sections::defaults()
    }
}
