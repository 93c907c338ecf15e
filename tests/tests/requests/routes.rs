//! Rules on paths, methods, hosts, claims and scopes, with the semantics of AuthorizationPolicy;
//! default deny (V22).

use meshseal_tests::http::Request;
use meshseal_tests::mint::Token;
use serde_json::json;

use crate::world::{MAIN, cases, passes, refused, token};

fn scope(text: &str) -> Token {
    token().claim("scope", text)
}

fn groups(names: &[&str]) -> Token {
    token().claim("groups", json!(names))
}

fn realm_role(role: &str) -> Token {
    token().claim("realm", json!({ "role": role }))
}

cases! { world;
    scope_among_others: MAIN,
        Request::get("/orders/1").bearer(&world.sign(scope("a orders.read z"))?)
        => passes();
    /// Some providers send `scope` as a list.
    scope_in_a_list: MAIN,
        Request::get("/orders/1").bearer(&world.sign(
            token().claim("scope", json!(["a", "orders.read"])),
        )?)
        => passes();
    no_scope: MAIN, Request::get("/orders/1").bearer(&world.sign(token().without("scope"))?)
        => refused(403, "scope-missing");
    scope_that_only_begins_alike: MAIN,
        Request::get("/orders/1").bearer(&world.sign(scope("orders.reader orders.rea"))?)
        => refused(403, "scope-missing");
    scope_in_another_case: MAIN,
        Request::get("/orders/1").bearer(&world.sign(scope("Orders.Read"))?)
        => refused(403, "scope-missing");
    one_of_two_scopes: MAIN,
        Request::new("POST", "/orders").bearer(&world.sign(scope("orders.write"))?)
        => refused(403, "scope-missing");
    both_scopes: MAIN,
        Request::new("POST", "/orders").bearer(&world.sign(scope("orders.write orders.read"))?)
        => passes();

    no_rule_for_the_path: MAIN, Request::get("/elsewhere").bearer(&world.good()?)
        => refused(403, "rule-unmatched");
    no_rule_for_the_method: MAIN, Request::new("DELETE", "/orders/1").bearer(&world.good()?)
        => refused(403, "rule-unmatched");
    one_segment_is_not_two: MAIN, Request::get("/orders/1/items").bearer(&world.good()?)
        => refused(403, "rule-unmatched");
    one_segment_is_not_none: MAIN, Request::get("/orders/").bearer(&world.good()?)
        => refused(403, "rule-unmatched");
    query_is_no_part_of_the_path: MAIN,
        Request::get("/orders/1?path=/elsewhere").bearer(&world.good()?)
        => passes();
    deny_rule_wins: MAIN, Request::get("/orders/secret").bearer(&world.good()?)
        => refused(403, "rule-denied");
    deny_rule_on_a_claim_wins: MAIN,
        Request::get("/orders/1").bearer(&world.sign(groups(&["staff", "banned"]))?)
        => refused(403, "rule-denied");

    claim_equals_a_value: MAIN, Request::get("/team/plan").bearer(&world.sign(groups(&["staff"]))?)
        => passes();
    claim_has_the_prefix: MAIN,
        Request::get("/team/a/b").bearer(&world.sign(groups(&["x", "team-blue"]))?)
        => passes();
    claim_has_another_value: MAIN,
        Request::get("/team/plan").bearer(&world.sign(groups(&["guest"]))?)
        => refused(403, "rule-unmatched");
    claim_is_absent: MAIN, Request::get("/team/plan").bearer(&world.good()?)
        => refused(403, "rule-unmatched");
    claim_has_a_forbidden_value: MAIN,
        Request::get("/team/plan").bearer(&world.sign(groups(&["staff", "team-away"]))?)
        => refused(403, "rule-unmatched");
    path_is_excepted: MAIN, Request::get("/team/closed").bearer(&world.sign(groups(&["staff"]))?)
        => refused(403, "rule-unmatched");
    nested_claim: MAIN,
        Request::get("/nested").bearer(&world.sign(realm_role("admin"))?)
        => passes();
    nested_claim_differs: MAIN,
        Request::get("/nested").bearer(&world.sign(realm_role("user"))?)
        => refused(403, "rule-unmatched");
    not_delegated: MAIN, Request::get("/direct").bearer(&world.good()?) => passes();
    delegated_by_client_id: MAIN,
        Request::get("/direct").bearer(&world.sign(
            token().claim("act", json!({"client_id": "edge"})),
        )?)
        => refused(403, "rule-denied");
    delegated_without_a_name: MAIN,
        Request::get("/direct").bearer(&world.sign(token().claim("act", json!({})))?)
        => refused(403, "rule-denied");
    principal_is_issuer_and_subject: MAIN, Request::get("/principal").bearer(&world.good()?)
        => passes();
    another_principal: MAIN,
        Request::get("/principal").bearer(&world.sign(token().claim("sub", "mallory"))?)
        => refused(403, "rule-unmatched");
    host_matches: MAIN, Request::get("/host").header("host", "inner.example").bearer(&world.good()?)
        => passes();
    another_host: MAIN, Request::get("/host").header("host", "outer.example").bearer(&world.good()?)
        => refused(403, "rule-unmatched");
    method_is_excepted: MAIN,
        Request::new("DELETE", "/host").header("host", "inner.example").bearer(&world.good()?)
        => refused(403, "rule-unmatched");

    public_without_token: MAIN, Request::get("/public/a/b") => passes().lacks("x-sub");
    public_with_a_good_token: MAIN, Request::get("/public/a").bearer(&world.good()?)
        => passes().sees("x-sub", "alice");
    /// A token must be valid even on a route that requires none.
    public_with_a_bad_token: MAIN, Request::get("/public/a").bearer("garbage")
        => refused(401, "token-malformed");
    public_for_reading_only: MAIN, Request::new("POST", "/public/a")
        => refused(401, "token-missing");

    malformed_host: MAIN,
        Request::get("/host").header("host", "inner.example:80:80").bearer(&world.good()?)
        => refused(400, "host-malformed");
    default_port_left_out: MAIN,
        Request::get("/port").header("host", "inner.example").bearer(&world.good()?)
        => refused(403, "rule-denied");
    default_port_named: MAIN,
        Request::get("/port").header("host", "INNER.example:80").bearer(&world.good()?)
        => refused(403, "rule-denied");
    another_port: MAIN,
        Request::get("/port").header("host", "inner.example:8080").bearer(&world.good()?)
        => passes();
    /// Envoy takes `:scheme` from the `x-forwarded-proto` of a proxy in front of it.
    default_port_behind_tls: MAIN,
        Request::get("/port")
            .header("host", "outer.example")
            .header("x-forwarded-proto", "https")
            .bearer(&world.good()?)
        => passes();
    long_host: MAIN, Request::get("/host").header("host", &"a.".repeat(128)).bearer(&world.good()?)
        => refused(400, "host-too-long");
    long_path: MAIN, Request::get(&format!("/{}", "a".repeat(8 * 1024))).bearer(&world.good()?)
        => refused(400, "path-too-long");
    escaped_name_of_denied_path: MAIN, Request::get("/orders/%73ecret").bearer(&world.good()?)
        => refused(403, "rule-denied");
    dot_segments: MAIN, Request::get("/public/../orders/1") => refused(400, "path-not-normalized");
    escaped_dot_segments: MAIN, Request::get("/public/%2e%2e/orders/1")
        => refused(400, "path-not-normalized");
    double_slash: MAIN, Request::get("/public//a") => refused(400, "path-not-normalized");
    escaped_slash: MAIN, Request::get("/public/a%2Fb") => refused(400, "path-not-normalized");
    backslash: MAIN, Request::get("/public/a%5cb") => refused(400, "path-not-normalized");
}
