//! Counts the instructions of the hot path under valgrind and compares them with
//! `instructions.json`: `make bench-count`.
//!
//! The counts are equal on every run, so they show a rise of a few percent that a stopwatch cannot.
//! Each case runs with n and with 2n repetitions; the difference is the case without its setup.
//! Signatures are left out, because their arithmetic depends on the CPU's features.

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
/// Maximum rise of a count in percent.
const TOLERANCE: u64 = 5;
const TIMES: u64 = 200;

/// Recorded counts, with the compiler that produced them.
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

/// Runs a case this number of times.
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
            repeat(times, || {
                policy
                    .authz()
                    .canonical(black_box(&request))
                    .is_ok_and(|request| {
                        policy
                            .authz()
                            .authorize(&request, &results, Freshness::default())
                            .is_ok()
                    })
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

/// Counts all cases, then compares or records the counts.
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

/// Returns the instructions of a single run of a case.
fn each(case: &str) -> u64 {
    (collected(case, 2 * TIMES) - collected(case, TIMES)) / TIMES
}

/// Returns the instructions of the whole program with this number of repetitions.
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
