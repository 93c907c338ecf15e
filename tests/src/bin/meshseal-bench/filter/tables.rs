//! Tables of the main comparison.

use anyhow::Result;

use super::arena::Arena;
use super::contenders::{
    ISTIO, MESHSEAL, MESHSEAL_BARE, MESHSEAL_LIVE, NATIVE, NATIVE_BARE, PORTABLE, title,
};
use super::works::{
    self, MANY_LIVE, NEW, ONE_LIVE, PORTABLE_US, REFUSED, flood, forged, new, repeated,
};
use crate::process::{Sample, median};
use crate::report::{Bound, Table, short};

/// Two figures to compare.
struct Pair {
    what: String,
    ours: (String, &'static str),
    theirs: (String, &'static str),
    at_most: f64,
}

fn pair(
    what: &str,
    work: &str,
    (ours, theirs): (&'static str, &'static str),
    at_most: f64,
) -> Pair {
    Pair {
        what: what.to_owned(),
        ours: (work.to_owned(), ours),
        theirs: (work.to_owned(), theirs),
        at_most,
    }
}

fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    for alg in ["EdDSA", "ES256", "RS256"] {
        pairs.push(pair(
            "the same work as jwt_authn with cache",
            &repeated(alg),
            (MESHSEAL, NATIVE),
            0.9,
        ));
    }
    for alg in ["EdDSA", "ES256", "RS256"] {
        let what = "validation only, as jwt_authn with cache";
        pairs.push(pair(
            what,
            &repeated(alg),
            (MESHSEAL_BARE, NATIVE_BARE),
            1.8,
        ));
    }
    for (alg, at_most) in [("ES256", 0.08), ("RS256", 0.18)] {
        pairs.push(pair(
            "what Istio configures",
            &repeated(alg),
            (MESHSEAL, ISTIO),
            at_most,
        ));
    }
    for (alg, at_most) in NEW {
        pairs.push(pair(
            "a new token, the cheapest native way",
            &new(alg),
            (MESHSEAL, ISTIO),
            at_most,
        ));
    }
    for what in REFUSED {
        pairs.push(pair(
            "refused before its signature",
            what,
            (MESHSEAL, ISTIO),
            1.0,
        ));
    }
    for alg in works::FLOOD {
        let what = "a bad signature again, to the first time";
        let (ours, theirs) = ((flood(alg), MESHSEAL), (forged(alg), MESHSEAL));
        pairs.push(Pair {
            what: what.to_owned(),
            ours,
            theirs,
            at_most: 0.2,
        });
    }
    pairs.push(Pair {
        what: "10 000 live tokens in turn, to one".to_owned(),
        ours: (MANY_LIVE.to_owned(), MESHSEAL_LIVE),
        theirs: (ONE_LIVE.to_owned(), MESHSEAL_LIVE),
        at_most: 1.3,
    });
    pairs
}

/// Returns every ratio that has a target.
pub(crate) fn ratios(arena: &Arena) -> Result<Table> {
    let mut table = Table::new(
        "Ratios",
        "Added CPU for each request in µs, and its ratio; below 1 Meshseal (or the first of two \
         works) is cheaper.",
        [
            "compared",
            "token",
            "this, µs",
            "with, µs",
            "ratio",
            "target",
            "",
        ],
    );
    for Pair {
        what,
        ours,
        theirs,
        at_most,
    } in pairs()
    {
        let (ours_us, theirs_us) = (
            arena.added(&ours.0, ours.1)?,
            arena.added(&theirs.0, theirs.1)?,
        );
        let cells = [what, ours.0, short(ours_us), short(theirs_us)];
        table.judged(cells, ours_us / theirs_us, Bound::AtMost(at_most));
    }
    Ok(table)
}

/// Returns the cost of a verification without the host: the added CPU time of a new token minus
/// that of a repeated one.
pub(crate) fn portable(arena: &Arena) -> Result<Option<Table>> {
    if !arena.has(PORTABLE) {
        return Ok(None);
    }
    let mut table = Table::new(
        "Without the host's verify_signature",
        "`hostVerification: false`. A verification is what a new token costs more than a repeated \
         one; the ratio is that of a new token to native in the same run.",
        ["algorithm", "ratio to native", "µs", "target", ""],
    );
    for (alg, at_most) in PORTABLE_US {
        let new_us = arena.added(&new(alg), PORTABLE)?;
        let ratio = new_us / arena.added(&new(alg), ISTIO)?;
        let verification = new_us - arena.added(&repeated(alg), PORTABLE)?;
        table.judged(
            [alg.to_owned(), short(ratio)],
            verification,
            Bound::AtMost(at_most),
        );
    }
    Ok(Some(table))
}

/// Returns all figures.
pub(crate) fn figures(arena: &Arena) -> Result<Table> {
    let mut table = Table::new(
        "All figures",
        "Throughput and latency depend on the client beside Envoy, too: a rough picture.",
        [
            "token",
            "contender",
            "CPU, µs",
            "added, µs",
            "requests/s",
            "p50, µs",
            "p99, µs",
        ],
    );
    for (work, contender, samples) in arena.figures() {
        let of = |figure: fn(&Sample) -> f64| short(median(samples.iter().map(figure).collect()));
        table.row([
            work.to_owned(),
            title(contender).to_owned(),
            of(|sample| sample.cpu_us),
            short(arena.added(work, contender)?),
            of(|sample| sample.rate),
            of(|sample| sample.p50_us),
            of(|sample| sample.p99_us),
        ]);
    }
    Ok(table)
}
