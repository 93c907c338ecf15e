//! A running issuer, as the operator's verbs talk to it.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use zeroize::Zeroizing;

use super::Failure;
use super::assertion::Assertions;

/// Longest answer in bytes.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// Which issuer, and who asks.
#[derive(Debug, clap::Args)]
pub(super) struct Remote {
    /// The issuer's URL.
    #[arg(
        long,
        value_name = "URL",
        env = "MESHSEAL_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    #[command(flatten)]
    caller: Caller,
}

/// Which issuer is administered, and by whom.
#[derive(Debug, clap::Args)]
pub(super) struct AdminRemote {
    /// Where the issuer serves operators (`admin.listen`).
    #[arg(
        long,
        value_name = "URL",
        env = "MESHSEAL_ADMIN_URL",
        default_value = "http://127.0.0.1:8081"
    )]
    admin_url: String,
    #[command(flatten)]
    caller: Caller,
}

/// Who asks.
#[derive(Debug, clap::Args)]
struct Caller {
    /// The client that asks; for keys and revocation one with `admin: true`.
    #[arg(long, value_name = "ID", env = "MESHSEAL_CLIENT_ID")]
    client_id: String,
    /// A file with the client's secret; else the variable MESHSEAL_CLIENT_SECRET.
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// A file with the client's private key (PEM, PKCS#8: Ed25519, P-256 or RSA), instead of a
    /// secret (private_key_jwt).
    #[arg(
        long,
        value_name = "FILE",
        env = "MESHSEAL_CLIENT_KEY_FILE",
        conflicts_with = "client_secret_file",
        requires = "issuer"
    )]
    client_key_file: Option<PathBuf>,
    /// The `kid` of that key in `auth.jwks`, if it has one.
    #[arg(
        long,
        value_name = "KID",
        requires = "client_key_file",
        allow_hyphen_values = true
    )]
    client_key_id: Option<String>,
    /// The issuer identifier (`issuer` of its configuration), for which assertions are made.
    #[arg(long, value_name = "ISS", env = "MESHSEAL_ISSUER")]
    issuer: Option<String>,
    /// A file with the authority that the issuer's certificate is from (PEM); else the system's
    /// authorities.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A connection's worth of settings.
pub(super) struct Connection {
    agent: Agent,
    url: String,
    /// How the URL is given.
    option: &'static str,
    proof: Proof,
}

/// How requests are authenticated.
enum Proof {
    /// The Authorization header.
    Basic(Zeroizing<String>),
    /// A new assertion for each request, in its form.
    Assertions(Box<Assertions>),
}

impl Remote {
    pub(super) fn connect(&self) -> Result<Connection, Failure> {
        self.caller.connect(&self.url, "--url")
    }
}

impl AdminRemote {
    pub(super) fn connect(&self) -> Result<Connection, Failure> {
        self.caller.connect(&self.admin_url, "--admin-url")
    }
}

impl Caller {
    fn connect(&self, url: &str, option: &'static str) -> Result<Connection, Failure> {
        let proof = self.proof()?;
        // Only the first call matters, and every verb makes one.
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let tls = TlsConfig::builder().root_certs(self.roots()?).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(90)))
            .build();
        let url = url.trim_end_matches('/').to_owned();
        Ok(Connection {
            agent: agent.into(),
            url,
            option,
            proof,
        })
    }

    fn proof(&self) -> Result<Proof, Failure> {
        if let (Some(path), Some(issuer)) = (&self.client_key_file, &self.issuer) {
            let assertions =
                Assertions::read(path, &self.client_id, self.client_key_id.as_deref(), issuer)?;
            return Ok(Proof::Assertions(Box::new(assertions)));
        }
        let secret = self.secret()?;
        let encode =
            |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let joined = Zeroizing::new(format!(
            "{}:{}",
            encode(&self.client_id),
            encode(secret.trim())
        ));
        let basic = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            joined.as_bytes(),
        );
        Ok(Proof::Basic(Zeroizing::new(format!("Basic {basic}"))))
    }

    fn secret(&self) -> Result<Zeroizing<String>, Failure> {
        if let Some(path) = &self.client_secret_file {
            let unreadable =
                |error| Failure::usage(format!("--client-secret-file {}: {error}", path.display()));
            return std::fs::read_to_string(path)
                .map(Zeroizing::new)
                .map_err(unreadable);
        }
        let missing = |_| {
            Failure::usage(
                "the client's credential is missing: set MESHSEAL_CLIENT_SECRET, or give --client-secret-file or --client-key-file",
            )
        };
        std::env::var("MESHSEAL_CLIENT_SECRET")
            .map(Zeroizing::new)
            .map_err(missing)
    }

    fn roots(&self) -> Result<RootCerts, Failure> {
        let Some(path) = &self.ca else {
            return Ok(RootCerts::PlatformVerifier);
        };
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::usage(format!("--ca {}: {error}", path.display()))
        };
        let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
        let items: Result<Vec<PemItem<'static>>, _> = parse_pem(&pem).collect();
        let certificates: Vec<_> = items
            .map_err(|error| wrong(&error))?
            .into_iter()
            .filter_map(|item| {
                if let PemItem::Certificate(certificate) = item {
                    Some(certificate)
                } else {
                    None
                }
            })
            .collect();
        if certificates.is_empty() {
            Err(wrong(&"holds no certificate"))
        } else {
            Ok(RootCerts::new_with_certs(&certificates))
        }
    }
}

impl Connection {
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let url = format!("{}{path}", self.url);
        match &self.proof {
            Proof::Basic(authorization) => self.read(
                self.agent
                    .get(url)
                    .header("authorization", authorization.as_str())
                    .call(),
            ),
            // A GET has no body, where an assertion belongs.
            Proof::Assertions(_) => self.post(path, &[]),
        }
    }

    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        form: &[(&str, &str)],
    ) -> Result<T, Failure> {
        let request = self.agent.post(format!("{}{path}", self.url));
        match &self.proof {
            Proof::Basic(authorization) => self.read(
                request
                    .header("authorization", authorization.as_str())
                    .send_form(form.iter().copied()),
            ),
            Proof::Assertions(assertions) => {
                let assertion = assertions.parameters()?;
                let assertion = assertion
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()));
                self.read(request.send_form(form.iter().copied().chain(assertion)))
            }
        }
    }

    fn read<T: DeserializeOwned>(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, Failure> {
        let mut answer = answer.map_err(|error| {
            Failure::new(format!(
                "{}: {error}; is the issuer running there ({})?",
                self.url, self.option
            ))
        })?;
        let status = answer.status();
        let text = answer
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER_BYTES)
            .read_to_string()
            .map_err(Failure::new)?;
        let strange = || {
            Failure::new(format!(
                "{} answered {status} with something else than JSON; is it an issuer?",
                self.url
            ))
        };
        let value: Value = serde_json::from_str(&text).map_err(|_| strange())?;
        if !status.is_success() {
            let word = |name: &str| value.get(name).and_then(Value::as_str);
            let reason = word("error_description")
                .or_else(|| word("detail"))
                .unwrap_or("no reason given");
            return Err(Failure::new(format!(
                "the issuer answered {status} {}: {reason}",
                word("error").unwrap_or_default()
            )));
        }
        serde_json::from_value(value).map_err(|_| strange())
    }
}
