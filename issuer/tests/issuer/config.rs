//! The issuer's YAML configuration: defaults, and a report of every mistake with its path.

use meshseal_issuer::config::{Config, ConfigFileError, Mistakes, from_yaml};
use meshseal_issuer::keys::Algorithm;

use crate::support::{ISSUER, yaml};

fn mistakes(text: &str) -> Vec<(String, String)> {
    match from_yaml(text) {
        Err(ConfigFileError::Mistakes(Mistakes(mistakes))) => mistakes
            .into_iter()
            .map(|one| (one.path, one.message))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn paths(text: &str) -> Vec<String> {
    mistakes(text).into_iter().map(|(path, _)| path).collect()
}

#[test]
fn empty_configuration_has_safe_defaults() {
    let config = Config::default_settings();
    assert_eq!(
        (config.issuer.as_str(), config.listen.as_str()),
        ("http://127.0.0.1:8080", "127.0.0.1:8080")
    );
    assert_eq!(config.admin_listen, "127.0.0.1:8081");
    assert_eq!((config.clients.len(), config.services.len()), (0, 0));
    assert_eq!(
        (config.keys.algorithm, config.tokens.lifetime_s),
        (Algorithm::EdDsa, 300)
    );
    for empty in ["", "# only a comment\n", "{}", "null"] {
        assert_eq!(
            format!("{:?}", from_yaml(empty).unwrap()),
            format!("{config:?}"),
            "{empty:?}"
        );
    }
}

#[test]
fn reads_complete_configuration() {
    let config = from_yaml(&yaml()).unwrap();
    assert_eq!(
        (
            config.issuer.as_str(),
            config.clients.len(),
            config.services.len()
        ),
        (ISSUER, 5, 2)
    );
    assert_eq!(
        config.service("stock").map(|service| service.lifetime_s),
        Some(60)
    );
    assert!(
        !format!("{config:?}").contains("sha256"),
        "debug output contains no hashes"
    );
}

#[test]
fn reports_every_mistake_with_its_path() {
    let text = r#"
isuer: https://issuer.example
listen: nowhere
database: meshseal.db
keys: { algorithm: HS256, rotateEvery: 5, ackTimeout: never }
tokens: { lifetime: 2h, maxLifetime: 1h, clockSkew: 5m }
bundle: { notAfter: 1s, pollTokens: [short] }
services:
- { audience: orders, scopes: ["a b", read, read], lifetime: 3h, color: red }
- { audience: orders }
- { scopes: [] }
clients:
- { clientId: a, audiences: [nowhere], scopes: [write], auth: { secrets: [ { hash: hunter2 } ] } }
- { clientId: a, auth: { secrets: [], jwks: {} } }
- { clientId: "b c", auth: { jwks: { keys: [ { kty: oct, k: AAAA } ] } }, admin: maybe }
- { clientId: d }
- clientId: e
  audiences: [orders]
  access: [ { audience: x, scopes: [y] }, { audience: orders }, { audience: orders } ]
metrics: { listen: here }
"#;

    // The report has each mistake, and no other one.
    let mut found = paths(text);
    found.dedup();
    let expected = [
        "isuer",
        "listen",
        "tokens.clockSkew",
        "tokens.lifetime",
        "services[0].color",
        "services[0].lifetime",
        "services[0].scopes[0]",
        "services[0].scopes[2]",
        "services[1].audience",
        "services[2].audience",
        "clients[0].audiences[0]",
        "clients[0].scopes[0]",
        "clients[0].auth.secrets[0].hash",
        "clients[1].clientId",
        "clients[1].auth",
        "clients[2].clientId",
        "clients[2].auth.jwks",
        "clients[2].admin",
        "clients[3].auth",
        "clients[4].auth",
        "clients[4].access",
        "clients[4].access[0].audience",
        "clients[4].access[0].scopes[0]",
        "clients[4].access[2].audience",
        "metrics.listen",
        "database",
        "keys.algorithm",
        "keys.ackTimeout",
        "keys.rotateEvery",
        "bundle.pollTokens[0]",
        "bundle.notAfter",
    ];
    for path in expected {
        assert!(
            found.iter().any(|found| found.starts_with(path)),
            "{path} is missing in {found:#?}"
        );
    }
    let unexpected: Vec<_> = found
        .iter()
        .filter(|found| !expected.iter().any(|path| found.starts_with(path)))
        .collect();
    // The default of `issuer` is the listener's address, which is wrong here, too.
    assert_eq!(unexpected, ["issuer"]);
}

/// Returns whether a configuration may have this issuer identifier.
fn accepts_issuer(issuer: &str) -> bool {
    from_yaml(&format!("issuer: \"{issuer}\"")).is_ok()
}

#[test]
fn issuer_identifiers_are_https_urls() {
    for good in [
        "https://issuer.example",
        "https://issuer.example:8443",
        "http://127.0.0.1:9",
        "http://localhost:8080",
        "http://[::1]:8080",
        "https://issuer.example/tenant",
        "https://issuer.example/tenants/7.a-b_c~d",
    ] {
        assert!(accepts_issuer(good), "{good}");
    }
    for bad in [
        "http://issuer.example",
        "https://issuer.example/",
        "https://issuer.example/tenant/",
        "https://issuer.example//tenant",
        "https://issuer.example/a/../b",
        "https://issuer.example/%61",
        "https://issuer.example:99999",
        "https://[::",
        "https://[::1",
        "https://issuer.example:",
        "https://:443",
        "https://u@issuer.example",
        "https://",
        "issuer.example",
        "ftp://issuer.example",
        "https://issuer.example?x",
        "https://issuer.example#x",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
    ] {
        assert!(!accepts_issuer(bad), "{bad}");
    }
    assert_eq!(
        paths("listen: 0.0.0.0:8080"),
        ["issuer"],
        "a public listener needs an explicit issuer"
    );
}

/// Returns the address of the administration listener.
fn admin_listen(text: &str) -> String {
    from_yaml(text).unwrap().admin_listen
}

#[test]
fn administration_has_its_own_port() {
    assert_eq!(
        admin_listen("issuer: https://i.example\nlisten: 0.0.0.0:9000"),
        "127.0.0.1:9001",
        "loopback by default"
    );
    assert_eq!(admin_listen("listen: 127.0.0.1:0"), "127.0.0.1:0");
    assert_eq!(admin_listen("admin: { listen: '[::1]:7' }"), "[::1]:7");
    assert_eq!(paths("admin: { listen: 127.0.0.1:8080 }"), ["admin.listen"]);
    assert_eq!(
        paths("admin: { listen: here, port: 1 }"),
        ["admin.port", "admin.listen"]
    );
}

#[test]
fn rejects_clashing_listener_addresses() {
    for (listen, admin, clash) in [
        ("127.0.0.1:8080", "127.0.0.1:8080", true),
        ("127.0.0.1:8080", "localhost:8080", true),
        ("127.0.0.1:8080", "0.0.0.0:8080", true),
        ("127.0.0.1:8080", "[::]:8080", true),
        ("[::]:8080", "0.0.0.0:8080", true),
        ("127.0.0.1:8080", "127.0.0.2:8080", false),
        ("127.0.0.1:8080", "[::1]:8080", false),
        ("0.0.0.0:8080", "[::1]:8080", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
        ("127.0.0.1:8080", "0.0.0.0:8081", false),
    ] {
        let text = format!("issuer: {ISSUER}\nlisten: '{listen}'\nadmin: {{ listen: '{admin}' }}");
        assert_eq!(from_yaml(&text).is_err(), clash, "{text}");
        let text =
            format!("issuer: {ISSUER}\nlisten: '{listen}'\nmetrics: {{ listen: '{admin}' }}");
        assert_eq!(
            from_yaml(&text).is_err(),
            clash || admin.ends_with(":8081") && listen.ends_with(":8080"),
            "{text}"
        );
    }
}

/// The database driver parses each URL without a connection.
#[test]
fn rejects_malformed_postgres_urls() {
    for url in [
        "postgres://u:p@[::/db",
        "postgres://[::zz]:1/db",
        "postgres://h/db?sslmode=bogus",
        "postgres://a,b/db?sslmode=bogus",
        "postgres://u%ff@h/db",
        "postgres://h/db?statement-cache-capacity=many",
    ] {
        let found = mistakes(&format!("database: \"{url}\""));
        assert_eq!(found.len(), 1, "{url}: {found:?}");
        assert_eq!(found[0].0, "database", "{url}: {found:?}");
    }
    let message = &mistakes("database: \"postgres://u:hunter2@[::/db\"")[0].1;
    assert!(!message.contains("hunter2"), "{message}");
    assert!(
        from_yaml(
            "database: \"postgres://u:p@[::1]:5432,h2/db?sslmode=verify-full&sslrootcert=ca.crt\""
        )
        .is_ok()
    );
}

#[test]
fn rejects_lifetimes_and_rotations_beyond_limits() {
    let text = "tokens: { maxLifetime: 24h }\nkeys: { rotateEvery: 1h }";
    assert_eq!(
        paths(text),
        ["keys.rotateEvery"],
        "draining keys would accumulate"
    );
    assert!(from_yaml("tokens: { maxLifetime: 24h }\nkeys: { rotateEvery: never }").is_ok());
    assert_eq!(
        paths("services: [ { audience: a, lifetime: 61m } ]"),
        ["services[0].lifetime"]
    );
    assert_eq!(paths("tokens: { lifetime: 2h }"), ["tokens.lifetime"]);
}

#[test]
fn locates_yaml_syntax_errors() {
    for text in ["a: [", "a: 1\na: 2", "a: b: c", "{"] {
        let Err(ConfigFileError::Syntax(message)) = from_yaml(text) else {
            panic!("{text:?}")
        };
        assert!(message.contains("line"), "{text:?}: {message}");
    }
    assert_eq!(paths("- 1"), [""]);
    assert_eq!(paths("services: { audience: x }"), ["services"]);
}

#[test]
fn rejects_private_key_in_client_jwks() {
    let text = r#"
clients:
- clientId: a
  auth:
    jwks:
      keys:
      - kty: OKP
        crv: Ed25519
        x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo
        d: nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A
"#;
    assert!(
        paths(text)
            .iter()
            .all(|path| path.starts_with("clients[0].auth.jwks")),
        "{:?}",
        mistakes(text)
    );
}
