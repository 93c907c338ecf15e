//! Listeners and keys of the cases, and the check of a case.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use meshseal_tests::bootstrap::DETAILS;
use meshseal_tests::clock::unix_now;
use meshseal_tests::echo::{CASE, Seen};
use meshseal_tests::http::{Request, Response};
use meshseal_tests::mint::{Key, Kind, Token, jwks};
use meshseal_tests::ports::{free, loopback};
use meshseal_tests::proxy::Proxy;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "orders";

/// Strict RFC 9068 tokens of [`ISSUER`]; rules on scopes, claims and hosts; claims as headers.
pub(crate) const MAIN: &str = "main";
/// No rules: any valid token passes. HMAC keys named in the configuration.
pub(crate) const SHARED: &str = "shared-secret";
/// Tokens in a cookie, a query parameter or a custom header; forwards the original token; accepts
/// more token types; 10 s of clock skew.
pub(crate) const LOCATIONS: &str = "locations";
/// Like [`LOCATIONS`], but removes the token; in the custom header it has the prefix `jwt:`.
pub(crate) const TAKEN: &str = "taken";
/// Shadow mode: decides and counts, but passes every request.
pub(crate) const SHADOW: &str = "shadow";
/// Passes CORS preflights.
pub(crate) const CORS: &str = "cors";
/// Keys come from an issuer that never runs.
pub(crate) const UNKNOWING: &str = "unknowing";

/// Asymmetric algorithms. Each one has its own key, whose `kid` is the name of the algorithm.
const ASYMMETRIC: [(&str, Kind); 10] = [
    ("EdDSA", Kind::Ed25519),
    ("ES256", Kind::P256),
    ("ES384", Kind::P384),
    ("ES512", Kind::P521),
    ("RS256", Kind::Rsa),
    ("RS384", Kind::Rsa),
    ("RS512", Kind::Rsa),
    ("PS256", Kind::Rsa),
    ("PS384", Kind::Rsa),
    ("PS512", Kind::Rsa),
];

/// Proxy and keys shared by all cases.
pub(crate) struct World {
    pub(crate) proxy: Proxy,
    keys: BTreeMap<&'static str, Key>,
}

impl World {
    /// Returns the world, which the first case starts.
    pub(crate) async fn get() -> Result<&'static World> {
        static WORLD: OnceCell<Result<World, String>> = OnceCell::const_new();
        let world = WORLD
            .get_or_init(|| async { World::start().await.map_err(|error| format!("{error:#}")) })
            .await;
        world.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    async fn start() -> Result<World> {
        let mut keys = BTreeMap::new();
        for (alg, kind) in ASYMMETRIC {
            keys.insert(alg, Key::generate(kind, alg)?);
        }
        for alg in ["HS256", "HS384", "HS512"] {
            keys.insert(alg, Key::generate(Kind::Oct, alg)?);
        }
        keys.insert("stranger", Key::generate(Kind::P256, "ES256")?);
        let plugins = [
            (MAIN, main_plugin(&keys)?),
            (SHARED, shared_plugin(&keys)?),
            (LOCATIONS, locations_plugin(&keys, "", true)?),
            (TAKEN, locations_plugin(&keys, "jwt:", false)?),
            (
                SHADOW,
                with(
                    main_plugin(&keys)?,
                    json!({"mode": "SHADOW", "statPrefix": "shadow"}),
                ),
            ),
            (
                CORS,
                with(
                    main_plugin(&keys)?,
                    json!({"bypassCorsPreflight": true, "statPrefix": "cors"}),
                ),
            ),
            (UNKNOWING, unknowing_plugin(&keys)?),
        ];
        let proxy = Proxy::start("requests", &plugins, &[("nobody", loopback(free()?))]).await?;
        Ok(World { proxy, keys })
    }

    /// Returns a key by its kid. The key "stranger" has the kid ES256 but is in no key set.
    pub(crate) fn key(&self, kid: &str) -> Result<&Key> {
        self.keys.get(kid).with_context(|| format!("no key {kid}"))
    }

