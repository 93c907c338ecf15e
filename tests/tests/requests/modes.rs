//! Shadow mode, CORS preflights, and a filter without keys.

use meshseal_tests::http::Request;

use crate::world::{CORS, MAIN, SHADOW, UNKNOWING, cases, passes, refused};

fn order() -> Request {
    Request::get("/orders/1")
}

fn preflight() -> Request {
    Request::new("OPTIONS", "/orders/1")
        .header("origin", "https://shop.example")
        .header("access-control-request-method", "GET")
}

cases! { world;
    preflight_passes_where_configured: CORS, preflight() => passes();
    preflight_needs_a_token_elsewhere: MAIN, preflight() => refused(401, "token-missing");
    options_without_origin_is_no_preflight: CORS, Request::new("OPTIONS", "/orders/1")
        => refused(401, "token-missing");
    shadow_lets_good_tokens_pass: SHADOW, order().bearer(&world.good()?)
        => passes().sees("x-sub", "alice");
    shadow_still_removes_spoofed_headers: SHADOW, order().header("x-sub", "root")
        => passes().lacks("x-sub");
    /// Without keys the filter cannot tell whether a token is valid: 503, not 401.
    no_keys_yet: UNKNOWING, order().bearer(&world.good()?) => refused(503, "keys-unavailable");
    no_keys_yet_and_no_token: UNKNOWING, order() => refused(401, "token-missing");
}
