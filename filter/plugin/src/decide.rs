//! Drives the core's decision for a request in the proxy.

use std::time::Duration;

use meshseal_core::authn::Verified;
use meshseal_core::decide::{self, Decision, KeyQuestion, Omission, Surroundings};
use meshseal_core::keys::SignatureVerifier;
use meshseal_core::rejection::Rejection;

use crate::config::Active;
use crate::headers::{AbiHeaders, ProxyRequest};
use crate::host::{Host, Level};
use crate::log;
use crate::verify::Verifier;
use crate::waiters::Source;

/// The proxy as the decision uses it.
struct Proxy<'a, H> {
    active: &'a Active,
    host: &'a H,
    verifier: Verifier<'a, H>,
}

impl<H: Host> Surroundings for Proxy<'_, H> {
    fn wall(&self) -> Duration {
        self.host.now()
    }

    fn steady_at(&self, wall: Duration) -> Duration {
        self.active.ticked.get().steady_at(wall, self.host)
    }

    fn steady(&self) -> Duration {
        self.host.steady()
    }

    fn verifier(&self) -> &dyn SignatureVerifier {
        &self.verifier
    }

    fn validated(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.active.metrics.validation_us(self.host, micros);
    }

    fn omitted(&self, omission: &Omission<'_>, token: &Verified) {
        if let Some(unlogged) = self.active.omissions.admit(self.host.steady()) {
            let line = log::omitted(omission, token, unlogged);
            self.host.log(Level::Warn, &line);
        }
    }
}

/// Decides about a request. Forged output headers must have been removed.
pub(crate) fn decide<'a>(
    active: &'a Active,
    host: &impl Host,
    request: &'a ProxyRequest,
) -> Decision<'a, AbiHeaders> {
    // INVARIANT: no callback runs inside a callback, so neither is borrowed here. Otherwise the
    // trusted keys are unknown, and no verdict is remembered.
    let Ok(trust) = active.trust.try_borrow() else {
        return Decision::Refuse(Rejection::KeysUnavailable.into());
    };
    let mut verdicts = active.verdicts.try_borrow_mut().ok();
    let verifier = Verifier {
        host,
        hosted: active.hosted.as_ref(),
    };
    let proxy = Proxy {
        active,
        host,
        verifier,
    };
    decide::decide(
        request,
        &active.policy,
        &trust,
        verdicts.as_deref_mut(),
        &proxy,
    )
}

/// Returns the sources that this proxy can ask for the key in question.
pub(crate) fn sources(active: &Active, question: &KeyQuestion) -> Vec<Source> {
    let source = |rule: &usize| {
        active
            .jwks
            .source_of(*rule)
            .map_or(Source::Bundle, Source::Jwks)
    };
    question.jwt_rules.iter().map(source).collect()
}
