//! Counts the instructions of the hot path under valgrind and holds them against
//! `instructions.json`: `make bench-count`.
//!
//! The counts are the same on every run, so that a rise of a few percent is seen where a stopwatch
//! sees nothing. Each case runs twice, so many times and twice as many: the difference is the case
//! without what surrounds it. Signatures are left out, since their arithmetic is chosen by what the
//! CPU can do.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a surprise must stop the bench"
)]

mod fixtures;

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::hint::black_box;
use std::io::Write as _;
use std::process::{Command, ExitCode};
use std::rc::Rc;

use fixtures::{NOW, Signer, policy, revoked};
use meshseal_core::authn::{Trust, Verdicts, check, validate};
use meshseal_core::authz::Request;
use meshseal_core::bundle::Freshness;
use meshseal_core::revocation::{index_of, jti_with_index};
use serde::{Deserialize, Serialize};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");
/// The most that a count may rise, in percent.
const TOLERANCE: u64 = 5;
const TIMES: u64 = 200;

/// What has been counted, and what compiled it.
#[derive(Serialize, Deserialize)]
struct Counts {
    rustc: String,
    instructions: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match arguments.as_slice() {
        [case, times] => {
            run(case, times.parse().unwrap());
            ExitCode::SUCCESS
        }
        _ => guard(std::env::var("ACCEPT").is_ok_and(|accept| accept == "1")),
    }
}

const CASES: [&str; 5] = [
    "a repeated token",
    "a new token but its signature",
    "a new token of 50 claims but its signature",
    "policy of 10 rules",
    "revocation among 10000",
];

/// Does one thing so many times.
fn run(case: &str, times: u64) {
    let signer = Signer::ed25519(1);
    let (policy, trust) = (policy(&[&signer], 10), Trust::new());
    let token = signer.token(if case.contains("50 claims") { 50 } else { 8 });
    let verified = validate(&token, policy.authn(), &trust, NOW).unwrap();
    match case {
        "a repeated token" => {
            let mut verdicts = Verdicts::new(BuildHasherDefault::<DefaultHasher>::default());
            verdicts.accept(
                &token,
                verified.proof(),
                Rc::new(policy.authz().evaluate(&verified, policy.authn())),
                0,
                &trust,
            );
            repeat(times, || {
                verdicts
                    .get(black_box(token.as_bytes()), policy.authn(), &trust, || NOW)
                    .is_some()
            });
        }
        "policy of 10 rules" => {
            let request = Request {
                method: "GET",
                host: "orders",
                path: "/orders/1",
            };
            let results = policy.authz().evaluate(&verified, policy.authn());
            let allowed = |request| {
                policy
                    .authz()
                    .authorize(&request, &results, Freshness::default())
                    .is_ok()
            };
            repeat(times, || {
                policy
                    .authz()
                    .canonical(black_box(&request))
                    .is_ok_and(allowed)
            });
        }
        "revocation among 10000" => {
            let (set, jti) = (revoked(10_000), jti_with_index(500_001, [1; 8]));
            repeat(times, || !set.contains(index_of(black_box(&jti)).unwrap()));
        }
        _ => repeat(times, || {
            check(black_box(&token), policy.authn(), &trust, || NOW).is_ok()
        }),
    }
}

fn repeat(times: u64, mut good: impl FnMut() -> bool) {
    for _ in 0..times {
        assert!(good(), "the case does not do what it should");
    }
}

fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Counts, and compares or takes what was counted.
fn guard(accept: bool) -> ExitCode {
    let instructions = CASES
        .iter()
        .map(|case| ((*case).to_owned(), each(case)))
        .collect();
    let rustc = Command::new("rustc")
        .arg("--version")
        .output()
        .unwrap()
        .stdout;
    let counts = Counts {
        rustc: String::from_utf8_lossy(&rustc).trim().to_owned(),
        instructions,
    };
    if accept {
        std::fs::write(
            BASELINE,
            serde_json::to_string_pretty(&counts).unwrap() + "\n",
        )
        .unwrap();
        say(&format!("Taken into {BASELINE}; commit it, and say why."));
        return ExitCode::SUCCESS;
    }
    let baseline = std::fs::read_to_string(BASELINE).unwrap();
    let good = compare(&serde_json::from_str(&baseline).unwrap(), &counts);
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn compare(baseline: &Counts, counts: &Counts) -> bool {
    let mut good = true;
    for (case, now) in &counts.instructions {
        let before = baseline.instructions.get(case).copied().unwrap_or(0);
        let verdict = match before {
            _ if *now * 100 > before * (100 + TOLERANCE) => {
                good = false;
                "ROSE"
            }
            _ if *now * (100 + TOLERANCE) < before * 100 => {
                "fell: take the new count, so that it is guarded"
            }
            _ => "",
        };
        say(&format!("{case:<45} {before:>8} -> {now:>8}  {verdict}"));
    }
    if baseline.rustc != counts.rustc {
        say(&format!(
            "The counts are of {}, this is {}: take the new ones.",
            baseline.rustc, counts.rustc
        ));
        good = false;
    }
    if !good {
        say("If this must be, take the new counts: make bench-count ACCEPT=1");
    }
    good
}

/// Instructions of a case, once.
fn each(case: &str) -> u64 {
    (collected(case, 2 * TIMES) - collected(case, TIMES)) / TIMES
}

/// Instructions of the whole program that does it so many times.
fn collected(case: &str, times: u64) -> u64 {
    let program = std::env::current_exe().unwrap();
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([case, &times.to_string()]);
    let output = valgrind.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "valgrind failed:\n{said}");
    let (_, rest) = said.split_once("Collected : ").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}
