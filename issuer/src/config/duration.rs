//! Durations such as `5m`, in whole seconds. Smaller units are not supported, because no setting of
//! the issuer needs them.

/// Parses `90`, `90s`, `5m`, `2h` or `1d` as seconds. Returns `None` for any other text.
pub(super) fn parse(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    // `parse` alone would accept a sign.
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn parses_units_and_rejects_other_texts() {
        for (text, seconds) in [
            ("0s", 0),
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("2h", 7_200),
            ("1d", 86_400),
        ] {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "s",
            "-1s",
            "1.5h",
            "5 m",
            "5M",
            "1w",
            "99999999999999999999s",
            "999999999999999999d",
            "+5s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
