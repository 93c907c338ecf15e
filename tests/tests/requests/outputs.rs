//! Headers that the upstream gets: outputs from claims, and no forged copies of them (V21).

use std::sync::OnceLock;

use meshseal_tests::http::Request;
use meshseal_tests::mint::{Token, b64};
use serde_json::json;

use crate::world::{LOCATIONS, MAIN, cases, passes, token};

fn order() -> Request {
    Request::get("/orders/1")
}

/// Returns the same token at each call.
fn one_token() -> Token {
    static TOKEN: OnceLock<Token> = OnceLock::new();
    TOKEN.get_or_init(token).clone()
}

cases! { world;
    claims_become_headers: MAIN,
        order().bearer(&world.sign(
            token().claim("realm", json!({"role": "admin"})).claim("level", 3),
        )?)
        => passes().sees("x-sub", "alice").sees("x-role", "admin").sees("x-level", "3");
    claim_name_with_a_dot: MAIN,
        order().bearer(&world.sign(token().claim("kubernetes.io", json!({"namespace": "shop"})))?)
        => passes().sees("x-ns", "shop");
    absent_claim_sets_no_header: MAIN, order().bearer(&world.good()?)
        => passes().lacks("x-role").lacks("x-level");
    spoofed_headers_are_replaced: MAIN,
        order().header("x-sub", "root").header("X-Sub", "admin").bearer(&world.good()?)
        => passes().sees("x-sub", "alice");
    spoofed_header_of_an_absent_claim_is_removed: MAIN,
        order().header("x-role", "admin").bearer(&world.good()?)
        => passes().lacks("x-role");
    spoofed_headers_are_removed_without_a_token: MAIN,
        Request::get("/public/a").header("x-sub", "root").header("x-payload", "e30")
        => passes().lacks("x-sub").lacks("x-payload");
    payload_becomes_a_header: MAIN, order().bearer(&world.sign(one_token())?)
        => passes().sees("x-payload", b64(serde_json::to_vec(&one_token().claims)?));
    /// A claim cannot smuggle a header or a line break into the request.
    claim_with_a_line_break_sets_no_header: MAIN,
        order().bearer(&world.sign(token().claim("sub", "alice\r\nx-role: admin"))?)
        => passes().lacks("x-sub").lacks("x-role");
    token_is_forwarded_where_configured: LOCATIONS,
        order().bearer(&world.sign(token().claim("jti", "forwarded"))?)
        => passes().has("authorization");
    cookie_is_left_alone: LOCATIONS,
        order().header("cookie", &format!("theme=dark; session={}", world.good()?))
        => passes().has("cookie");
}
