//! `meshseal token verify`: the filter's decision on the command line.

use std::hash::RandomState;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use meshseal_core::authn::{self, JwtRule, Trust, Verified, signature_only, validate};
use meshseal_core::decide::{self, Decision, Incoming, Surroundings, TokenCache};
use meshseal_core::json::{Budget, Document};
use meshseal_core::keys::{KeySet, Portable, SignatureVerifier};
use meshseal_core::policy::Policy;
use meshseal_core::rejection::Rejection;
use serde_json::{Map, Value, json};

use super::tokens_in::next_token;
use super::{Failure, Outcome, documents, key_file, print};
use crate::clock::{Clock as _, SystemClock};

/// Verify tokens exactly as the proxy does.
///
/// Reads tokens from standard input, one per line, and prints one JSON object for each:
/// {"verdict":"accept","claims":{…}} or {"verdict":"reject","code":"…"}. Exit status: 0 if all
/// tokens are accepted, 1 if any is rejected, 2 for wrong usage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  # A token for a request, with a trust bundle:
  meshseal token verify --config plugin.yaml --bundle bundle.jws --method GET --path /orders/7 \\
    < tokens.txt
  # Keys from a file in place of pushed or fetched keys:
  meshseal token verify --config plugin.yaml --jwks jwks.json < tokens.txt
  # No configuration:
  meshseal token verify --jwks jwks.json --issuer https://issuer.example --audience orders \\
    < tokens.txt
  # Form, header, key and signature, but no claims:
  meshseal token verify --signature-only --jwks jwks.json < tokens.txt

All keys come from files; nothing is fetched.")]
pub(super) struct Verify {
    /// Configuration of the plugin (JSON or YAML), also inside a WasmPlugin, TrafficExtension or
    /// Envoy bootstrap.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "signature_only",
        required_unless_present_any = ["jwks"]
    )]
    config: Option<PathBuf>,
    /// Key set to use instead of pushed and fetched keys, or with --issuer and --audience. Unusable
    /// keys are skipped.
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// Accepted issuer. With --config: the issuer whose keys --jwks replaces.
    #[arg(long, value_name = "ISS", conflicts_with = "signature_only")]
    issuer: Option<String>,
    /// Accepted audience; may be repeated. With --config: replaces the audiences of the rules that
    /// get their keys from --jwks.
    #[arg(long, value_name = "AUD", conflicts_with = "signature_only")]
    audience: Vec<String>,
    /// Accepted token type (at+jwt, JWT); may be repeated. Default: at+jwt.
    #[arg(long, value_name = "TYP", conflicts_with_all = ["config", "signature_only"])]
    token_type: Vec<String>,
    /// Accepted algorithm; may be repeated. Default: all asymmetric algorithms.
    #[arg(long, value_name = "ALG", conflicts_with_all = ["config", "signature_only"])]
    algorithm: Vec<String>,
    /// Trust bundle (compact JWS), as served by GET /bundle.
    #[arg(long, value_name = "FILE", requires = "config")]
    bundle: Option<PathBuf>,
    /// Time of the decision (Unix seconds); default: now.
    #[arg(long, value_name = "UNIX")]
    at: Option<u64>,
    /// Method of the request; applies the route rules, too.
    #[arg(long, requires = "path", conflicts_with = "signature_only")]
    method: Option<String>,
    /// Path of the request, with query; applies the route rules, too.
    #[arg(long, requires = "method")]
    path: Option<String>,
    /// Host of the request.
    #[arg(long, default_value = "", requires = "path")]
    host: String,
    /// Check only form, header, key and signature. The payload may be anything, and symmetric keys
    /// are allowed.
    #[arg(long, requires = "jwks")]
    signature_only: bool,
}

/// The keys and rules that decide about each token.
enum Judge {
    /// Keys for `--signature-only`.
    Signature(KeySet),
    /// Configuration and keys of the filter.
    Proxy {
        policy: Box<Policy>,
        trust: Box<Trust>,
    },
}

impl Verify {
    pub(super) fn run(self) -> Outcome {
        let now = self.at.unwrap_or_else(|| SystemClock::new().now());
        let judge = self.judge(now)?;
        let mut input = std::io::stdin().lock();
        let mut all_accepted = true;
        // One output line for each input line, in order.
        while let Some(token) = next_token(&mut input).map_err(Failure::usage)? {
            let verdict = token.and_then(|token| self.decide(&judge, &token, now));
            all_accepted &= verdict.is_ok();
            print(&verdict.unwrap_or_else(|rejection| {
                json!({ "verdict": "reject", "code": rejection.code() }).to_string()
            }));
        }
        Ok(if all_accepted {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(1)
        })
    }

