//! Log lines about single requests: which key, issuer and token (V25), never the token itself.

use std::fmt::Write as _;

use meshseal_core::rejection::Rejection;
use meshseal_core::validate;

/// Longest text from outside in a log line.
const MAX_FIELD_CHARS: usize = 64;

/// The line for a refused request.
pub(crate) fn refused(rejection: Rejection, shadow: bool, token: Option<&str>) -> String {
    let hints = token.and_then(validate::hints);
    let said =
        |read: fn(&validate::Hints) -> &Option<Box<str>>| hints.as_ref().and_then(|hints| read(hints).as_deref());
    let mut line = format!("{} code={rejection}", if shadow { "would refuse" } else { "refused" });
    for (name, value) in
        [("iss", said(|hints| &hints.issuer)), ("kid", said(|hints| &hints.kid)), ("jti", said(|hints| &hints.jti))]
    {
        if let Some(value) = value {
            let _ = write!(line, " {name}={}", field(value));
        }
    }
    line
}

/// Text from outside, cut and in quotes, with everything escaped that could end the quotes or the line.
pub(crate) fn field(text: &str) -> String {
    let mut end = text.char_indices().map(|(at, _)| at).skip(MAX_FIELD_CHARS);
    match end.next() {
        Some(end) => format!("\"{}…\"", text.get(..end).unwrap_or_default().escape_default()),
        None => format!("\"{}\"", text.escape_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshseal_core::base64url;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2lnbmF0dXJl", base64url::encode(header.as_bytes()), base64url::encode(payload.as_bytes()))
    }

    #[test]
    fn a_refusal_names_key_issuer_and_token_and_nothing_of_the_token_text() {
        let token = token(r#"{"alg":"EdDSA","kid":"k1"}"#, r#"{"iss":"https://i","jti":"j1","sub":"secret"}"#);
        let line = refused(Rejection::TokenExpired, false, Some(&token));
        assert_eq!(line, r#"refused code=token-expired iss="https://i" kid="k1" jti="j1""#);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(refused(Rejection::TokenMalformed, true, Some("x")), "would refuse code=token-malformed");
        assert_eq!(refused(Rejection::TokenMissing, false, None), "refused code=token-missing");
    }

    #[test]
    fn text_from_outside_is_cut_and_cannot_forge_a_line() {
        assert_eq!(field("a\"\nb"), r#""a\"\nb""#);
        assert_eq!(field(&"é".repeat(65)), format!("\"{}…\"", r"\u{e9}".repeat(64)));
    }
}
