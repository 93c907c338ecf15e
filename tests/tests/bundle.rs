//! The trust bundle in a real Envoy, from a server that behaves correctly and then wrongly.

use std::time::Duration;

use anyhow::{Result, ensure};
use meshseal_tests::bundles::{Bundles, Manner, sign, trust};
use meshseal_tests::clock::unix_now;
use meshseal_tests::http::{Request, Response};
use meshseal_tests::mint::{Key, Kind, Token, b64};
use meshseal_tests::proxy::{Proxy, WORKERS, run};
use meshseal_tests::wait::until;
use serde_json::{Value, json};

const ISSUER: &str = "https://issuer.example";
/// Number of threads that poll. Envoy also runs the filter on its main thread.
const POLLERS: usize = WORKERS + 1;
/// Time limit for everything that the filter does by itself, back-off included.
const SOON: Duration = Duration::from_secs(20);

/// An Envoy that trusts a bundle server, and a key that the first bundle contains.
struct Scene {
    bundles: Bundles,
    key: Key,
    proxy: Proxy,
}

impl Scene {
    /// Starts everything and waits until both workers have the first bundle.
    async fn ready(name: &str) -> Result<Self> {
        Self::ready_with(name, json!({})).await
    }

    /// Does the same as [`Scene::ready`] with `more` members of `trustBundle`.
    async fn ready_with(name: &str, more: Value) -> Result<Self> {
        let scene = Self::with(name, Bundles::start()?, more).await?;
        scene.bundles.publish(trust(ISSUER, &[&scene.key])?);
        scene.until_answered(&scene.token()?, 200).await?;
        Ok(scene)
    }

    /// Starts Envoy with a bundle server in any state and `more` members of `trustBundle`.
    async fn with(name: &str, bundles: Bundles, more: Value) -> Result<Self> {
        let mut config = bundles.config("bundles")?;
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        let plugin = json!({
            "trustBundle": config,
            "jwtRules": [{"issuer": ISSUER, "audiences": ["orders"], "trustBundle": true}],
        });
        let key = Key::generate(Kind::Ed25519, "first")?;
        let proxy =
            Proxy::start(name, &[("edge", plugin)], &[("bundles", bundles.address())]).await?;
        Ok(Self {
            bundles,
            key,
            proxy,
        })
    }

    fn token(&self) -> Result<String> {
        token_of(&self.key)
    }

    async fn ask(&self, token: &str) -> Result<Vec<Response>> {
        self.proxy
            .ask_each_worker("edge", |_| Request::get("/").bearer(token))
            .await
    }

    /// Checks that both workers answer with this status and code now.
    async fn expect(&self, token: &str, status: u16, code: Option<&str>) -> Result<()> {
        for response in self.ask(token).await? {
            ensure!(
                response.status == status,
                "expected {status}, got {response:?}"
            );
            ensure!(
                response.code().as_deref() == code,
                "expected {code:?}, got {response:?}"
            );
        }
        Ok(())
    }

    /// Waits until both workers answer with this status.
    async fn until_answered(&self, token: &str, status: u16) -> Result<()> {
        until(
            &format!("status {status} from both workers"),
            SOON,
            || async {
                let responses = self.ask(token).await.ok()?;
                responses
                    .iter()
                    .all(|response| response.status == status)
                    .then_some(())
            },
        )
        .await
    }

    /// Waits until every thread has acknowledged this version.
    async fn until_held(&self, version: u64) -> Result<()> {
        until(
            &format!("version {version} in every thread"),
            SOON,
            || async {
                let held = self.bundles.held();
                (held.len() == POLLERS && held.values().all(|&have| have == version)).then_some(())
            },
        )
        .await
    }

    async fn stat(&self, name: &str) -> Result<u64> {
        self.proxy
            .envoy()
            .stat(&format!("wasmcustom.meshseal.{name}"))
            .await
    }

