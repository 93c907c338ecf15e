//! Plugin configuration in force.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::authn::RequestAuthentication;
use crate::authz::AuthorizationPolicy;
use crate::bundle::StalenessBound;

/// Plugin configuration without mistakes.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(crate) mode: Mode,
    pub(crate) stat_prefix: Box<str>,
    pub(crate) bypass_cors_preflight: bool,
    pub(crate) host_verification: bool,
    pub(crate) challenge: Challenge,
    pub(crate) authn: RequestAuthentication,
    pub(crate) authz: AuthorizationPolicy,
    pub(crate) warnings: Vec<Mistake>,
}

impl Policy {
    /// Returns the accepted issuers.
    #[must_use]
    pub fn authn(&self) -> &RequestAuthentication {
        &self.authn
    }

    /// Returns the route rules.
    #[must_use]
    pub fn authz(&self) -> &AuthorizationPolicy {
        &self.authz
    }

    /// Returns the longest time for which any rule still uses one bundle; zero if no issuer's keys
    /// come from the bundle.
    #[must_use]
    pub fn staleness_bound(&self) -> StalenessBound {
        if self.authn.uses_bundle() {
            self.authz.staleness_bound()
        } else {
            StalenessBound::Seconds(0)
        }
    }

    /// Returns settings that are allowed but probably unintended, each with its path.
    #[must_use]
    pub fn warnings(&self) -> &[Mistake] {
        &self.warnings
    }

    /// Returns the settings of the response to a rejected caller.
    #[must_use]
    pub fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// Returns whether decisions are enforced.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns whether CORS preflight requests pass without a token.
    #[must_use]
    pub fn bypass_cors_preflight(&self) -> bool {
        self.bypass_cors_preflight
    }

    /// Returns whether the proxy may be asked to verify signatures, once it has proved to verify
    /// them correctly.
    #[must_use]
    pub fn host_verification(&self) -> bool {
        self.host_verification
    }

    /// Returns the configured part of metric names; may be empty.
    #[must_use]
    pub fn stat_prefix(&self) -> &str {
        &self.stat_prefix
    }
}

/// Mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Place, such as `jwtRules[0].audiences`.
    pub path: String,
    /// Finding and remedy.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            out.write_str(&self.message)
        } else {
            write!(out, "{}: {}", self.path, self.message)
        }
    }
}

/// Enforcement of decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reject requests that fail a check.
    Enforce,
    /// Decide and count, but let every request pass.
    Shadow,
}

/// Settings of the response to a rejected caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// `realm` (RFC 9110 §11.5).
    pub realm: Box<str>,
    /// `resource_metadata` (RFC 9728 §5.1).
    pub resource_metadata: Option<Box<str>>,
    /// True if the response names the check that failed. Logs, counters and response code details
    /// always name it.
    pub tells_reason: bool,
}

impl Default for Challenge {
    fn default() -> Self {
        Self {
            realm: "meshseal".into(),
            resource_metadata: None,
            tells_reason: true,
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
