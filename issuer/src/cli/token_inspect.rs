//! `meshseal token inspect`.

use std::process::ExitCode;

use meshseal_core::base64url;
use meshseal_core::jose::token::Compact;
use meshseal_core::json::{Budget, Document};

use super::tokens_in::next_token;
use super::{Failure, Outcome, note, print};

/// Show header and claims of tokens without verifying them.
///
/// Reads tokens from standard input, one per line, and prints
/// {"verified":false,"header":{…},"claims":{…}} for each. Anyone can write a token with any
/// content, so use `meshseal token verify` for decisions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal token inspect < token.txt

Exit status: 0, or 1 if a line was not a token.")]
pub(super) struct Inspect {}

impl Inspect {
    #[expect(clippy::unused_self, reason = "every verb is run the same way")]
    pub(super) fn run(self) -> Outcome {
        note("UNVERIFIED: no signature was checked, so header and claims may be forged");
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

/// Returns the output line for a token; `None` if it is not a compact JWS with a JSON header.
fn show(token: &str) -> Option<String> {
    let compact = Compact::split(token).ok()?;
    let (header, claims) = (
        decode_part(compact.header)?,
        // A payload may be something else than JSON.
        decode_part(compact.payload).unwrap_or_else(|| "null".to_owned()),
    );
    Some(format!(
        r#"{{"verified":false,"header":{header},"claims":{claims}}}"#
    ))
}

fn decode_part(encoded: &str) -> Option<String> {
    let document = Document::parse(base64url::decode(encoded)?, Budget::TOKEN).ok()?;
    Some(document.root().to_string())
}