    /// Lets the server answer every poll with these bytes until every thread has rejected them.
    async fn refuses(&self, bytes: Vec<u8>) -> Result<()> {
        let before = self.stat("bundle.refused").await? + self.stat("bundle.poll_failed").await?;
        self.bundles.set_manner(Manner::Bytes(bytes));
        until("every thread to reject the bytes", SOON, || async {
            let now = self.stat("bundle.refused").await.ok()?
                + self.stat("bundle.poll_failed").await.ok()?;
            (now >= before + POLLERS as u64).then_some(())
        })
        .await
    }

    /// Checks the state after a fault: valid tokens still pass, and a newly published key arrives.
    async fn recovers(&self) -> Result<()> {
        self.expect(&self.token()?, 200, None).await?;
        self.bundles.set_manner(Manner::Right);
        let newer = Key::generate(Kind::Ed25519, "newer")?;
        let version = self.bundles.publish(trust(ISSUER, &[&self.key, &newer])?);
        self.until_held(version).await?;
        self.expect(&token_of(&newer)?, 200, None).await?;
        self.expect(&self.token()?, 200, None).await
    }
}

fn token_of(key: &Key) -> Result<String> {
    Token::new(ISSUER, "orders", unix_now()).sign(key)
}

#[test]
fn every_worker_polls_with_its_own_version() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-polls").await?;
        let version = scene.bundles.publish(trust(ISSUER, &[&scene.key])?);
        scene.until_held(version).await?;
        assert_eq!(
            scene.bundles.workers().len(),
            POLLERS,
            "one poller a thread: {:?}",
            scene.bundles.workers()
        );
        for poll in scene.bundles.polls() {
            assert!(
                poll.worker.len() == 16 && poll.worker.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{poll:?}"
            );
            assert_eq!(poll.node, "bundle-polls");
            assert!(poll.wait <= 55 && poll.authorization.is_none(), "{poll:?}");
        }
        assert_eq!(scene.stat("bundle.version").await?, version);
        assert_eq!(scene.stat("keys").await?, 1);
        assert!(scene.stat("bundle.accepted").await? >= 2);
        Ok(())
    })
}

#[test]
fn sends_poll_token() -> Result<()> {
    run(async {
        let scene = Scene::with(
            "bundle-poll-token",
            Bundles::start()?,
            json!({"pollToken": "let-me-poll"}),
        )
        .await?;
        until("a poll of each worker", SOON, || async {
            (scene.bundles.workers().len() == POLLERS).then_some(())
        })
        .await?;
        for poll in scene.bundles.polls() {
            assert_eq!(poll.authorization.as_deref(), Some("Bearer let-me-poll"));
        }
        Ok(())
    })
}

#[test]
fn reaches_server_that_starts_late() -> Result<()> {
    run(async {
        let mut scene = Scene::with("bundle-late", Bundles::stopped()?, json!({})).await?;
        scene
            .expect(&scene.token()?, 503, Some("keys-unavailable"))
            .await?;
        scene.bundles.publish(trust(ISSUER, &[&scene.key])?);
        scene.bundles.revive()?;
        scene.until_answered(&scene.token()?, 200).await
    })
}

#[test]
fn survives_killed_server_and_resumes_polling() -> Result<()> {
    run(async {
        let mut scene = Scene::ready("bundle-killed").await?;
        let failed = scene.stat("bundle.poll_failed").await?;
        scene.bundles.kill();
        until("a failed poll", SOON, || async {
            (scene.stat("bundle.poll_failed").await.ok()? > failed).then_some(())
        })
        .await?;
        scene.expect(&scene.token()?, 200, None).await?;
        scene.bundles.revive()?;
        scene.recovers().await
    })
}

#[test]
fn silent_server_delays_no_request() -> Result<()> {
    run(async {
        let scene = Scene::ready_with("bundle-silent", json!({"wait": "1s"})).await?;
        let failed = scene.stat("bundle.poll_failed").await?;
        scene.bundles.set_manner(Manner::Silent);
        scene.expect(&scene.token()?, 200, None).await?;
        until("every thread to give its poll up", SOON, || async {
            (scene.stat("bundle.poll_failed").await.ok()? >= failed + POLLERS as u64).then_some(())
        })
        .await?;
        scene.recovers().await
    })
}

