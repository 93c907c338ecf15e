//! The issuer's configuration: YAML for people, checked whole before anything starts. Every mistake
//! is reported at once, each with its path and what to do about it.

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

/// Leeway in seconds that an issuer's `clockSkew` may ask for, as in the filter (rule V12).
pub const MAX_CLOCK_SKEW_S: u64 = meshseal_core::limits::MAX_CLOCK_SKEW_S;

/// Longest that any token may live, in seconds, whatever the configuration said when it was issued:
/// the most that `tokens.maxLifetime` takes, and the leeway of proxies.
pub const MAX_TOKEN_LIFE_S: u64 = MAX_LIFETIME_S + MAX_CLOCK_SKEW_S;

/// The most that `tokens.maxLifetime` takes, in seconds.
pub(crate) const MAX_LIFETIME_S: u64 = 86_400;

/// The most that `keys.jwksMaxAge` takes, in seconds.
pub(crate) const MAX_JWKS_AGE_S: u64 = 86_400;

/// A whole, checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The issuer identifier: `iss` of every token, the same string everywhere (I24).
    pub issuer: String,
    /// Where to listen; port 0 takes a free one.
    pub listen: String,
    /// Where operators are served (`/admin/…`): not where everybody else is.
    pub admin_listen: String,
    /// Where Prometheus is served beside the listener for operators, if anywhere.
    pub metrics_listen: Option<String>,
    /// Where state is kept.
    pub database: Location,
    /// Seconds for which a connection to PostgreSQL is used at most.
    pub database_connection_life_s: u64,
    /// Signing keys.
    pub keys: KeySettings,
    /// Tokens.
    pub tokens: TokenSettings,
    /// Where the key that encrypts the others is.
    pub master_key: MasterKeySource,
    /// The trust bundle.
    pub bundle: BundleSettings,
    /// Work that one peer may cause (I32).
    pub limits: LimitSettings,
    /// Services: who tokens are for.
    pub services: Vec<Service>,
    /// Clients: who may ask for tokens.
    pub clients: Vec<Client>,
}

/// How signing keys live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySettings {
    /// What new keys are for.
    pub algorithm: Algorithm,
    /// Seconds that a key signs before the next takes over; `None` for never.
    pub rotate_every_s: Option<u64>,
    /// Seconds to wait for proxies to confirm the next key before it is used all the same, loudly.
    pub ack_timeout_s: u64,
    /// Longest time in seconds for which readers may keep a document of `/jwks`. A new key waits
    /// for as long.
    pub jwks_max_age_s: u64,
}

/// How long tokens live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// Seconds a token lives unless its service says otherwise.
    pub lifetime_s: u64,
    /// Longest lifetime in seconds that any service may have. Keys and revocations are kept so
    /// long.
    pub max_lifetime_s: u64,
    /// Leeway in seconds for clocks of others.
    pub clock_skew_s: u64,
}

impl TokenSettings {
    /// Seconds after which a token signed now is certainly dead everywhere: proxies may grant the
    /// largest leeway there is.
    #[must_use]
    pub const fn longest_life_s(&self) -> u64 {
        self.max_lifetime_s.saturating_add(MAX_CLOCK_SKEW_S)
    }
}

/// Where the master key comes from: 32 bytes in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeySource {
    /// The environment variable `MESHSEAL_MASTER_KEY`, else a file beside the SQLite data file,
    /// made when both are new.
    Default,
    /// This file.
    File(PathBuf),
}

/// The trust bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleSettings {
    /// Seconds from a bundle's issue until filters must not use it any more.
    pub not_after_s: u64,
    /// Digests of the tokens with which proxies may poll; empty: anybody may.
    pub poll_tokens: Vec<crate::clients::SecretHash>,
}

/// Work that one peer may cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Requests that one client may make in a second, whatever for; bursts of as many.
    pub requests_per_second: u32,
    /// Failed client authentications that one source address may cause in a second; bursts of ten
    /// times as many.
    pub failures_per_second: u32,
    /// Connections held at a time, waiting proxies among them.
    pub connections: usize,
    /// Connections that one source address other than loopback may hold at a time; 0 for no bound,
    /// as behind a gateway.
    pub connections_per_address: usize,
    /// Tokens that one client may have revoked at a time, unless it is an administrator.
    pub revoked_tokens_per_client: u64,
}

/// Who tokens are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `aud` of its tokens.
    pub audience: String,
    /// Scopes it knows.
    pub scopes: Vec<String>,
    /// Seconds its tokens live.
    pub lifetime_s: u64,
    /// Clients (resource servers) that may introspect its tokens, beside the client of each token.
    pub introspectors: Vec<String>,
}

impl Config {
    /// The service with this audience.
    #[must_use]
    pub fn service(&self, audience: &str) -> Option<&Service> {
        self.services
            .iter()
            .find(|service| service.audience == audience)
    }

    /// What `meshseal serve` runs with when nothing is said: loopback, a SQLite file here, no
    /// client.
    #[must_use]
    pub fn default_settings() -> Self {
        sections::defaults()
    }
}
