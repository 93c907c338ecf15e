//! Growth of the filter's cost with claims, rules, keys and revocations. Measured with the whole
//! filter in Envoy, one listener per configuration.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use meshseal_core::base64url;
use meshseal_core::revocation::{IndexSet, jti_with_index};
use meshseal_tests::bootstrap::meshseal;
use meshseal_tests::bundles::{Bundles, trust};
use meshseal_tests::mint::Token;
use meshseal_tests::wait::until;
use serde_json::{Value, json};

use super::arena::{Arena, Work};
use super::contenders::{Contender, EMPTY, ISTIO, MESHSEAL, istio, plugin, working};
use super::tokens::{AUDIENCE, ISSUER, Signer, jwks};
use crate::drive::Requests;
use crate::process::cpu;
use crate::report::{Bound, Table, short};
use crate::{Effort, say, scatter};

const CLAIMS: [usize; 4] = [8, 20, 50, 100];
const RULES: [usize; 4] = [1, 10, 100, 1_000];
const KEYS: [usize; 3] = [1, 10, 50];
const REVOKED: [u64; 4] = [0, 1_000, 10_000, 100_000];
/// Number of live tokens, of which [`REVOKED`] are revoked.
const ISSUED: u64 = 1_000_000;
/// Maximum CPU time for accepting a bundle with 10 000 revocations, in milliseconds.
const APPLIED_MS: f64 = 10.0;

/// A bundle server for an issuer that has revoked `count` tokens.
struct Revoking {
    count: u64,
    name: String,
    server: Bundles,
    issuers: Value,
}

pub(crate) async fn run(effort: &Effort) -> Result<Vec<Table>> {
    let signer = Signer::new("EdDSA")?;
    let many = KEYS.map(|count| {
        (0..count)
            .map(|at| Signer::named("EdDSA", &format!("key-{at}")))
            .collect()
    });
    let many: Vec<Vec<Signer>> = many.into_iter().collect::<Result<_>>()?;
    let revoking = REVOKED
        .into_iter()
        .map(|count| Revoking::start(count, &signer))
        .collect::<Result<Vec<_>>>()?;
    let mut contenders = contenders(&signer, &many)?;
    for one in &revoking {
        contenders.push(one.contender()?);
    }
    let clusters: Vec<(String, SocketAddr)> = revoking
        .iter()
        .map(|one| (one.name.clone(), one.server.address()))
        .collect();
    let mut arena = Arena::start("growth", &contenders, &clusters).await?;
    // Every VM must have its bundle before the measurement.
    for one in &revoking {
        one.wait_until_held(one.server.publish(one.issuers.clone()))
            .await?;
    }
    let rounds = effort.rounds.div_ceil(2);
    for round in 1..=rounds {
        say(&format!("filter: growth, round {round} of {rounds}"));
        for work in works(&signer, &many, effort)? {
            arena.measure(&work).await?;
        }
    }
    let mut tables = vec![
        tokens_table(&arena)?,
        listeners_table(
            &arena,
            "Rules",
            "The last of so many rules is the one that matches.",
            "rules",
            &RULES,
        )?,
        listeners_table(
            &arena,
            "Keys",
            "EdDSA; tokens are signed by all of the keys in turn.",
            "keys",
            &KEYS,
        )?,
    ];
    tables.push(revocations_table(&arena, &revoking).await?);
    arena.envoy.stop().await;
    Ok(tables)
}

fn contenders(signer: &Signer, many: &[Vec<Signer>]) -> Result<Vec<Contender>> {
    let keys = jwks(std::slice::from_ref(signer))?;
    let mut contenders = vec![
        Contender::new(EMPTY, vec![]),
        istio(&keys),
        Contender::new(MESHSEAL, vec![meshseal(&plugin(MESHSEAL, &keys))]),
    ];
    for count in RULES {
        let others = (1..count).map(|at| rule(&format!("/other/{at}/*")));
        // The last rule is the one that matches.
        let rules: Vec<Value> = others.chain([rule("/orders/*")]).collect();
        let name = name("rules", count);
        let mut plugin = plugin(&name, &keys);
        plugin
            .as_object_mut()
            .context("an object")?
            .insert("rules".to_owned(), rules.into());
        contenders.push(Contender::new(&name, vec![meshseal(&plugin)]));
    }
    for signers in many {
        let name = name("keys", signers.len());
        contenders.push(Contender::new(
            &name,
            vec![meshseal(&plugin(&name, &jwks(signers)?))],
        ));
    }
    Ok(contenders)
}

