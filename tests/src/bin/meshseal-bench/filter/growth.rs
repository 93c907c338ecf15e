//! How the cost of the filter grows: with claims, rules, keys and revocations. Measured through the
//! whole filter in Envoy, each configuration a listener.

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
/// Tokens that are alive while so many of them are revoked.
const ISSUED: u64 = 1_000_000;
/// The most that taking over a bundle with 10 000 revocations may take, in milliseconds.
const APPLIED_MS: f64 = 10.0;

/// A worker's trust in an issuer that has revoked so many tokens.
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
        let other = |at| json!({"to": [{"operation": {"methods": ["GET"], "paths": [format!("/other/{at}/*")]}}], "scopes": ["orders.read"]});
        let mut rules: Vec<Value> = (1..count).map(other).collect();
        rules.push(
            json!({"to": [{"operation": {"methods": ["GET"], "paths": ["/orders/*"]}}], "scopes": ["orders.read"]}),
        );
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

/// Of a listener.
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
        let make = |tokens| signer.requests_with(tokens, |token| with_claims(token, count));
        add(
            &format!("{count} claims"),
            &make,
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
        let make = |tokens: usize| -> Result<Requests> {
            let each = tokens.div_ceil(signers.len());
            let all = signers
                .iter()
                .map(|signer| signer.requests(each))
                .collect::<Result<Vec<_>>>()?;
            let in_turn =
                (0..each).flat_map(|at| all.iter().filter_map(move |requests| requests.get(at)));
            Ok(Requests::new(in_turn.cloned().collect()))
        };
        add(
            &format!("{} keys", signers.len()),
            &make,
            &[name("keys", signers.len())],
        )?;
    }
    let alive = |token: Token| {
        let mut own = [0; 8];
        // A jti that is used twice is no fault here.
        let _ = aws_lc_rs::rand::fill(&mut own);
        // Revoked indices are even.
        let index = (u64::from_be_bytes(own) % ISSUED) | 1;
        token.claim("jti", jti_with_index(index, own))
    };
    let names: Vec<String> = REVOKED
        .iter()
        .map(|count| format!("revoked-{count}"))
        .collect();
    add(
        "revocations",
        &|tokens| signer.requests_with(tokens, alive),
        &names,
    )?;
    Ok(works)
}

/// So many claims in all.
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
        "So many of 1 000 000 live tokens are revoked. To take over: CPU for receiving and applying the full bundle, for each VM that does; an upper bound, since Envoy's own work is in it.",
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

    /// The worker's VM and the main thread's.
    async fn wait_until_held(&self, version: u64) -> Result<()> {
        let all_have = || {
            let held = self.server.held();
            held.len() >= 2 && held.values().all(|have| *have == version)
        };
        until("the bundle to be held", Duration::from_secs(30), || async {
            all_have().then_some(())
        })
        .await
    }

    /// CPU of Envoy for taking over a bundle, for each VM: the median of some.
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