#[test]
fn rejects_older_version() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-rollback").await?;
        let stranger = Key::generate(Kind::Ed25519, "older")?;
        let now = unix_now();
        let older = json!({
            "iss": "x", "ver": 1, "iat": now, "exp": now + 600,
            "issuers": trust(ISSUER, &[&stranger])?,
        });
        scene
            .refuses(sign(scene.bundles.key(), &older)?.into_bytes())
            .await?;
        scene
            .expect(&token_of(&stranger)?, 401, Some("key-unknown"))
            .await?;
        scene.recovers().await
    })
}

#[test]
fn rejects_foreign_signature() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-foreign").await?;
        // The attacker knows everything but the private key: same `kid`, later version.
        let foreign = Key::generate(Kind::Ed25519, "bundle")?;
        let mine = Key::generate(Kind::Ed25519, "mine")?;
        let now = unix_now();
        let bundle = json!({
            "iss": "bundles.test", "ver": 999, "iat": now, "exp": now + 600,
            "issuers": trust(ISSUER, &[&mine])?,
        });
        scene.refuses(sign(&foreign, &bundle)?.into_bytes()).await?;
        scene
            .expect(&token_of(&mine)?, 401, Some("key-unknown"))
            .await?;
        scene.recovers().await
    })
}

#[test]
fn rejects_token_as_bundle() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-type").await?;
        // Signed by the pinned key, with the content of a bundle, but with another `typ`.
        let now = unix_now();
        let content =
            json!({"iss": "bundles.test", "ver": 999, "iat": now, "exp": now + 600}).to_string();
        let key = scene.bundles.key();
        let jws = meshseal_tests::mint::seal(
            r#"{"alg":"EdDSA","kid":"bundle","typ":"at+jwt"}"#,
            content.as_bytes(),
            |input| key.sign("EdDSA", input),
        )?;
        scene.refuses(jws.into_bytes()).await?;
        scene.recovers().await
    })
}

#[test]
fn rejects_truncated_bundle() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-truncated").await?;
        let mut whole = scene.bundles.current()?.into_bytes();
        whole.truncate(whole.len() * 2 / 3);
        scene.refuses(whole).await?;
        scene.recovers().await
    })
}

#[test]
fn rejects_ten_megabyte_response() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-huge").await?;
        scene.refuses(vec![b'A'; 10 * 1024 * 1024]).await?;
        scene.recovers().await
    })
}

#[test]
fn rejects_response_that_is_no_bundle() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-html").await?;
        scene
            .refuses(b"<html>502 Bad Gateway</html>".to_vec())
            .await?;
        scene.recovers().await
    })
}

#[test]
fn survives_error_status() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-500").await?;
        let failed = scene.stat("bundle.poll_failed").await?;
        scene.bundles.set_manner(Manner::Status(500));
        until("every thread to fail", SOON, || async {
            (scene.stat("bundle.poll_failed").await.ok()? >= failed + POLLERS as u64).then_some(())
        })
        .await?;
        scene.recovers().await
    })
}

#[test]
fn rejects_tokens_with_outdated_bundle() -> Result<()> {
    run(async {
        let mut scene = Scene::ready("bundle-outdated").await?;
        scene.bundles.set_lifetime(2);
        let version = scene.bundles.publish(trust(ISSUER, &[&scene.key])?);
        scene.until_held(version).await?;
        scene.bundles.kill();
        scene.until_answered(&scene.token()?, 503).await?;
        scene
            .expect(&scene.token()?, 503, Some("bundle-stale"))
            .await?;
        scene.bundles.set_lifetime(3_600);
        scene.bundles.revive()?;
        scene.until_answered(&scene.token()?, 200).await
    })
}

