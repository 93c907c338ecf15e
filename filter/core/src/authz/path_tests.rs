use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::authz::Request;
use crate::bundle::Freshness;
use crate::policy::Policy;
use crate::rejection::Rejection;
use crate::testing::TestKey;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn kept(path: &str) -> Option<String> {
    canonical_path(path, EscapedSlashes::Keep).map(|path| path.replace(ESCAPED_SLASH, "<slash>"))
}

#[test]
fn borrows_path_without_escapes() {
    assert!(matches!(
        canonical_path("/a/b:c@d,e", EscapedSlashes::Reject),
        Some(Cow::Borrowed(_))
    ));
}

#[test]
fn keeps_escaped_slash_inside_its_segment() {
    assert_eq!(
        kept("/p/group%2Fproject").as_deref(),
        Some("/p/group<slash>project")
    );
    assert_eq!(kept("/p/group%2fproject"), kept("/p/group%2Fproject"));
    assert_eq!(
        canonical_path("/p/group%2Fproject", EscapedSlashes::Reject),
        None
    );
}

/// A server that treats the escaped slash as a separator must not reach another path.
#[test]
fn rejects_escaped_slash_beside_dots_or_nothing() {
    let led_away = [
        "/p/..%2Fadmin",
        "/p/x%2F..%2Fadmin",
        "/p/x%2f%2e%2e",
        "/%2Fadmin",
        "/p%2F/x",
        "/p/x%2F%2Fy",
        "/p/x%2F",
        "/p/.%2Fx",
    ];
    for path in led_away {
        assert_eq!(kept(path), None, "{path}");
    }
}

#[test]
fn rejects_escaped_backslash_with_kept_slashes() {
    assert_eq!(
        (kept("/a%5Cb"), kept("/a%1Fb"), kept("/a%252Fb")),
        (None, None, None)
    );
}

#[test]
fn literal_may_end_inside_dotted_segment() {
    fn literal(text: &str, open_start: bool, open_end: bool) -> bool {
        canonical_literal(
            text,
            Ends {
                open_start,
                open_end,
            },
            EscapedSlashes::Reject,
        )
        .is_some()
    }
    assert!(
        literal("/.", false, true)
            && literal("./x", true, false)
            && literal("/caf\u{e9}", false, false)
    );
    assert!(
        !literal("/.", false, false)
            && !literal("/./", false, true)
            && !literal("/../x", true, false)
    );
    assert!(
        !literal("/caf%C3", false, true)
            && !literal("/a b", false, false)
            && !literal("/a\u{85}", false, false)
    );
}

/// Python's `urllib.parse.unquote`: leaves invalid escapes unchanged, and replaces invalid UTF-8
/// with U+FFFD.
fn unquote(path: &str) -> String {
    String::from_utf8_lossy(&octets(path, false).unwrap()).into_owned()
}

/// ECMAScript's `decodeURIComponent`: fails on invalid escapes and on invalid UTF-8.
fn decode_uri_component(path: &str) -> Option<String> {
    String::from_utf8(octets(path, true)?).ok()
}

/// Go's `url.PathUnescape`: fails on invalid escapes; octets may have any value.
fn path_unescape(path: &str) -> Option<Vec<u8>> {
    octets(path, true)
}