    /// Returns a valid token, signed with the EdDSA key.
    pub(crate) fn good(&self) -> Result<String> {
        self.sign(token())
    }

    /// Signs a token with the EdDSA key.
    pub(crate) fn sign(&self, token: Token) -> Result<String> {
        token.sign(self.key("EdDSA")?)
    }
}

/// Returns a valid token before it is signed.
pub(crate) fn token() -> Token {
    Token::new(ISSUER, AUDIENCE, now())
}

pub(crate) fn now() -> u64 {
    unix_now()
}

fn asymmetric_set(keys: &BTreeMap<&'static str, Key>) -> Result<Value> {
    let set = ASYMMETRIC
        .iter()
        .map(|(alg, _)| keys.get(alg).context("a key")?.jwk_for(alg));
    Ok(json!({ "keys": set.collect::<Result<Vec<_>>>()? }))
}

/// Returns `base` with the members of `more`.
fn with(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        base.extend(more);
    }
    base
}

fn main_plugin(keys: &BTreeMap<&'static str, Key>) -> Result<Value> {
    Ok(json!({
        "jwtRules": [{
            "issuer": ISSUER,
            "audiences": [AUDIENCE, "orders-too"],
            "jwks": asymmetric_set(keys)?.to_string(),
            "maxLifetime": "1h",
            "outputPayloadToHeader": "x-payload",
            "outputClaimToHeaders": [
                {"header": "x-sub", "claim": "sub"},
                {"header": "x-role", "claim": "realm.role"},
                {"header": "x-level", "claim": "level"},
                {"header": "x-ns", "claim": "[kubernetes.io][namespace]"},
            ],
        }],
        "rules": [
            {"name": "no-secrets", "action": "DENY",
             "to": [{"operation": {"paths": ["/orders/secret", "/orders/secret/{**}"]}}]},
            {"name": "banned", "action": "DENY",
             "when": [{"key": "request.auth.claims[groups]", "values": ["banned"]}]},
            {"name": "public", "allowMissing": true,
             "to": [{"operation": {"methods": ["GET"], "paths": ["/public/{**}"]}}]},
            {"name": "read", "to": [{"operation": {"methods": ["GET"], "paths": ["/orders/{*}"]}}],
             "scopes": ["orders.read"]},
            {"name": "write", "to": [{"operation": {"methods": ["POST"], "paths": ["/orders"]}}],
             "scopes": ["orders.read", "orders.write"]},
            {"name": "team",
             "to": [{"operation": {"paths": ["/team/*"], "notPaths": ["/team/closed"]}}],
             "when": [{"key": "request.auth.claims[groups]",
                       "values": ["staff", "team-*"], "notValues": ["team-away"]}]},
            {"name": "inner-host", "to": [{"operation": {
                "hosts": ["inner.example"], "notMethods": ["DELETE"], "paths": ["/host"]}}]},
            {"name": "closed-port", "action": "DENY", "to": [{"operation": {
                "hosts": ["inner.example:80", "outer.example:80"], "paths": ["/port"]}}]},
            {"name": "port", "to": [{"operation": {
                "hosts": ["inner.example", "outer.example:443"], "paths": ["/port"]}}]},
            {"name": "direct", "to": [{"operation": {"paths": ["/direct"]}}]},
            {"name": "not-by-others", "action": "DENY",
             "to": [{"operation": {"paths": ["/direct"]}}],
             "when": [{"key": "request.auth.delegated", "values": ["true"]}]},
            {"name": "nested", "to": [{"operation": {"paths": ["/nested"]}}],
             "when": [{"key": "request.auth.claims[realm][role]", "values": ["admin"]}]},
            {"name": "principal", "to": [{"operation": {"paths": ["/principal"]}}],
             "when": [{"key": "request.auth.principal", "values": [format!("{ISSUER}/alice")]}]},
            {"name": "grpc",
             "to": [{"operation": {"methods": ["POST"], "paths": ["/shop.Orders/{*}"]}}],
             "scopes": ["orders.read"]},
        ],
    }))
}