    /// Returns the output line for an accepted token.
    fn decide(&self, judge: &Judge, token: &str, now: u64) -> Result<String, Rejection> {
        match judge {
            Judge::Signature(keys) => {
                signature_only(token, keys).map(|()| json!({ "verdict": "accept" }).to_string())
            }
            Judge::Proxy { policy, trust } => {
                let verified = self.judge_request(policy, trust, token, now)?;
                let claims = Document::lent(verified.claims().payload(), Budget::TOKEN);
                let claims =
                    claims.map_or_else(|_| "null".to_owned(), |claims| claims.root().to_string());
                Ok(format!(r#"{{"verdict":"accept","claims":{claims}}}"#))
            }
        }
    }

    /// Validates the token, and applies the route rules if a request is given.
    fn judge_request(
        &self,
        policy: &Policy,
        trust: &Trust,
        token: &str,
        now: u64,
    ) -> Result<Verified, Rejection> {
        // Run the filter's own decision on a request that carries the token.
        if let (Some(method), Some(path)) = (&self.method, &self.path) {
            let headers = request_with(policy, token, method, &self.host, path);
            let incoming = Incoming::new(headers);
            let cache: Option<&mut TokenCache<RandomState>> = None;
            let at = At(Duration::from_secs(now));
            match decide::decide(&incoming, policy, trust, cache, &at) {
                Decision::Pass(_) => {}
                Decision::Refuse(refusal) => return Err(refusal.rejection),
                // The keys come from files, so no newer key can arrive.
                Decision::Need(question) => return Err(question.rejection),
            }
        }
        validate(token, policy.authn(), trust, now)
    }

    /// Reads keys and configuration from the files of the options.
    fn judge(&self, now: u64) -> Result<Judge, Failure> {
        let jwks = self.jwks.as_ref().map(documents::read_text).transpose()?;
        if self.signature_only {
            return Ok(Judge::Signature(key_file::any_keys(
                &jwks.unwrap_or_default(),
            )?));
        }
        // Choose the configuration, and the rules whose keys come from --jwks.
        let (configuration, given) = match (&self.config, &jwks) {
            (Some(path), None) => (documents::plugin_configuration(path)?, Vec::new()),
            (Some(path), Some(_)) => {
                self.with_given_keys(documents::plugin_configuration(path)?)?
            }
            (None, Some(jwks)) => self.own_configuration(jwks)?,
            (None, None) => return Err(Failure::usage("--config or --jwks is needed")),
        };
        let policy = meshseal_core::config::read_policy(&configuration.to_string())
            .map_err(Failure::usage)?;
        // Load the trust bundle, then the keys of --jwks.
        let mut trust = self.trust(&policy, now)?;
        for rule in given {
            key_file::give(
                &mut trust,
                &policy,
                rule,
                jwks.as_deref().unwrap_or_default(),
            )?;
        }
        Ok(Judge::Proxy {
            policy: Box::new(policy),
            trust: Box::new(trust),
        })
    }

    /// Creates a configuration from --issuer and --audience. Its rule fetches keys, so that
    /// unusable keys are skipped. With an HMAC algorithm the keys are inline, the only place that
    /// allows shared secrets.
    fn own_configuration(&self, jwks: &str) -> Result<(Value, Vec<usize>), Failure> {
        let (Some(issuer), false) = (&self.issuer, self.audience.is_empty()) else {
            return Err(Failure::usage(
                "without --config, all of --jwks, --issuer and --audience are needed",
            ));
        };
        let mut rule = Map::new();
        rule.insert("issuer".into(), issuer.clone().into());
        let lists = [
            ("audiences", &self.audience),
            ("tokenTypes", &self.token_type),
            ("algorithms", &self.algorithm),
        ];
        for (name, values) in lists.into_iter().filter(|(_, values)| !values.is_empty()) {
            rule.insert(name.into(), values.clone().into());
        }
        if self.algorithm.iter().any(|name| name.starts_with("HS")) {
            rule.insert("jwks".into(), jwks.into());
            return Ok((json!({ "jwtRules": [rule] }), Vec::new()));
        }
        key_file::as_if_fetched(&mut rule);
        Ok((json!({ "jwtRules": [rule] }), vec![0]))
    }

    /// Changes rules with pushed or fetched keys so that they can take the keys of --jwks. With
    /// --issuer, changes all rules of that issuer instead. Returns the configuration and the
    /// indices of the changed rules.
    fn with_given_keys(&self, mut configuration: Value) -> Result<(Value, Vec<usize>), Failure> {
        // Validate the original first: the change must not hide a mistake in it.
        meshseal_core::config::read_policy(&configuration.to_string()).map_err(Failure::usage)?;
        let mut given = Vec::new();
        let rules = configuration
            .get_mut("jwtRules")
            .and_then(Value::as_array_mut);
        for (at, rule) in rules.into_iter().flatten().enumerate() {
            let Some(rule) = rule.as_object_mut() else {
                continue;
            };
            // Select the rule by --issuer, or else by the origin of its keys.
            let named = self
                .issuer
                .as_ref()
                .map(|issuer| rule.get("issuer").and_then(Value::as_str) == Some(issuer));
            if named.unwrap_or_else(|| !rule.contains_key("jwks")) {
                key_file::as_if_fetched(rule);
                if !self.audience.is_empty() {
                    rule.insert("audiences".into(), self.audience.clone().into());
                }
                given.push(at);
            }
        }
        // A bundle that no rule uses any more would be a mistake.
        key_file::drop_unused_bundle(&mut configuration);
        let message =
            "--jwks replaces pushed or fetched keys, but no rule (of --issuer) has such keys";
        if given.is_empty() {
            Err(Failure::usage(message))
        } else {
            Ok((configuration, given))
        }
    }

    /// Loads the trust bundle of --bundle, or the one embedded in the configuration.
    fn trust(&self, policy: &Policy, now: u64) -> Result<Trust, Failure> {
        let mut trust = Trust::new();
        let Some(configured) = policy.authn().trust_bundle() else {
            return Ok(trust);
        };
        let given = self.bundle.as_ref().map(documents::read_text).transpose()?;
        if let Some(bundle) = given.as_deref().or(configured.embedded.as_deref()) {
            trust
                .accept_bundle(bundle.trim(), &configured.pins, now)
                .map_err(|error| {
                    Failure::usage(format!("the trust bundle was rejected: {error}"))
                })?;
        }
        Ok(trust)
    }
}

/// Surroundings without a proxy: a fixed time and portable cryptography.
struct At(Duration);

impl Surroundings for At {
    fn wall(&self) -> Duration {
        self.0
    }

    fn steady_at(&self, wall: Duration) -> Duration {
        wall
    }

    fn steady(&self) -> Duration {
        self.0
    }

    fn verifier(&self) -> &dyn SignatureVerifier {
        &Portable
    }
}

/// Returns the headers of a request that carries the token where its issuer's rule expects it.
fn request_with(
    policy: &Policy,
    token: &str,
    method: &str,
    host: &str,
    path: &str,
) -> Vec<(String, String)> {
    // Find the rule by the unverified `iss`; validation checks it later.
    let issuer = authn::hints(token).and_then(|hints| hints.issuer);
    let rule = issuer.and_then(|issuer| {
        let mut rules = policy.authn().jwt_rules_for(&issuer);
        rules.next().map(|(_, rule)| rule)
    });
    // Put the token into the first location that the rule names.
    let mut path = path.to_owned();
    let carrier = match rule {
        None => Some(("authorization".to_owned(), format!("Bearer {token}"))),
        Some(JwtRule { from_headers, .. }) if !from_headers.is_empty() => from_headers
            .first()
            .map(|from| (from.name.to_string(), format!("{}{token}", from.prefix))),
        Some(JwtRule { from_cookies, .. }) if !from_cookies.is_empty() => from_cookies
            .first()
            .map(|name| ("cookie".to_owned(), format!("{name}={token}"))),
        Some(rule) => {
            if let Some(name) = rule.from_params.first() {
                let separator = if path.contains('?') { '&' } else { '?' };
                path.push_str(&format!("{separator}{name}={token}"));
            }
            None
        }
    };
    let mut headers = vec![
        (":method".to_owned(), method.to_owned()),
        (":authority".to_owned(), host.to_owned()),
        (":path".to_owned(), path),
    ];
    headers.extend(carrier);
    headers
}