fn octets(path: &str, strict: bool) -> Option<Vec<u8>> {
    let (mut bytes, mut at) = (Vec::new(), 0);
    while let Some(byte) = path.as_bytes().get(at) {
        let escape = path
            .get(at + 1..at + 3)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match escape.filter(|_| *byte == b'%') {
            Some(digits) => {
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                at += 3;
            }
            None if strict && *byte == b'%' => return None,
            None => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    Some(bytes)
}

/// Characters of generated readings: one of each kind that servers or escapes treat differently.
const CHARS: [char; 32] = [
    'a',
    'b',
    'Z',
    '7',
    '-',
    '.',
    '_',
    '~',
    ':',
    '@',
    ',',
    '+',
    '$',
    '&',
    '=',
    '!',
    '\'',
    '(',
    ')',
    '*',
    '[',
    ']',
    '{',
    '}',
    '|',
    '"',
    ' ',
    '?',
    '#',
    '\u{e9}',
    '\u{20ac}',
    '\u{1f600}',
];

/// Encodes a reading; each number selects the encoding of one character.
fn spelled(reading: &str, ways: &[u8]) -> String {
    reading
        .chars()
        .enumerate()
        .map(|(at, char): (usize, char)| {
            let way = ways[at % ways.len()];
            if char == ESCAPED_SLASH {
                return String::from(if way.is_multiple_of(2) { "%2F" } else { "%2f" });
            }
            if char == '/'
                || (way.is_multiple_of(3)
                    && char.is_ascii_graphic()
                    && !SPECIAL.contains(&(char as u8)))
            {
                return String::from(char);
            }
            let mut buffer = [0; 4];
            char.encode_utf8(&mut buffer)
                .as_bytes()
                .iter()
                .map(|octet: &u8| match way % 4 {
                    0 => format!("%{octet:02x}"),
                    1 => format!("%{octet:02X}"),
                    2 => format!("%{:X}{:x}", octet >> 4, octet & 15),
                    _ => format!("%{:x}{:X}", octet >> 4, octet & 15),
                })
                .collect::<String>()
        })
        .collect()
}

/// A path as servers read it; [`ESCAPED_SLASH`] stands for a slash that they do not resolve.
fn reading(slashes: EscapedSlashes) -> impl Strategy<Value = String> {
    let part = prop::collection::vec(prop::sample::select(&CHARS[..]), 1..5);
    let part = part.prop_map(|chars| chars.into_iter().collect::<String>());
    let part = part.prop_filter("dots", |part| !matches!(part.as_str(), "." | ".."));
    let most = if slashes == EscapedSlashes::Keep {
        4
    } else {
        2
    };
    let segment = prop::collection::vec(part, 1..most);
    let segment = segment.prop_map(|parts| parts.join(&String::from(ESCAPED_SLASH)));
    prop::collection::vec(segment, 1..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

/// Number of pattern kinds: exact, `prefix*`, `*suffix`, `{*}`, `{**}` at the end and in front.
const KINDS: u8 = 6;

/// Returns a pattern, and whether it matches a reading, determined without the code under test.
fn guards(kind: u8, guarded: &str, path: &str) -> bool {
    let end = guarded.rfind('/').unwrap();
    match kind % KINDS {
        0 => path == guarded,
        1 => path.starts_with(guarded),
        2 => path.ends_with(&guarded[1..]),
        3 => path.rfind('/') == Some(end) && path.len() > end + 1 && path[..end] == guarded[..end],
        4 => path.starts_with(&guarded[..=end]),
        _ => path[1..].ends_with(&guarded[end..]),
    }
}

fn pattern(kind: u8, guarded: &str, ways: &[u8]) -> String {
    // Unescaped `*`, `{` and `}` are operators.
    let write = |text: &str| {
        spelled(text, ways)
            .replace('*', "%2A")
            .replace('{', "%7b")
            .replace('}', "%7D")
    };
    let (folder, last) = guarded.split_at(guarded.rfind('/').unwrap());
    match kind % KINDS {
        0 => write(guarded),
        1 => format!("{}*", write(guarded)),
        2 => format!("*{}", write(&guarded[1..])),
        3 => format!("{}/{{*}}", write(folder)),
        4 => format!("{}/{{**}}", write(folder)),
        _ => format!("/{{**}}{}", write(last)),
    }
}

fn decide(policy: &Policy, path: &str) -> Result<(), Rejection> {
    let request = policy.authz().canonical(&Request {
        method: "GET",
        host: "h",
        path,
    })?;
    let anonymous = &policy.authz().anonymous;
    policy
        .authz()
        .authorize(&request, anonymous, Freshness::default())
        .map(|_rule| ())
        .map_err(|denied| denied.rejection)
}

/// Compares the decisions of a DENY rule and of `notPaths` on one encoding with the decision that
/// its reading requires.
fn decides_by_reading(
    slashes: EscapedSlashes,
    kind: u8,
    guarded: &str,
    read: &str,
    ways: &[u8],
    more: &[u8],
) -> Result<(), TestCaseError> {
    let key = TestKey::new("k1", 1);
    let setting = if slashes == EscapedSlashes::Keep {
        "KEEP_UNCHANGED"
    } else {
        "REJECT_REQUEST"
    };
    let policy = |rules: Value| {
        let config = json!({
            "jwtRules": [{ "issuer": "https://i", "audiences": ["a"],
                "jwks": { "keys": [key.jwk()] } }],
            "pathWithEscapedSlashesAction": setting, "rules": rules,
        });
        crate::config::read_policy(&config.to_string()).unwrap_or_else(|errors| panic!("{errors}"))
    };
    let paths = [pattern(kind, guarded, more)];
    let deny = json!([{ "action": "DENY", "to": [{ "operation": { "paths": paths } }] }]);
    let allow = json!([{ "to": [{ "operation": { "notPaths": paths } }] }]);
    let path = spelled(read, ways);
    let is_guarded = guards(kind, guarded, read);
    let denied = decide(&policy(deny), &path);
    prop_assert_eq!(
        denied,
        if is_guarded {
            Err(Rejection::RuleDenied)
        } else {
            Ok(())
        },
        "{} {}",
        path,
        paths[0]
    );
    let unmatched = decide(&policy(allow), &path);
    prop_assert_eq!(
        unmatched,
        if is_guarded {
            Err(Rejection::RuleUnmatched)
        } else {
            Ok(())
        },
        "{} {}",
        path,
        paths[0]
    );
    Ok(())
}

proptest! {
    /// If a path has a canonical form, every decoder reads exactly that form.
    #[test]
    fn decoders_read_the_canonical_form(path in "/[a-cAF%0-9;:@./\\\\?#\u{e9} ]{0,16}\
        |/(%[0-9a-fA-F]{2}|[a./]){0,8}") {
        if let Some(canonical) = canonical_path(&path, EscapedSlashes::Reject) {
            prop_assert_eq!(&*canonical, unquote(&path));
            prop_assert_eq!(Some(String::from(&*canonical)), decode_uri_component(&path));
            prop_assert_eq!(Some(canonical.as_bytes().to_vec()), path_unescape(&path));
        }
    }

    /// Every encoding of a path gets the decision that its reading requires, and is not rejected
    /// without need.
    #[test]
    fn encoding_does_not_change_decision(
        (guarded, other) in (reading(EscapedSlashes::Reject), reading(EscapedSlashes::Reject)),
        same in any::<bool>(), kind in 0..KINDS,
        ways in prop::collection::vec(any::<u8>(), 1..9),
        more in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let read = if same { &guarded } else { &other };
        decides_by_reading(EscapedSlashes::Reject, kind, &guarded, read, &ways, &more)?;
    }

    /// An escaped slash, with either case of hex digits, is one character of its segment.
    #[test]
    fn kept_slash_is_no_separator(
        (guarded, other) in (reading(EscapedSlashes::Keep), reading(EscapedSlashes::Keep)),
        relation in 0..3_u8, kind in 0..KINDS,
        ways in prop::collection::vec(any::<u8>(), 1..9),
        more in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        // The guarded path, the same path with real slashes, and another path.
        let read = match relation {
            0 => guarded.clone(),
            1 => guarded.replace(ESCAPED_SLASH, "/"),
            _ => other,
        };
        decides_by_reading(EscapedSlashes::Keep, kind, &guarded, &read, &ways, &more)?;
    }
}
