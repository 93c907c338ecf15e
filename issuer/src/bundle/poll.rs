//! Query and headers of a poll (ADR 22).

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::HeaderMap;
use meshseal_core::bundle::{
    PINS_HEADER, PROOF_HEADER, PROTOCOL, PROTOCOL_HEADER, STALENESS_HEADER, StalenessBound,
};
use serde::Deserialize;

use super::publisher::Publisher;
use crate::error::Problem;

/// Longest wait in seconds. Many intermediaries close connections that are idle for a minute.
const MAX_WAIT_S: u64 = 55;

/// Longest node id in bytes.
const MAX_NODE_BYTES: usize = 128;

/// Longest list of pins in bytes: two key ids of 256 bytes and a comma.
const MAX_PINS_BYTES: usize = 513;

/// Query parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    have: Option<u64>,
    #[serde(default)]
    wait: u64,
}

/// A well-formed poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Poll {
    /// Version that the proxy states to hold.
    pub(super) have: Option<u64>,
    /// True if the poll carries a valid proof of that version.
    pub(super) proven: bool,
    /// Longest time to hold the poll, in seconds.
    pub(super) wait_s: u64,
    /// Protocol of the answer: the older of the proxy's and the issuer's.
    pub(super) protocol: u32,
    /// Worker that polls; `None` for a client that is no proxy.
    pub(super) worker: Option<Introduction>,
}

/// Identity and settings that a worker states in its poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Introduction {
    /// Random id of one worker and trust store.
    pub(super) id: u64,
    /// Node id of the proxy.
    pub(super) node: String,
    /// Longest time for which the worker's rules accept tokens by one bundle. Protocol 1 does not
    /// state it; the not-after is assumed.
    pub(super) staleness: StalenessBound,
    /// Ids of the bundle keys that the worker pins, separated by commas. Protocol 1 does not state
    /// them.
    pub(super) pins: String,
}

impl Poll {
    /// Reads a poll and checks its proof.
    ///
    /// # Errors
    /// 400 for a malformed query or header.
    pub(super) fn read(
        publisher: &Publisher,
        headers: &HeaderMap,
        query: Result<Query<Parameters>, QueryRejection>,
    ) -> Result<Self, Problem> {
        let Query(Parameters { have, wait }) = query.map_err(|_| {
            Problem::bad_request("the query must be `have=VERSION&wait=SECONDS`, both optional")
        })?;
        if wait > MAX_WAIT_S {
            return Err(Problem::bad_request(format!(
                "`wait` may be at most {MAX_WAIT_S} seconds"
            )));
        }
        let protocol = protocol(headers)?;
        // A wrong proof counts as no proof and is no error.
        let proof = text(headers, PROOF_HEADER);
        let proven = have
            .zip(proof)
            .is_some_and(|(have, proof)| publisher.proves(have, proof));
        Ok(Self {
            have,
            proven,
            wait_s: wait,
            protocol,
            worker: Introduction::read(headers, protocol)?,
        })
    }

    /// Returns the version that counts as held: a proven version, or, in protocol 1, which has no
    /// proofs, any version that was published.
    pub(super) fn held(&self, published: u64) -> Option<u64> {
        self.have
            .filter(|have| self.proven || (self.protocol < 2 && *have <= published))
    }
}

impl Introduction {
    fn read(headers: &HeaderMap, protocol: u32) -> Result<Option<Self>, Problem> {
        let Some(id) = id(headers)? else {
            return Ok(None);
        };
        let node = text(headers, "x-meshseal-node").unwrap_or_default();
        let node = node.get(..MAX_NODE_BYTES).unwrap_or(node).to_owned();
        // Protocol 1 has neither of the headers that are required below.
        if protocol < 2 {
            return Ok(Some(Self {
                id,
                node,
                staleness: StalenessBound::NotAfter,
                pins: String::new(),
            }));
        }
        let staleness = text(headers, STALENESS_HEADER)
            .and_then(StalenessBound::parse)
            .ok_or_else(|| {
                Problem::bad_request(format!(
                    "`{STALENESS_HEADER}` must be a number of seconds, `not-after` or `unbounded`"
                ))
            })?;
        let pins = text(headers, PINS_HEADER)
            .filter(|pins| pins.len() <= MAX_PINS_BYTES)
            .ok_or_else(|| {
                Problem::bad_request(format!(
                    "`{PINS_HEADER}` must be a list of key ids with at most {MAX_PINS_BYTES} bytes"
                ))
            })?;
        Ok(Some(Self {
            id,
            node,
            staleness,
            pins: pins.to_owned(),
        }))
    }
}

/// Returns the value of a header, if it is visible ASCII.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Reads the protocol of the answer. A poll without the header speaks protocol 1.
fn protocol(headers: &HeaderMap) -> Result<u32, Problem> {
    let Some(value) = headers.get(PROTOCOL_HEADER) else {
        return Ok(1);
    };
    let stated = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<u32>().ok())
        .filter(|stated| *stated > 0);
    stated.map(|stated| stated.min(PROTOCOL)).ok_or_else(|| {
        Problem::bad_request(format!("`{PROTOCOL_HEADER}` must be a whole number from 1"))
    })
}

/// Reads the worker's id, if the poll states one.
fn id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("x-meshseal-worker") else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .ok()
        .filter(|text| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let worker = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    worker
        .map(Some)
        .ok_or_else(|| Problem::bad_request("`x-meshseal-worker` must be 16 hexadecimal digits"))
}
