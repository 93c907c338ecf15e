//! Reading tokens from standard input, one per line.

use std::io::{BufRead, Read as _};

use meshseal_core::limits::MAX_TOKEN_BYTES;
use meshseal_core::rejection::Rejection;

/// Reads the next token; `None` at the end of the input. A line that is too long or not UTF-8 gives
/// the rejection that the filter would give.
pub(super) fn next_token(
    input: &mut impl BufRead,
) -> std::io::Result<Option<Result<String, Rejection>>> {
    let mut line = Vec::new();
    // Read at most the limit, one byte more to detect longer lines, and a line end of two bytes.
    let most = u64::try_from(MAX_TOKEN_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(3);
    if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    // Remove the line end; without one, the line is the last or too long.
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

/// Consumes the rest of a line that is too long.
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
    fn reads_lines_with_any_line_ending() {
        let expected: Vec<_> = ["a.b.c", "", "d.e.f"]
            .map(|line| Ok(line.to_owned()))
            .into();
        assert_eq!(all(b"a.b.c\r\n\nd.e.f"), expected);
        assert_eq!(all(b""), []);
    }

    #[test]
    fn overlong_line_does_not_spill_over() {
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