fn shared_plugin(keys: &BTreeMap<&'static str, Key>) -> Result<Value> {
    let secrets = ["HS256", "HS384", "HS512"]
        .iter()
        .map(|alg| keys.get(alg).context("a key")?.jwk_for(alg));
    Ok(json!({
        "statPrefix": "shared",
        "jwtRules": [{
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "jwks": {"keys": secrets.collect::<Result<Vec<_>>>()?},
            "algorithms": ["HS256", "HS384", "HS512"],
        }],
    }))
}

fn locations_plugin(
    keys: &BTreeMap<&'static str, Key>,
    prefix: &str,
    forward: bool,
) -> Result<Value> {
    Ok(json!({
        "statPrefix": "locations",
        "jwtRules": [{
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "jwks": jwks(&[keys.get("EdDSA").context("a key")?])?,
            "tokenTypes": ["at+jwt", "JWT"],
            "clockSkew": "10s",
            "fromHeaders": [
                {"name": "x-token", "prefix": prefix},
                {"name": "authorization", "prefix": "Bearer "},
                {"name": "sec-websocket-protocol", "prefix": "bearer."},
            ],
            "fromCookies": ["session"],
            "fromParams": ["access_token"],
            "forwardOriginalToken": forward,
        }],
    }))
}

fn unknowing_plugin(keys: &BTreeMap<&'static str, Key>) -> Result<Value> {
    Ok(json!({
        "statPrefix": "unknowing",
        "trustBundle": {"cluster": "nobody", "keys": [keys.get("EdDSA").context("a key")?.jwk()?]},
        "jwtRules": [{"issuer": ISSUER, "audiences": [AUDIENCE], "trustBundle": true}],
    }))
}

/// Expectation of a header at the upstream.
#[derive(Debug)]
pub(crate) enum Sight {
    Value(String),
    Something,
    Nothing,
}

