//! Workloads of the contenders, and the targets of their figures.

use anyhow::Result;
use meshseal_tests::clock::unix_now;

use super::arena::Work;
use super::contenders::{
    ISTIO, MESHSEAL, MESHSEAL_BARE, MESHSEAL_LIVE, NATIVE, NATIVE_BARE, PORTABLE,
};
use super::tokens::{Signer, request};
use crate::Effort;
use crate::drive::Requests;

/// Algorithms, and the maximum cost of a new token as a ratio to native.
pub(crate) const NEW: [(&str, f64); 5] = [
    ("EdDSA", 0.75),
    ("ES256", 0.9),
    ("RS256", 1.1),
    ("ES384", 1.1),
    ("ES512", 1.1),
];
/// Algorithms, and the maximum cost of a verification without the host in microseconds.
pub(crate) const PORTABLE_US: [(&str, f64); 4] = [
    ("EdDSA", 100.0),
    ("ES256", 200.0),
    ("RS256", 350.0),
    ("PS256", 350.0),
];
/// Algorithms of repeated tokens. For these the algorithms differ only in the length of the token.
const REPEATED: [&str; 3] = ["EdDSA", "ES256", "RS256"];
/// Workloads of tokens that are rejected before their signature is verified.
pub(crate) const REFUSED: [&str; 4] = ["malformed", "unknown kid", "expired", WRONG_AUDIENCE];
/// `jwt_authn` answers 403 to a wrong audience.
const WRONG_AUDIENCE: &str = "wrong audience";
/// Algorithms of repeated forged tokens.
pub(crate) const FLOOD: [&str; 3] = REPEATED;

pub(crate) const ONE_LIVE: &str = "ES256, one live token";
pub(crate) const MANY_LIVE: &str = "ES256, 10 000 live tokens in turn";

pub(crate) fn repeated(alg: &str) -> String {
    format!("{alg}, repeated token")
}

pub(crate) fn new(alg: &str) -> String {
    format!("{alg}, new tokens")
}

pub(crate) fn flood(alg: &str) -> String {
    format!("{alg}, one bad signature again and again")
}

pub(crate) fn forged(alg: &str) -> String {
    format!("{alg}, new bad signatures")
}

fn names(contenders: &[&str]) -> Vec<String> {
    contenders.iter().map(|name| (*name).to_owned()).collect()
}

fn good(
    name: String,
    requests: Requests,
    count: usize,
    warm_up: usize,
    contenders: &[&str],
) -> Work {
    Work {
        name,
        requests,
        count,
        warm_up,
        status: 200,
        native_status: 200,
        contenders: names(contenders),
    }
}

fn bad(
    name: String,
    requests: Requests,
    count: usize,
    warm_up: usize,
    contenders: &[&str],
) -> Work {
    Work {
        name,
        requests,
        count,
        warm_up,
        status: 401,
        native_status: 401,
        contenders: names(contenders),
    }
}

/// Returns the workloads of a round. New tokens are made for each round; the tokens in `live` stay
/// the same in all rounds.
pub(crate) fn round(signers: &[Signer], live: &Requests, effort: &Effort) -> Result<Vec<Work>> {
    let mut works = Vec::new();
    for signer in signers {
        let alg = signer.alg;
        // Signing with RSA and the larger curves takes most of the time of the bench.
        let count = if ["EdDSA", "ES256"].contains(&alg) {
            effort.new_tokens
        } else {
            effort.new_tokens / 3
        };
        works.push(good(
            new(alg),
            signer.requests(count)?,
            count,
            0,
            &[ISTIO, MESHSEAL, PORTABLE],
        ));
        let all = [
            ISTIO,
            NATIVE,
            MESHSEAL,
            NATIVE_BARE,
            MESHSEAL_BARE,
            PORTABLE,
        ];
        let contenders: &[&str] = if REPEATED.contains(&alg) {
            &all
        } else {
            &[PORTABLE]
        };
        // The first requests fill the caches.
        works.push(good(
            repeated(alg),
            signer.requests(1)?,
            effort.requests,
            100,
            contenders,
        ));
        // Bad signatures, repeated and new.
        if FLOOD.contains(&alg) {
            works.push(bad(
                flood(alg),
                signer.forged(1)?,
                effort.requests / 2,
                100,
                &[MESHSEAL, ISTIO],
            ));
            works.push(bad(
                forged(alg),
                signer.forged(count / 3)?,
                count / 3,
                0,
                &[MESHSEAL, ISTIO],
            ));
        }
        // One algorithm is enough, because these tokens are rejected before the signature.
        if alg == "ES256" {
            for what in REFUSED {
                let requests = refused(what, signer)?;
                let mut work = bad(
                    what.to_owned(),
                    requests,
                    effort.requests / 2,
                    0,
                    &[MESHSEAL, ISTIO],
                );
                if what == WRONG_AUDIENCE {
                    work.native_status = 403;
                }
                works.push(work);
            }
        }
    }
    // One live token against many.
    let one = Requests::new(live.iter().take(1).cloned().collect());
    works.push(good(
        ONE_LIVE.to_owned(),
        one,
        live.len(),
        100,
        &[MESHSEAL_LIVE],
    ));
    works.push(good(
        MANY_LIVE.to_owned(),
        live.clone(),
        live.len(),
        live.len(),
        &[MESHSEAL_LIVE],
    ));
    Ok(works)
}

/// Returns requests with a thousand different tokens that are rejected for the same reason.
fn refused(what: &str, signer: &Signer) -> Result<Requests> {
    const DIFFERENT: usize = 1_000;
    let past = unix_now() - 7_200;
    match what {
        "malformed" => {
            // A header that is not JSON: {"alg":"ES256" without the closing brace.
            const HEADER: &str = "eyJhbGciOiJFUzI1NiI";
            let tokens = (0..DIFFERENT).map(|at| format!("{HEADER}.{at:0>240}.{at:0>86}"));
            Ok(Requests::new(tokens.map(|token| request(&token)).collect()))
        }
        "unknown kid" => signer.requests_with(DIFFERENT, |token| token.header("kid", "nobody")),
        "expired" => signer.requests_with(DIFFERENT, |token| {
            token.claim("iat", past).claim("exp", past + 300)
        }),
        _ => signer.requests_with(DIFFERENT, |token| token.claim("aud", "billing")),
    }
}