fn rule(path: &str) -> Value {
    json!({
        "to": [{"operation": {"methods": ["GET"], "paths": [path]}}],
        "scopes": ["orders.read"],
    })
}

/// Returns the name of a listener.
fn name(what: &str, count: usize) -> String {
    format!("{what}-{count}")
}

fn works(signer: &Signer, many: &[Vec<Signer>], effort: &Effort) -> Result<Vec<Work>> {
    let (new, again) = (effort.new_tokens / 2, effort.requests / 2);
    let mut works = Vec::new();
    let mut add = |what: &str,
                   make: &dyn Fn(usize) -> Result<Requests>,
                   contenders: &[String]|
     -> Result<()> {
        for (kind, tokens, count, warm_up) in [("new", new, new, 0), ("again", 1, again, 100)] {
            let (name, requests) = (format!("{what}, {kind}"), make(tokens)?);
            let contenders = contenders.to_vec();
            works.push(Work {
                name,
                requests,
                count,
                warm_up,
                status: 200,
                native_status: 200,
                contenders,
            });
        }
        Ok(())
    };
    for count in CLAIMS {
        add(
            &format!("{count} claims"),
            &|tokens| signer.requests_with(tokens, |token| with_claims(token, count)),
            &[ISTIO.to_owned(), MESHSEAL.to_owned()],
        )?;
    }
    for count in RULES {
        add(
            &format!("{count} rules"),
            &|tokens| signer.requests(tokens),
            &[name("rules", count)],
        )?;
    }
    for signers in many {
        add(
            &format!("{} keys", signers.len()),
            &|tokens| signed_in_turn(signers, tokens),
            &[name("keys", signers.len())],
        )?;
    }
    let names: Vec<String> = REVOKED
        .iter()
        .map(|count| format!("revoked-{count}"))
        .collect();
    add(
        "revocations",
        &|tokens| signer.requests_with(tokens, with_unrevoked_index),
        &names,
    )?;
    Ok(works)
}

/// Returns requests with `count` new tokens, which the signers sign in turn.
fn signed_in_turn(signers: &[Signer], count: usize) -> Result<Requests> {
    let each = count.div_ceil(signers.len());
    let all = signers
        .iter()
        .map(|signer| signer.requests(each))
        .collect::<Result<Vec<_>>>()?;
    let in_turn = (0..each).flat_map(|at| all.iter().filter_map(move |requests| requests.get(at)));
    Ok(Requests::new(in_turn.cloned().collect()))
}

/// Gives the token a random odd index. Revoked indices are even.
fn with_unrevoked_index(token: Token) -> Token {
    let mut own = [0; 8];
    // A failure leaves the same `jti`, which is harmless here.
    let _ = aws_lc_rs::rand::fill(&mut own);
    let index = (u64::from_be_bytes(own) % ISSUED) | 1;
    token.claim("jti", jti_with_index(index, own))
}

/// Adds claims until the token has `count` of them.
fn with_claims(mut token: Token, count: usize) -> Token {
    while token.claims.len() < count {
        let name = format!("claim_{}", token.claims.len());
        token = token.claim(&name, "a value of some length");
    }
    token
}

