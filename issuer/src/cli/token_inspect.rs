//! `meshseal token inspect`.

use std::process::ExitCode;

use meshseal_core::base64url;
use meshseal_core::jose::token::Compact;
use meshseal_core::json::{Budget, Document};

use super::tokens_in::next_token;
use super::{Failure, Outcome, note, print};

/// Show what tokens say. Nothing is verified.
///
/// Reads tokens from standard input, one a line, and prints
/// {"verified":false,"header":{…},"claims":{…}} for each. Anybody can write a token that says
/// anything: decide with `meshseal token verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal token inspect < token.txt

Exit status: 0, or 1 when a line was not a token.")]
pub(super) struct Inspect {}

impl Inspect {
    #[expect(clippy::unused_self, reason = "every verb is run the same way")]
    pub(super) fn run(self) -> Outcome {
        note("UNVERIFIED: what follows is what the token says of itself; anybody can write that");
        let mut input = std::io::stdin().lock();
        let mut exit = ExitCode::SUCCESS;
        while let Some(token) = next_token(&mut input).map_err(Failure::usage)? {
            let shown = token.ok().and_then(|token| show(&token));
            if shown.is_none() {
                exit = ExitCode::from(1);
            }
            print(
                &shown.unwrap_or_else(|| r#"{"verified":false,"error":"not a token"}"#.to_owned()),
            );
        }
        Ok(exit)
    }
}

fn show(token: &str) -> Option<String> {
    let compact = Compact::split(token).ok()?;
    let part = |encoded: &str| {
        let document = Document::parse(base64url::decode(encoded)?, Budget::TOKEN).ok()?;
        Some(document.root().to_string())
    };
    let (header, claims) = (
        part(compact.header)?,
        part(compact.payload).unwrap_or_else(|| "null".to_owned()),
    );
    Some(format!(
        r#"{{"verified":false,"header":{header},"claims":{claims}}}"#
    ))
}