#[test]
fn serves_outdated_bundle_if_configured() -> Result<()> {
    run(async {
        let bundles = Bundles::start()?;
        bundles.set_lifetime(2);
        let staleness = json!({"staleness": {"action": "SERVE"}});
        let mut scene = Scene::with("bundle-serve", bundles, staleness).await?;
        scene.bundles.publish(trust(ISSUER, &[&scene.key])?);
        scene.until_answered(&scene.token()?, 200).await?;
        scene.bundles.kill();
        until("a bundle older than its not-after", SOON, || async {
            (scene.stat("bundle.age_s").await.ok()? > 3).then_some(())
        })
        .await?;
        scene.expect(&scene.token()?, 200, None).await
    })
}

#[test]
fn embedded_bundle_serves_until_issuer_starts() -> Result<()> {
    run(async {
        let key = Key::generate(Kind::P256, "embedded")?;
        let bundles = Bundles::stopped()?;
        bundles.publish(trust(ISSUER, &[&key])?);
        let embedded = json!({"embedded": bundles.current()?});
        let mut scene = Scene::with("bundle-embedded", bundles, embedded).await?;
        scene.expect(&token_of(&key)?, 200, None).await?;
        scene.bundles.publish(trust(ISSUER, &[&scene.key])?);
        scene.bundles.revive()?;
        scene.until_answered(&scene.token()?, 200).await?;
        scene
            .expect(&token_of(&key)?, 401, Some("key-unknown"))
            .await
    })
}

#[test]
fn applies_pushed_revocations() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-revoked").await?;
        // A `jti` has eight bytes of index and eight random bytes. The set of revoked tokens is a
        // list of index differences in LEB128.
        let token = |index: u64| {
            Token::new(ISSUER, "orders", unix_now())
                .claim("jti", b64([index.to_be_bytes(), [7; 8]].concat()))
                .sign(&scene.key)
        };
        let mut issuers = trust(ISSUER, &[&scene.key])?;
        let (revoked, other) = (token(5)?, token(6)?);
        scene.expect(&revoked, 200, None).await?;
        if let Some(trust) = issuers.get_mut(ISSUER).and_then(Value::as_object_mut) {
            trust.insert("revoked".to_owned(), b64([5]).into());
            trust.insert(
                "epochs".to_owned(),
                json!({"sub": {"mallory": unix_now() + 1}}),
            );
        }
        let version = scene.bundles.publish(issuers);
        scene.until_held(version).await?;
        scene.expect(&revoked, 401, Some("token-revoked")).await?;
        scene.expect(&other, 200, None).await?;
        let mallory = Token::new(ISSUER, "orders", unix_now())
            .claim("sub", "mallory")
            .sign(&scene.key)?;
        scene.expect(&mallory, 401, Some("subject-revoked")).await
    })
}

#[test]
fn holds_request_and_polls_for_unknown_key() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-wait").await?;
        // Waiting polls do not get the new version. Only the poll that the held request causes can
        // bring the key in time.
        scene.bundles.set_manner(Manner::Deaf);
        let fresh = Key::generate(Kind::Ed25519, "fresh")?;
        scene.bundles.publish(trust(ISSUER, &[&scene.key, &fresh])?);
        scene.expect(&token_of(&fresh)?, 200, None).await?;
        assert!(scene.stat("waited").await? >= WORKERS as u64);
        Ok(())
    })
}

#[test]
fn unknown_keys_cause_few_polls() -> Result<()> {
    run(async {
        let scene = Scene::ready("bundle-flood").await?;
        let before = scene.bundles.polls().len();
        let stranger = Key::generate(Kind::Ed25519, "x")?;
        for number in 0..100 {
            let token = Token::new(ISSUER, "orders", unix_now())
                .header("kid", format!("made-up-{number}"))
                .sign(&stranger)?;
            scene.expect(&token, 401, Some("key-unknown")).await?;
        }
        let polls = scene.bundles.polls().len() - before;
        assert!(
            polls <= 60,
            "200 requests with unknown keys caused {polls} polls"
        );
        Ok(())
    })
}
