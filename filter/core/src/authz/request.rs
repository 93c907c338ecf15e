//! A request in the form that rules compare.

use alloc::borrow::Cow;

use super::host::{Authority, DefaultPorts};
#[cfg(doc)]
use super::{AuthorizationPolicy, ESCAPED_SLASH};

/// What rules look at in a request.
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
    pub(super) fn path_without_query(&self) -> &'a str {
        let end = self.path.bytes().position(|byte| byte == b'?');
        end.and_then(|end| self.path.get(..end))
            .unwrap_or(self.path)
    }
}

/// A request in the form that rules compare; made by [`AuthorizationPolicy::canonical`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalRequest<'a> {
    pub(super) method: &'a str,
    /// `None` if no rule looks at hosts.
    pub(super) host: Option<Authority<'a>>,
    pub(super) path: Cow<'a, str>,
}

impl CanonicalRequest<'_> {
    /// The path without query, its escapes resolved; [`ESCAPED_SLASH`] stands for a kept `%2F`. As
    /// it came if no rule looks at paths.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// States the ports that an authority without port may stand for. All default ports, if this is
    /// not called.
    #[must_use]
    pub fn with_default_ports(mut self, ports: DefaultPorts) -> Self {
        if let Some(host) = &mut self.host {
            host.set_default_ports(ports);
        }
        self
    }
}
