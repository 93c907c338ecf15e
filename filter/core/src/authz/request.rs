//! Requests, in the form in which rules compare them.

use alloc::borrow::Cow;

use super::host::{Authority, DefaultPorts};
#[cfg(doc)]
use super::{AuthorizationPolicy, ESCAPED_SLASH};

/// The parts of a request that rules compare.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:authority`.
    pub host: &'a str,
    /// `:path`, with query.
    pub path: &'a str,
}

impl<'a> Request<'a> {
    /// Returns the path up to the query.
    pub(super) fn path_without_query(&self) -> &'a str {
        let end = self.path.bytes().position(|byte| byte == b'?');
        end.and_then(|end| self.path.get(..end))
            .unwrap_or(self.path)
    }
}

/// A request in the form in which rules compare it, built by [`AuthorizationPolicy::canonical`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalRequest<'a> {
    pub(super) method: &'a str,
    /// Parsed host; `None` if no rule compares hosts.
    pub(super) host: Option<Authority<'a>>,
    pub(super) path: Cow<'a, str>,
}

impl CanonicalRequest<'_> {
    /// Returns the path without query and with its escapes resolved; [`ESCAPED_SLASH`] stands for a
    /// kept `%2F`. If no rule compares paths, the path is unchanged.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Sets the ports that an authority without port may stand for. The default is every default
    /// port.
    #[must_use]
    pub fn with_default_ports(mut self, ports: DefaultPorts) -> Self {
        if let Some(host) = &mut self.host {
            host.set_default_ports(ports);
        }
        self
    }
}
