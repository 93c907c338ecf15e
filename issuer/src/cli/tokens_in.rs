//! Tokens from standard input, one a line.

use std::io::{BufRead, Read as _};

use meshseal_core::limits::MAX_TOKEN_BYTES;
use meshseal_core::rejection::Rejection;

/// Reads a line. One that is too long, or not text, is told as the filter would tell it. `None` at
/// the end.
pub(super) fn next_token(
    input: &mut impl BufRead,
) -> std::io::Result<Option<Result<String, Rejection>>> {
    let mut line = Vec::new();
    // One byte over the limit, and a line end of two.
    let most = u64::try_from(MAX_TOKEN_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(3);
    if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() > MAX_TOKEN_BYTES {
        skip_line(input)?;
    }
    Ok(Some(match String::from_utf8(line) {
        Ok(line) if line.len() > MAX_TOKEN_BYTES => Err(Rejection::TokenTooLarge),
        Ok(line) => Ok(line),
        Err(_) => Err(Rejection::TokenMalformed),
    }))
}

fn skip_line(input: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        let (used, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at.saturating_add(1), true),
            None => (buffer.len(), buffer.is_empty()),
        };
        input.consume(used);
        if ended {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<Result<String, Rejection>> {
        let mut input = text;
        std::iter::from_fn(|| next_token(&mut input).unwrap()).collect()
    }

    #[test]
    fn a_line_is_a_token_whatever_ends_it() {
        let expected: Vec<_> = ["a.b.c", "", "d.e.f"]
            .map(|line| Ok(line.to_owned()))
            .into();
        assert_eq!(all(b"a.b.c\r\n\nd.e.f"), expected);
        assert_eq!(all(b""), []);
    }

    #[test]
    fn a_line_beyond_the_limit_does_not_spill_into_the_next() {
        let exact = "x".repeat(MAX_TOKEN_BYTES);
        for extra in [1, 2, 3, 4, 100_000] {
            let text = format!("{exact}{}\nnext\n", "y".repeat(extra));
            assert_eq!(
                all(text.as_bytes()),
                [Err(Rejection::TokenTooLarge), Ok("next".to_owned())],
                "{extra}"
            );
        }
        assert_eq!(
            all(format!("{exact}\r\nnext").as_bytes()),
            [Ok(exact), Ok("next".to_owned())]
        );
        assert_eq!(all(b"\xff\n"), [Err(Rejection::TokenMalformed)]);
    }
}
