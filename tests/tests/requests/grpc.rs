//! gRPC over HTTP/2: rejections carry a gRPC status in the trailers-only form.

use anyhow::{Context as _, Result};
use meshseal_tests::echo::CASE;
use meshseal_tests::http::{Connection, Request, Response};
use meshseal_tests::proxy::run;

use crate::world::{MAIN, UNKNOWING, World, token};

async fn call(listener: &str, path: &str, bearer: Option<&str>) -> Result<Response> {
    let world = World::get().await?;
    let mut request = Request::new("POST", path)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = bearer {
        request = request.bearer(token).header(CASE, path);
    }
    Connection::open_h2(world.proxy.address(listener)?)
        .await?
        .send(&request)
        .await
}

fn status(response: &Response) -> Result<&str> {
    response
        .header("grpc-status")
        .with_context(|| format!("no grpc-status: {response:?}"))
}

#[test]
fn good_call_reaches_the_service() -> Result<()> {
    run(async {
        let world = World::get().await?;
        let response = call(MAIN, "/shop.Orders/Get", Some(&world.good()?)).await?;
        assert_eq!(response.status, 200);
        let seen = world.proxy.echo().take("/shop.Orders/Get");
        assert_eq!(
            seen.first()
                .context("the call did not reach the service")?
                .header("x-sub"),
            ["alice"]
        );
        Ok(())
    })
}

#[test]
fn rejections_have_grpc_status() -> Result<()> {
    run(async {
        let world = World::get().await?;
        let good = world.good()?;
        let unscoped = world.sign(token().without("scope"))?;
        let cases = [
            (
                MAIN,
                "/shop.Orders/List",
                None,
                "16",
                "UNAUTHENTICATED without a token",
            ),
            (
                MAIN,
                "/shop.Orders/List",
                Some("garbage"),
                "16",
                "UNAUTHENTICATED with a bad token",
            ),
            (
                MAIN,
                "/shop.Orders/List",
                Some(unscoped.as_str()),
                "7",
                "PERMISSION_DENIED without the scope",
            ),
            (
                MAIN,
                "/shop.Other/List",
                Some(good.as_str()),
                "7",
                "PERMISSION_DENIED without a rule",
            ),
            (
                MAIN,
                "/shop.Orders//List",
                Some(good.as_str()),
                "3",
                "INVALID_ARGUMENT for a strange path",
            ),
            (
                UNKNOWING,
                "/shop.Orders/List",
                Some(good.as_str()),
                "14",
                "UNAVAILABLE without keys",
            ),
        ];
        for (listener, path, bearer, expected, what) in cases {
            let response = call(listener, path, bearer).await?;
            assert_eq!(response.status, 200, "{what}: gRPC errors travel in a 200");
            assert_eq!(status(&response)?, expected, "{what}: {response:?}");
            assert!(
                world.proxy.echo().take(path).is_empty(),
                "{what}: the call reached the service"
            );
        }
        Ok(())
    })
}
