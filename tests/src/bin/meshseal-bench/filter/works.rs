//! What the contenders are asked to do, and which figures are held against which targets.

use anyhow::Result;
use meshseal_tests::clock::unix_now;

use super::arena::Work;
use super::contenders::{
    ISTIO, MESHSEAL, MESHSEAL_BARE, MESHSEAL_LIVE, NATIVE, NATIVE_BARE, PORTABLE,
};
use super::tokens::{Signer, request};
use crate::Effort;
use crate::drive::Requests;

/// The algorithms, and the most that a new token may cost, as a ratio to native.
pub(crate) const NEW: [(&str, f64); 5] = [
    ("EdDSA", 0.75),
    ("ES256", 0.9),
    ("RS256", 1.1),
    ("ES384", 1.1),
    ("ES512", 1.1),
];
/// The most that a verification without the host may cost, in microseconds.
pub(crate) const PORTABLE_US: [(&str, f64); 4] = [
    ("EdDSA", 100.0),
    ("ES256", 200.0),
    ("RS256", 350.0),
    ("PS256", 350.0),
];
/// Algorithms of repeated tokens; only the token's length differs.
const REPEATED: [&str; 3] = ["EdDSA", "ES256", "RS256"];
/// What is refused before a signature is looked at.
pub(crate) const REFUSED: [&str; 4] = ["malformed", "unknown kid", "expired", WRONG_AUDIENCE];
/// `jwt_authn` calls it forbidden.
const WRONG_AUDIENCE: &str = "wrong audience";
/// Algorithms whose forged tokens are repeated.
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

/// The works of a round; tokens that are to be new are made for it. `live` are tokens that stay the
/// same in all rounds.
pub(crate) fn round(signers: &[Signer], live: &Requests, effort: &Effort) -> Result<Vec<Work>> {
    let mut works = Vec::new();
    for signer in signers {
        let alg = signer.alg;
        // Signing with RSA and the larger curves takes the bench longer than anything else.
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
        let everybody = [
            ISTIO,
            NATIVE,
            MESHSEAL,
            NATIVE_BARE,
            MESHSEAL_BARE,
            PORTABLE,
        ];
        let contenders: &[&str] = if REPEATED.contains(&alg) {
            &everybody
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

/// A thousand different tokens that are refused for the same reason.
fn refused(what: &str, signer: &Signer) -> Result<Requests> {
    const DIFFERENT: usize = 1_000;
    let past = unix_now() - 7_200;
    match what {
        "malformed" => {
            // A header that is no JSON: {"alg":"ES256" without its end.
            let token = |at| format!("eyJhbGciOiJFUzI1NiI.{at:0>240}.{at:0>86}");
            Ok(Requests::new(
                (0..DIFFERENT).map(|at| request(&token(at))).collect(),
            ))
        }
        "unknown kid" => signer.requests_with(DIFFERENT, |token| token.header("kid", "nobody")),
        "expired" => signer.requests_with(DIFFERENT, |token| {
            token.claim("iat", past).claim("exp", past + 300)
        }),
        _ => signer.requests_with(DIFFERENT, |token| token.claim("aud", "billing")),
    }
}
