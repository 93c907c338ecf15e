//! HTTP client for the verbs that talk to a running issuer.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use zeroize::Zeroizing;

use super::Failure;
use super::assertion::Assertions;

/// Largest accepted answer in bytes.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// Options that select an issuer and a client.
#[derive(Debug, clap::Args)]
pub(super) struct Remote {
    /// URL of the issuer.
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

/// Options that select an issuer's administration listener and a client.
#[derive(Debug, clap::Args)]
pub(super) struct AdminRemote {
    /// URL of the issuer's administration listener (`admin.listen`).
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

/// Options that identify and authenticate the client.
#[derive(Debug, clap::Args)]
struct Caller {
    /// Client that makes the request; administration and most revocations need one with
    /// `admin: true`.
    #[arg(long, value_name = "ID", env = "MESHSEAL_CLIENT_ID")]
    client_id: String,
    /// File with the client's secret; default: the variable MESHSEAL_CLIENT_SECRET.
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// File with the client's private key (PEM, PKCS#8: Ed25519, P-256 or RSA), to authenticate
    /// with private_key_jwt instead of a secret.
    #[arg(
        long,
        value_name = "FILE",
        env = "MESHSEAL_CLIENT_KEY_FILE",
        conflicts_with = "client_secret_file",
        requires = "issuer"
    )]
    client_key_file: Option<PathBuf>,
    /// `kid` of that key in `auth.jwks`, if it has one.
    #[arg(
        long,
        value_name = "KID",
        requires = "client_key_file",
        allow_hyphen_values = true
    )]
    client_key_id: Option<String>,
    /// Issuer identifier (`issuer` of its configuration): the audience of assertions.
    #[arg(long, value_name = "ISS", env = "MESHSEAL_ISSUER")]
    issuer: Option<String>,
    /// File with the CA certificate of the issuer (PEM); default: the system's CA certificates.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A configured HTTP client for one issuer.
pub(super) struct Connection {
    agent: Agent,
    url: String,
    /// Name of the option that sets the URL, for error messages.
    option: &'static str,
    proof: Proof,
}

/// Authentication of requests.
enum Proof {
    /// Value of the Authorization header.
    Basic(Zeroizing<String>),
    /// Key for a new assertion in the form of each request.
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
        // A later call has no effect, and one process runs one verb.
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let tls = TlsConfig::builder().root_certs(self.roots()?).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // A redirect could send credentials to another server.
            .max_redirects(0)
            // `--wait` takes up to 60 seconds.
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
        // RFC 6749 §2.3.1: both parts are form-encoded before they are joined.
        let joined = Zeroizing::new(format!(
            "{}:{}",
            form_encoded(&self.client_id),
            form_encoded(secret.trim())
        ));
        let basic = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            joined.as_bytes(),
        );
        Ok(Proof::Basic(Zeroizing::new(format!("Basic {basic}"))))
    }

    fn secret(&self) -> Result<Zeroizing<String>, Failure> {
        if let Some(path) = &self.client_secret_file {
            return std::fs::read_to_string(path)
                .map(Zeroizing::new)
                .map_err(|error| {
                    Failure::usage(format!("--client-secret-file {}: {error}", path.display()))
                });
        }
        std::env::var("MESHSEAL_CLIENT_SECRET")
            .map(Zeroizing::new)
            .map_err(|_| {
                Failure::usage(
                    "the client's credential is missing: set MESHSEAL_CLIENT_SECRET, or give \
                     --client-secret-file or --client-key-file",
                )
            })
    }

    /// Returns the trusted CA certificates: those of `--ca`, or the system's.
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
        // Without a certificate, every connection would fail with a less clear error.
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
            // An assertion belongs in a form, and a GET has no body.
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

    /// Decodes an answer, or turns it into an error with the issuer's description.
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
        let unexpected = || {
            Failure::new(format!(
                "{} answered {status} with unexpected content; is it a Meshseal issuer?",
                self.url
            ))
        };
        let value: Value = serde_json::from_str(&text).map_err(|_| unexpected())?;
        if !status.is_success() {
            // OAuth endpoints send `error` and `error_description`, the others a problem document.
            let member = |name: &str| value.get(name).and_then(Value::as_str);
            let reason = member("error_description")
                .or_else(|| member("detail"))
                .unwrap_or("no reason given");
            return Err(Failure::new(format!(
                "the issuer answered {status} {}: {reason}",
                member("error").unwrap_or_default()
            )));
        }
        serde_json::from_value(value).map_err(|_| unexpected())
    }
}

fn form_encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