fn tokens_table(arena: &Arena) -> Result<Table> {
    let head = [
        "claims",
        "new, µs",
        "again, µs",
        "jwt_authn without cache + RBAC, µs",
    ];
    let mut table = Table::new(
        "Claims",
        "EdDSA; added CPU for each request in µs, as in all tables below.",
        head,
    );
    for count in CLAIMS {
        let (new, again) = (
            format!("{count} claims, new"),
            format!("{count} claims, again"),
        );
        table.row([
            count.to_string(),
            short(arena.added(&new, MESHSEAL)?),
            short(arena.added(&again, MESHSEAL)?),
            short(arena.added(&new, ISTIO)?),
        ]);
    }
    Ok(table)
}

fn listeners_table(
    arena: &Arena,
    title: &'static str,
    note: &'static str,
    what: &str,
    counts: &[usize],
) -> Result<Table> {
    let mut table = Table::new(title, note, [what, "new, µs", "again, µs"]);
    for count in counts {
        let added =
            |kind: &str| arena.added(&format!("{count} {what}, {kind}"), &name(what, *count));
        table.row([
            count.to_string(),
            short(added("new")?),
            short(added("again")?),
        ]);
    }
    Ok(table)
}

async fn revocations_table(arena: &Arena, revoking: &[Revoking]) -> Result<Table> {
    let mut table = Table::new(
        "Revocations",
        "So many of 1 000 000 live tokens are revoked. To take over: CPU for receiving and \
         applying the full bundle, for each VM that does; an upper bound, since Envoy's own work \
         is in it.",
        [
            "revoked",
            "new, µs",
            "again, µs",
            "to take over, ms",
            "target",
            "",
        ],
    );
    for one in revoking {
        let added = |kind: &str| arena.added(&format!("revocations, {kind}"), &one.name);
        let cells = [
            one.count.to_string(),
            short(added("new")?),
            short(added("again")?),
        ];
        let applied = one.apply_ms(arena).await?;
        if one.count == 10_000 {
            table.judged(cells, applied, Bound::AtMost(APPLIED_MS));
        } else {
            let [count, new, again] = cells;
            table.row([
                count,
                new,
                again,
                short(applied),
                String::new(),
                String::new(),
            ]);
        }
    }
    Ok(table)
}

impl Revoking {
    fn start(count: u64, signer: &Signer) -> Result<Self> {
        let revoked: IndexSet = scatter::indices(count, ISSUED / 2)?
            .into_iter()
            .map(|index| index * 2)
            .collect();
        let mut issuers = trust(ISSUER, &[signer.key()])?;
        let own = issuers
            .get_mut(ISSUER)
            .and_then(Value::as_object_mut)
            .context("an issuer")?;
        own.insert(
            "revoked".to_owned(),
            base64url::encode(&revoked.encode()).into(),
        );
        Ok(Self {
            count,
            name: format!("revoked-{count}"),
            server: Bundles::start()?,
            issuers,
        })
    }

    fn contender(&self) -> Result<Contender> {
        let rule = json!({"issuer": ISSUER, "audiences": [AUDIENCE], "trustBundle": true});
        let plugin = json!({
            "statPrefix": self.name.replace('-', "_"),
            "trustBundle": self.server.config(&self.name)?,
            "jwtRules": [working(rule)],
            "rules": [{"scopes": ["orders.read"]}],
        });
        Ok(Contender::new(&self.name, vec![meshseal(&plugin)]))
    }

    /// Waits until the VMs of the worker and of the main thread have acknowledged a version.
    async fn wait_until_held(&self, version: u64) -> Result<()> {
        until("the bundle to be held", Duration::from_secs(30), || async {
            let held = self.server.held();
            (held.len() >= 2 && held.values().all(|have| *have == version)).then_some(())
        })
        .await
    }

    /// Returns Envoy's CPU time for accepting a bundle per VM, in milliseconds: the median of nine.
    async fn apply_ms(&self, arena: &Arena) -> Result<f64> {
        let mut spent = Vec::new();
        for _ in 0..9 {
            let before = cpu(arena.envoy.pid())?;
            self.wait_until_held(self.server.publish(self.issuers.clone()))
                .await?;
            spent.push((cpu(arena.envoy.pid())? - before).as_secs_f64() * 1e3 / 2.0);
        }
        Ok(crate::process::median(spent))
    }
}
