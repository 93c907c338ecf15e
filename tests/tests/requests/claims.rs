//! Invalid claims (V9, V10, V12, V13, V19). All these tokens have a valid signature.

use meshseal_tests::http::Request;
use serde_json::{Value, json};

use crate::world::{LOCATIONS, MAIN, cases, now, passes, refused, token};

fn order() -> Request {
    Request::get("/orders/1")
}

cases! { world;
    wrong_issuer: MAIN, order().bearer(&world.sign(token().claim("iss", "https://evil.example"))?)
        => refused(401, "issuer-unknown");
    issuer_with_a_trailing_slash: MAIN,
        order().bearer(&world.sign(token().claim("iss", "https://issuer.example/"))?)
        => refused(401, "issuer-unknown");
    no_issuer: MAIN, order().bearer(&world.sign(token().without("iss"))?)
        => refused(401, "claim-missing");
    wrong_audience: MAIN, order().bearer(&world.sign(token().claim("aud", "billing"))?)
        => refused(401, "audience-mismatch");
    empty_audience_list: MAIN, order().bearer(&world.sign(token().claim("aud", json!([])))?)
        => refused(401, "audience-mismatch");
    audience_that_only_begins_like_ours: MAIN,
        order().bearer(&world.sign(token().claim("aud", "orders/"))?)
        => refused(401, "audience-mismatch");
    no_audience: MAIN, order().bearer(&world.sign(token().without("aud"))?)
        => refused(401, "claim-missing");
    audience_is_a_number: MAIN, order().bearer(&world.sign(token().claim("aud", 7))?)
        => refused(401, "claims-malformed");

    expired: MAIN, order().bearer(&world.sign(token().claim("exp", now() - 32))?)
        => refused(401, "token-expired");
    expired_beyond_a_smaller_skew: LOCATIONS,
        order().bearer(&world.sign(token().claim("exp", now() - 20))?)
        => refused(401, "token-expired");
    no_expiry: MAIN, order().bearer(&world.sign(token().without("exp"))?)
        => refused(401, "claim-missing");
    expiry_is_text: MAIN, order().bearer(&world.sign(token().claim("exp", "9999999999"))?)
        => refused(401, "claims-malformed");
    expiry_is_negative: MAIN, order().bearer(&world.sign(token().claim("exp", -1))?)
        => refused(401, "claims-malformed");
    not_yet_valid: MAIN, order().bearer(&world.sign(token().claim("nbf", now() + 60))?)
        => refused(401, "token-not-yet-valid");
    issued_in_the_future: MAIN, order().bearer(&world.sign(token().claim("iat", now() + 60))?)
        => refused(401, "token-issued-in-future");
    lives_too_long: MAIN, order().bearer(&world.sign(token().claim("exp", now() + 7_200))?)
        => refused(401, "token-lifetime-too-long");

    no_subject: MAIN, order().bearer(&world.sign(token().without("sub"))?)
        => refused(401, "claim-missing");
    no_client_id: MAIN, order().bearer(&world.sign(token().without("client_id"))?)
        => refused(401, "claim-missing");
    no_issue_time: MAIN, order().bearer(&world.sign(token().without("iat"))?)
        => refused(401, "claim-missing");
    no_token_id: MAIN, order().bearer(&world.sign(token().without("jti"))?)
        => refused(401, "claim-missing");
    subject_is_a_list: MAIN, order().bearer(&world.sign(token().claim("sub", json!(["alice"])))?)
        => refused(401, "claims-malformed");
    scope_is_a_number: MAIN, order().bearer(&world.sign(token().claim("scope", 7))?)
        => refused(401, "claims-malformed");
    /// The filter never accepts a sender-constrained token as a plain bearer token.
    bound_to_a_key: MAIN,
        order().bearer(&world.sign(token().claim("cnf", json!({
            "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
        })))?)
        => refused(401, "binding-unsupported");

    /// Keycloak adds a member for each client; only the size of a token is limited.
    many_clients: MAIN, order().bearer(&world.sign(token().claim("resource_access", clients(200)))?)
        => passes();
    security_event: MAIN, order().bearer(&world.sign(token().claim("events", json!({})))?)
        => refused(401, "type-not-allowed");
    id_token: LOCATIONS,
        order().bearer(&world.sign(
            token().header("typ", "JWT").without("scope").claim("nonce", "n-0S6"),
        )?)
        => refused(401, "type-not-allowed");
    email_verified_is_a_number: MAIN,
        order().bearer(&world.sign(token().claim("email_verified", 1))?)
        => refused(401, "claims-malformed");
}

/// Returns Keycloak's `resource_access` claim for `count` clients.
fn clients(count: usize) -> Value {
    let each = (0..count).map(|at| (format!("client-{at}"), json!({ "roles": ["r"] })));
    Value::Object(each.collect())
}
