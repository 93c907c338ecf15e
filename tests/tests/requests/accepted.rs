//! Valid tokens in every algorithm and form that the standards allow.

use meshseal_tests::http::Request;

use crate::world::{MAIN, SHARED, cases, now, passes, token};

fn order() -> Request {
    Request::get("/orders/1")
}

cases! { world;
    eddsa_passes: MAIN, order().bearer(&world.good()?) => passes().sees("x-sub", "alice");
    eddsa_spelled_ed25519_passes: MAIN,
        order().bearer(&world.sign(token().header("alg", "Ed25519"))?)
        => passes();
    es256_passes: MAIN, order().bearer(&token().sign(world.key("ES256")?)?)
        => passes().sees("x-sub", "alice");
    es384_passes: MAIN, order().bearer(&token().sign(world.key("ES384")?)?) => passes();
    es512_passes: MAIN, order().bearer(&token().sign(world.key("ES512")?)?) => passes();
    rs256_passes: MAIN, order().bearer(&token().sign(world.key("RS256")?)?)
        => passes().sees("x-sub", "alice");
    rs384_passes: MAIN, order().bearer(&token().header("alg", "RS384").sign(world.key("RS384")?)?)
        => passes();
    rs512_passes: MAIN, order().bearer(&token().header("alg", "RS512").sign(world.key("RS512")?)?)
        => passes();
    ps256_passes: MAIN, order().bearer(&token().header("alg", "PS256").sign(world.key("PS256")?)?)
        => passes();
    ps384_passes: MAIN, order().bearer(&token().header("alg", "PS384").sign(world.key("PS384")?)?)
        => passes();
    ps512_passes: MAIN, order().bearer(&token().header("alg", "PS512").sign(world.key("PS512")?)?)
        => passes();
    hs256_passes: SHARED, order().bearer(&token().sign(world.key("HS256")?)?) => passes();
    hs384_passes: SHARED, order().bearer(&token().header("alg", "HS384").sign(world.key("HS384")?)?)
        => passes();
    hs512_passes: SHARED, order().bearer(&token().header("alg", "HS512").sign(world.key("HS512")?)?)
        => passes();
    typ_with_application_prefix_passes: MAIN,
        order().bearer(&world.sign(token().header("typ", "application/at+jwt"))?) => passes();
    audience_list_with_ours_passes: MAIN,
        order().bearer(&world.sign(token().claim("aud", vec!["billing", "orders"]))?)
        => passes();
    second_audience_of_the_rule_passes: MAIN,
        order().bearer(&world.sign(token().claim("aud", "orders-too"))?)
        => passes();
    expired_within_skew_passes: MAIN, order().bearer(&world.sign(token().claim("exp", now() - 20))?)
        => passes();
    not_before_in_the_past_passes: MAIN, order().bearer(&world.sign(token().claim("nbf", now()))?)
        => passes();
    unknown_claims_and_headers_are_ignored: MAIN,
        order().bearer(&world.sign(
            token().claim("x", 1).header("jku", "https://evil.example/keys"),
        )?)
        => passes();
}
