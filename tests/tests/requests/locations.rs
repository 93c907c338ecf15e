//! Token locations: a token may only be in a configured place, and only once (V18).

use meshseal_tests::http::Request;

use crate::world::{LOCATIONS, MAIN, TAKEN, cases, passes, refused, token};

fn order() -> Request {
    Request::get("/orders/1")
}

fn in_two_places(token: &str) -> Request {
    order()
        .bearer(token)
        .header("cookie", &format!("session={token}"))
}

cases! { world;
    from_a_header_of_its_own: LOCATIONS, order().header("x-token", &world.good()?) => passes();
    from_a_cookie: LOCATIONS,
        order().header("cookie", &format!("theme=dark; session={}; lang=de", world.good()?))
        => passes();
    from_a_query_parameter: LOCATIONS,
        Request::get(&format!("/orders/1?a=b&access_token={}&c=d", world.good()?))
        => passes();
    removes_token_header_with_prefix: TAKEN,
        order().header("x-token", &format!("jwt:{}", world.good()?))
        => passes().lacks("x-token");
    ignores_header_without_its_prefix: TAKEN, order().header("x-token", &world.good()?)
        => refused(401, "token-missing");
    removes_token_cookie_and_keeps_others: TAKEN,
        order().header("cookie", &format!("theme=dark; session={}; lang=de", world.good()?))
        => passes().sees("cookie", "theme=dark; lang=de");
    removes_token_parameter_and_keeps_others: TAKEN,
        Request::get(&format!("/orders/1?a=b&access_token={}&c=d", world.good()?))
        => passes().path("/orders/1?a=b&c=d");
    forwarded_token_stays_in_its_location: LOCATIONS, order().header("x-token", &world.good()?)
        => passes().has("x-token");
    typ_jwt_where_configured: LOCATIONS,
        order().header("x-token", &world.sign(token().header("typ", "JWT"))?)
        => passes();
    no_typ_where_configured: LOCATIONS,
        order().header("x-token", &world.sign(token().without_header("typ"))?)
        => passes();
    cookie_is_no_location_unless_named: MAIN,
        order().header("cookie", &format!("session={}", world.good()?))
        => refused(401, "token-missing");
    query_is_no_location_unless_named: MAIN,
        Request::get(&format!("/orders/1?access_token={}", world.good()?))
        => refused(401, "token-missing");

    two_authorization_headers: MAIN, order().bearer(&world.good()?).bearer(&world.good()?)
        => refused(400, "token-repeated");
    good_token_then_garbage: MAIN, order().bearer(&world.good()?).bearer("garbage")
        => refused(400, "token-repeated");
    two_tokens_in_one_header: MAIN,
        order().header("authorization", &format!("Bearer {0},Bearer {0}", world.good()?))
        => refused(400, "token-repeated");
    header_and_cookie: LOCATIONS,
        order().bearer(&world.good()?).header("cookie", &format!("session={}", world.good()?))
        => refused(400, "token-repeated");
    header_and_query: LOCATIONS,
        Request::get(&format!("/orders/1?access_token={}", world.good()?)).bearer(&world.good()?)
        => refused(400, "token-repeated");
    same_token_in_header_and_cookie: TAKEN, in_two_places(&world.good()?)
        => passes().lacks("cookie");
    two_spaces_after_scheme: MAIN,
        order().header("authorization", &format!("Bearer  {}", world.good()?))
        => passes();
    quoted_cookie_goes_alone: TAKEN,
        order().header("cookie", &format!("a=\"b\";session=\"{}\"; c", world.good()?))
        => passes().sees("cookie", "a=\"b\"; c");
    protocol_is_taken_out_of_list: TAKEN,
        order().header(
            "sec-websocket-protocol",
            &format!("graphql-ws, bearer.{}, mqtt", world.good()?),
        )
        => passes().sees("sec-websocket-protocol", "graphql-ws, mqtt");
    cookie_named_twice: LOCATIONS,
        order().header("cookie", &format!("session={0}; session={0}", world.good()?))
        => refused(400, "token-repeated");
    parameter_named_twice: LOCATIONS,
        Request::get(&format!("/orders/1?access_token={0}&access_token={0}", world.good()?))
        => refused(400, "token-repeated");
}
