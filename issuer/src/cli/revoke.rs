//! `meshseal revoke`.

use std::process::ExitCode;

use serde_json::Value;

use super::remote::Remote;
use super::tokens_in::next_token;
use super::{Failure, Outcome, note, print};
use crate::revocation::{Laggard, Receipt, ReceiptState};

/// Revoke tokens, and wait until no proxy accepts them.
///
/// Prints the receipt:
/// {"revoked":true,"kind":…,"version":…,"state":…,"complete":…,"confirmed":…,"pending":…,
/// "unreachable":…,"proxies":…,"elapsed_ms":…,"waiting_for":[…]}. "known":false means that no
/// configured client has the name; a warning repeats it. Exit status: 0 if the receipt is complete;
/// 1 if nothing was revoked, or if some worker may still accept the tokens (each is listed on
/// standard error); 3 if the issuer does not know all workers.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:
  meshseal revoke --client-id operator --token < token.txt           # the token on standard input
  meshseal revoke --client-id operator --subject checkout            # all its tokens until now
  meshseal revoke --client-id operator --client checkout --issued-before 1767225600
  meshseal revoke --client-id operator --jti JTI                     # a `jti` from a log
  meshseal revoke --client-id operator --all --wait 30",
    group(clap::ArgGroup::new("what").required(true).args([
        "token", "jti", "key", "subject", "client", "session", "grant", "all",
    ]))
)]
pub(super) struct Revoke {
    #[command(flatten)]
    remote: Remote,
    /// Revoke the token on standard input.
    #[arg(long)]
    token: bool,
    /// Revoke the token with this `jti`, if the token itself is no longer available. Revokes the
    /// index in the `jti`, even if no token was issued with it.
    #[arg(long, value_name = "JTI", allow_hyphen_values = true)]
    jti: Option<String>,
    /// Revoke all tokens that this key signed. The key is taken out of use, as with `meshseal keys
    /// revoke`.
    #[arg(long, value_name = "KID", allow_hyphen_values = true)]
    key: Option<String>,
    /// Revoke all tokens of this subject.
    #[arg(long, value_name = "SUB")]
    subject: Option<String>,
    /// Revoke all tokens of this client.
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Revoke all tokens of this session.
    #[arg(long, value_name = "SID")]
    session: Option<String>,
    /// Revoke all tokens of this grant.
    #[arg(long, value_name = "GRANT")]
    grant: Option<String>,
    /// Revoke all tokens of the issuer.
    #[arg(long)]
    all: bool,
    /// Revoke only tokens issued before this time (Unix seconds); default: now.
    #[arg(long, value_name = "UNIX", conflicts_with_all = ["token", "jti", "key"])]
    issued_before: Option<u64>,
    /// Seconds to wait for proxies to confirm, at most 60.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=60))]
    wait: u64,
}

impl Revoke {
    pub(super) fn run(self) -> Outcome {
        let token = if self.token {
            Some(read_token()?)
        } else {
            None
        };
        let (before, wait) = (
            self.issued_before.map(|before| before.to_string()),
            self.wait.to_string(),
        );
        // Send only the parameters that were given.
        let parameters = [
            ("token", token.as_deref()),
            ("jti", self.jti.as_deref()),
            ("key", self.key.as_deref()),
            ("subject", self.subject.as_deref()),
            ("client", self.client.as_deref()),
            ("session", self.session.as_deref()),
            ("grant", self.grant.as_deref()),
            ("all", self.all.then_some("true")),
            ("issued_before", before.as_deref()),
            ("wait", Some(wait.as_str())),
        ];
        let form: Vec<(&str, &str)> = parameters
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let answer: Value = self.remote.connect()?.post("/revoke", &form)?;
        print(&answer.to_string());
        // RFC 7009 §2.2: the issuer answers 200 even if nothing was revoked.
        let hint = answer.get("hint").and_then(Value::as_str);
        if answer.get("revoked") != Some(&Value::Bool(true)) {
            let reason = answer
                .get("reason")
                .and_then(Value::as_str)
                .unwrap_or("not recognised");
            let hint = hint.unwrap_or("check that the token is complete, or use --jti or --client");
            note(&format!("nothing was revoked: {reason}; {hint}"));
            return Ok(ExitCode::from(1));
        }
        if let Some(hint) = hint {
            note(&format!("warning: {hint}"));
        }
        // List the workers that may still accept, and choose the exit status.
        let receipt: Receipt = serde_json::from_value(answer).map_err(Failure::new)?;
        receipt
            .waiting_for
            .iter()
            .flatten()
            .for_each(|laggard| note(&describe(laggard)));
        Ok(match receipt.state {
            ReceiptState::Complete => ExitCode::SUCCESS,
            ReceiptState::Incomplete => ExitCode::from(1),
            ReceiptState::Unknown => {
                note(
                    "the issuer does not know all workers: its database does not answer, it lost \
                     records, or too many workers count; try again",
                );
                ExitCode::from(3)
            }
        })
    }
}

/// Describes a worker that may still accept revoked tokens.
fn describe(laggard: &Laggard) -> String {
    let Laggard {
        node,
        worker,
        state,
        version,
        ..
    } = laggard;
    let until = laggard.accepts_until.map_or_else(
        || "without limit (staleness.action: SERVE)".to_owned(),
        |until| format!("until {until} (Unix seconds)"),
    );
    format!("{state}: node {node:?} worker {worker} holds version {version} and may accept {until}")
}

fn read_token() -> Result<String, Failure> {
    let line = next_token(&mut std::io::stdin().lock()).map_err(Failure::usage)?;
    line.and_then(Result::ok)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Failure::usage("no token on standard input"))
}