/// Expectation of a case.
#[derive(Debug)]
pub(crate) enum Expect {
    /// Status 200, and each of these headers reaches the upstream as stated.
    Passes(BTreeMap<&'static str, Sight>),
    /// Rejection with this status and code; no request reaches the upstream.
    Refused(u16, &'static str),
}

/// Expects that the request passes and that the filter removes the token.
pub(crate) fn passes() -> Expect {
    Expect::Passes(BTreeMap::new()).lacks("authorization")
}

/// Expects that the filter rejects the request with this status and code.
pub(crate) fn refused(status: u16, code: &'static str) -> Expect {
    Expect::Refused(status, code)
}

impl Expect {
    /// Expects that the upstream sees this header once, with exactly this value.
    pub(crate) fn sees(self, header: &'static str, value: impl Into<String>) -> Self {
        self.header(header, Sight::Value(value.into()))
    }

    /// Expects that the upstream sees this header once.
    pub(crate) fn has(self, header: &'static str) -> Self {
        self.header(header, Sight::Something)
    }

    /// Expects that the upstream sees this path, which includes the query string.
    pub(crate) fn path(self, path: &str) -> Self {
        self.header(":path", Sight::Value(path.to_owned()))
    }

    /// Expects that the upstream does not see this header.
    pub(crate) fn lacks(self, header: &'static str) -> Self {
        self.header(header, Sight::Nothing)
    }

    fn header(mut self, header: &'static str, sight: Sight) -> Self {
        if let Self::Passes(headers) = &mut self {
            headers.insert(header, sight);
        }
        self
    }
}

/// Sends the request to each worker and checks the expectation.
pub(crate) async fn check(
    name: &str,
    listener: &str,
    request: Request,
    expect: Expect,
) -> Result<()> {
    let world = World::get().await?;
    let case = |worker| format!("{name}-{worker}");
    let responses = world
        .proxy
        .ask_each_worker(listener, |worker| {
            request.clone().header(CASE, &case(worker))
        })
        .await?;
    for (worker, response) in responses.iter().enumerate() {
        let seen = world.proxy.echo().take(&case(worker));
        match &expect {
            Expect::Passes(headers) => check_passed(response, &seen, headers),
            Expect::Refused(status, code) => check_refused(response, &seen, *status, code),
        }
        .with_context(|| {
            format!(
                "worker {worker}: {} {:?} {}",
                response.status,
                response.headers,
                response.text()
            )
        })?;
    }
    Ok(())
}

fn check_passed(response: &Response, seen: &[Seen], headers: &BTreeMap<&str, Sight>) -> Result<()> {
    ensure!(response.status == 200, "expected to pass");
    let [seen] = seen else {
        anyhow::bail!("the upstream saw {} requests", seen.len())
    };
    for (name, sight) in headers {
        let values = if *name == ":path" {
            vec![seen.path.as_str()]
        } else {
            seen.header(name)
        };
        let as_expected = match sight {
            Sight::Value(value) => values == [value.as_str()],
            Sight::Something => values.len() == 1,
            Sight::Nothing => values.is_empty(),
        };
        ensure!(
            as_expected,
            "the upstream saw {name}: {values:?}, expected {sight:?}"
        );
    }
    Ok(())
}

fn check_refused(response: &Response, seen: &[Seen], status: u16, code: &str) -> Result<()> {
    ensure!(response.status == status, "expected {status} {code}");
    ensure!(seen.is_empty(), "a rejected request reached the upstream");
    let problem = response.json();
    let member = |name: &str| problem.get(name).cloned().unwrap_or_default();
    ensure!(member("code") == code, "expected code {code}");
    ensure!(
        member("type") == format!("urn:meshseal:problem:{code}"),
        "type of the problem"
    );
    ensure!(member("status") == status, "status of the problem");
    ensure!(
        response.header("content-type") == Some("application/problem+json"),
        "content type"
    );
    let details = format!("meshseal_{}", code.replace('-', "_"));
    ensure!(
        response.header(DETAILS) == Some(details.as_str()),
        "response code details, expected {details}"
    );
    check_challenge(response, status, code)
}

/// Checks `WWW-Authenticate` (RFC 6750 §3) and `Retry-After` by status and code.
fn check_challenge(response: &Response, status: u16, code: &str) -> Result<()> {
    let challenge = response.header("www-authenticate");
    let has = |part: &str| {
        challenge.is_some_and(|text| text.starts_with("Bearer ") && text.contains(part))
    };
    match (status, code) {
        (401, "token-missing") => {
            ensure!(
                challenge == Some("Bearer realm=\"meshseal\""),
                "no error parameter without a token"
            );
        }
        (401, _) => {
            ensure!(
                has("error=\"invalid_token\"") && has(&format!("error_description=\"{code}\"")),
                "invalid_token"
            );
        }
        (400, "path-not-normalized" | "path-too-long" | "host-malformed" | "host-too-long") => {
            ensure!(challenge.is_none(), "authentication did not fail");
        }
        (400, _) => ensure!(has("error=\"invalid_request\""), "invalid_request"),
        (403, "scope-missing") => ensure!(
            has("error=\"insufficient_scope\"") && has("scope=\""),
            "insufficient_scope"
        ),
        (503, _) => {
            let seconds = response
                .header("retry-after")
                .and_then(|text| text.parse::<u32>().ok());
            ensure!(seconds.is_some_and(|seconds| seconds > 0), "retry-after");
        }
        _ => {}
    }
    Ok(())
}

/// Generates one test per case `name: listener, request => expectation;`. Cases can use `world`.
macro_rules! cases {
    ($world:ident; $(
        $(#[doc = $why:literal])* $name:ident: $listener:expr, $request:expr => $expect:expr;
    )+) => {$(
        #[test]
        $(#[doc = $why])*
        fn $name() -> anyhow::Result<()> {
            meshseal_tests::proxy::run(async {
                let $world = $crate::world::World::get().await?;
                let (request, expect) = ($request, $expect);
                let _ = $world;
                $crate::world::check(stringify!($name), $listener, request, expect).await
            })
        }
    )+};
}
pub(crate) use cases;
