//! ProxyRequest headers as the ABI lays them out, for the decision.

use meshseal_abi::{HeaderMap, Pairs};
use meshseal_core::decide::{self, Incoming};

/// A header map as the ABI lays it out. Its pairs are read where they lie.
#[derive(Debug)]
pub struct AbiHeaders(HeaderMap);

impl decide::HeaderMap for AbiHeaders {
    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        Pairs::of(&self.0)
    }
}

/// A request in the proxy.
pub type ProxyRequest = Incoming<AbiHeaders>;

/// Returns the request with a header map as the ABI lays it out.
#[must_use]
pub fn request(map: impl Into<HeaderMap>) -> ProxyRequest {
    Incoming::new(AbiHeaders(map.into()))
}
