//! Reads each section of the issuer's YAML, and rejects combinations that cannot work.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr as _;

use meshseal_core::limits::MAX_REVOKED;
use url::{Host, Url};

use super::reader::{Members, Node};
use super::{
    BundleSettings, Config, KeySettings, LimitSettings, MAX_CLOCK_SKEW_S, MAX_JWKS_AGE_S,
    MAX_LIFETIME_S, MasterKeySource, Service, TokenSettings,
};
use crate::clients::{self, Client, SecretHash};
use crate::keys::{Algorithm, MAX_DRAINING};
use crate::store::Location;

const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
const DEFAULT_DATABASE: &str = "sqlite:meshseal.db";
const DAY_S: u64 = 86_400;

/// First path segments below which the issuer serves documents for any issuer identifier.
const RESERVED: [&str; 2] = [".well-known", "readyz"];

/// Fields of the configuration document.
pub(crate) const FIELDS: [&str; 13] = [
    "issuer",
    "listen",
    "admin",
    "metrics",
    "database",
    "databaseConnectionLifetime",
    "keys",
    "tokens",
    "masterKey",
    "bundle",
    "limits",
    "services",
    "clients",
];

/// Returns the configuration that an empty document means.
pub(super) fn defaults() -> Config {
    let mistakes = std::cell::RefCell::default();
    read(Node::root(&serde_json::Value::Null, &mistakes))
}

/// Reads the document and records mistakes. The result is valid only if none was recorded.
pub(super) fn read(root: Node<'_>) -> Config {
    let document = root.object(&FIELDS);
    // Listeners.
    let listen = listen(&document.get("listen"), DEFAULT_LISTEN);
    let admin_listen = admin_listen(document.get("admin"), &listen);
    let metrics = document.get("metrics").object(&["listen"]).get("listen");
    let metrics_listen = metrics.is_present().then(|| self::listen(&metrics, ""));
    if metrics_listen
        .as_ref()
        .is_some_and(|address| clash(address, &listen) || clash(address, &admin_listen))
    {
        metrics.refuse("must differ from `listen` and `admin.listen`");
    }
    // Services refer to token settings, clients to services, and introspectors to clients.
    let tokens = tokens(document.get("tokens"));
    let services = services(&document.get("services"), &tokens);
    let clients = clients::read(&document.get("clients"), &services);
    refuse_unknown_introspectors(&document.get("services"), &services, &clients);
    Config {
        issuer: issuer(&document.get("issuer"), &listen),
        database: database(&document.get("database")),
        database_connection_life_s: document
            .get("databaseConnectionLifetime")
            .seconds(300, 1, DAY_S),
        keys: keys(document.get("keys"), &tokens),
        master_key: master_key(document.get("masterKey")),
        bundle: bundle(document.get("bundle")),
        limits: limits(document.get("limits")),
        listen,
        admin_listen,
        metrics_listen,
        tokens,
        services,
        clients,
    }
}

/// Reads the address for operators. The default is loopback with the port after that of `listen`:
/// only local callers reach it, and they also need the secret (I33).
fn admin_listen(node: Node<'_>, listen: &str) -> String {
    let at = node.object(&["listen"]).get("listen");
    let port = listen
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .filter(|port: &u16| *port > 0);
    let default = format!(
        "127.0.0.1:{}",
        port.and_then(|port| port.checked_add(1)).unwrap_or(0)
    );
    let address = self::listen(&at, &default);
    if clash(&address, listen) {
        at.refuse("must differ from `listen`: administration has its own port");
    }
    address
}

/// Returns whether two listeners cannot have these addresses at the same time.
fn clash(one: &str, other: &str) -> bool {
    // Malformed addresses are reported by `listen`.
    let (Some((host, port)), Some((other_host, other_port))) =
        (one.rsplit_once(':'), other.rsplit_once(':'))
    else {
        return false;
    };
    let (Ok(port), Ok(other_port)) = (port.parse::<u16>(), other_port.parse::<u16>()) else {
        return false;
    };
    // Port 0 selects a free port, which never clashes.
    if port != other_port || port == 0 {
        return false;
    }
    if host == other_host {
        return true;
    }
    match (ip(host), ip(other_host)) {
        // The unspecified address of IPv6 accepts IPv4 as well.
        (Some(IpAddr::V6(all)), _) | (_, Some(IpAddr::V6(all))) if all.is_unspecified() => true,
        (Some(one), Some(other)) => {
            one == other
                || (one.is_ipv4() == other.is_ipv4()
                    && (one.is_unspecified() || other.is_unspecified()))
        }
        (_, None) | (None, _) => false,
    }
}

/// Parses the host of a listener as an IP address.
fn ip(host: &str) -> Option<IpAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host == "localhost" {
        Some(Ipv4Addr::LOCALHOST.into())
    } else {
        host.parse().ok()
    }
}

/// Reads the address of a listener.
fn listen(node: &Node<'_>, default: &str) -> String {
    let text = node.text().unwrap_or(default);
    let port = text
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .map(|(_, port)| u16::from_str(port));
    if !matches!(port, Some(Ok(_))) {
        node.refuse("must be HOST:PORT, such as 127.0.0.1:8080 or 0.0.0.0:8080");
    }
    text.to_owned()
}

/// Reads the issuer identifier. The default is the address of the listener, if that is loopback.
fn issuer(node: &Node<'_>, listen: &str) -> String {
    let Some(text) = node.text() else {
        // A loopback listener is its own identifier, so that a first try needs no setting.
        let own = format!("http://{listen}");
        if check_issuer(&own).is_err() && !node.is_present() {
            node.refuse(
                "is required unless `listen` is a loopback address; \
                 give the https:// URL that clients use",
            );
        }
        return own;
    };
    if let Err(message) = check_issuer(text) {
        node.refuse(message);
    }
    text.to_owned()
}

/// Checks an issuer identifier (RFC 8414 §2), which is also the base URL of every endpoint.
fn check_issuer(text: &str) -> Result<(), String> {
    let url = Url::parse(text)
        .map_err(|error| format!("must be a URL such as https://issuer.example: {error}"))?;
    let Some(host) = url.host() else {
        return Err("must have a host, such as https://issuer.example".to_owned());
    };
    // Clients append paths to the identifier, so it must not have other parts.
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !bare || text.contains(['?', '#', '@']) {
        return Err("must have no user, query or fragment (RFC 8414 §2)".to_owned());
    }
    // The URL parser drops an empty port, but tokens carry the identifier as written.
    let path = issuer_path(text);
    if text
        .strip_suffix(path)
        .is_some_and(|base| base.ends_with(':'))
    {
        return Err("must have a port number after the colon".to_owned());
    }
    // Every client must form the same URL from the path, so it has one plain spelling.
    if path.ends_with('/')
        || path.contains("//")
        || !path
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte))
        || !url.path().ends_with(path)
    {
        return Err(
            "must have no trailing slash, and a path of plain segments: letters, digits, `-._~`"
                .to_owned(),
        );
    }
    if let Some(first) = RESERVED
        .iter()
        .find(|first| path.split('/').nth(1) == Some(first))
    {
        return Err(format!(
            "must not have a path that begins with /{first}, \
             because the issuer has endpoints of its own there"
        ));
    }
    // Plain HTTP would disclose secrets and tokens, so it never leaves the machine.
    let is_loopback = match host {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback => Ok(()),
        "http" => {
            Err("must be https unless the host is a loopback address (RFC 8414 §2)".to_owned())
        }
        _ => Err("must begin with https://".to_owned()),
    }
}

/// Returns the path of an issuer identifier as written; empty if it has none.
pub(crate) fn issuer_path(issuer: &str) -> &str {
    let authority = issuer.split_once("://").map_or("", |(_, rest)| rest);
    authority
        .find('/')
        .and_then(|at| authority.get(at..))
        .unwrap_or_default()
}

/// Reads the location of the database.
fn database(node: &Node<'_>) -> Location {
    let parsed = Location::parse(node.text().unwrap_or(DEFAULT_DATABASE));
    parsed.unwrap_or_else(|message| {
        node.refuse(message);
        Location::Sqlite(PathBuf::new())
    })
}

/// Reads the section `tokens`.
fn tokens(node: Node<'_>) -> TokenSettings {
    let section = node.object(&["lifetime", "maxLifetime", "clockSkew"]);
    let max_lifetime_s = section.get("maxLifetime").seconds(3_600, 1, MAX_LIFETIME_S);
    let lifetime = section.get("lifetime");
    let lifetime_s = lifetime.seconds(300.min(max_lifetime_s), 1, DAY_S);
    refuse_longer(&lifetime, lifetime_s, max_lifetime_s);
    // Reported once here, not again for each service with the default.
    let lifetime_s = lifetime_s.min(max_lifetime_s);
    TokenSettings {
        lifetime_s,
        max_lifetime_s,
        clock_skew_s: section.get("clockSkew").seconds(30, 0, MAX_CLOCK_SKEW_S),
    }
}

/// Rejects a lifetime longer than the time for which keys and revocations are kept (I4).
fn refuse_longer(node: &Node<'_>, lifetime_s: u64, max_lifetime_s: u64) {
    if lifetime_s > max_lifetime_s {
        node.refuse(format!(
            "is {lifetime_s}s, longer than tokens.maxLifetime ({max_lifetime_s}s); \
             shorten it or raise that"
        ));
    }
}

/// Reads the section `keys`.
fn keys(node: Node<'_>, tokens: &TokenSettings) -> KeySettings {
    let section = node.object(&["algorithm", "rotateEvery", "ackTimeout", "jwksMaxAge"]);
    let name = section.get("algorithm");
    let algorithm = name
        .text()
        .map_or(Some(Algorithm::EdDsa), Algorithm::parse)
        .unwrap_or_else(|| {
            name.refuse("must be EdDSA, ES256 or RS256");
            Algorithm::EdDsa
        });
    let ack_timeout_s = section.get("ackTimeout").seconds(60, 1, 3_600);
    let jwks_max_age_s = section.get("jwksMaxAge").seconds(360, 0, MAX_JWKS_AGE_S);
    let rotate_every_s = rotate_every(&section.get("rotateEvery"), tokens);
    KeySettings {
        algorithm,
        rotate_every_s,
        ack_timeout_s,
        jwks_max_age_s,
    }
}

/// Reads the rotation interval.
fn rotate_every(node: &Node<'_>, tokens: &TokenSettings) -> Option<u64> {
    // Without a schedule, keys rotate only on request.
    if node.raw().and_then(serde_json::Value::as_str) == Some("never") {
        return None;
    }
    let every_s = node.seconds(DAY_S, 1, 365 * DAY_S);
    // Old keys drain for the longest token life. Half of the limit is left for other rotations.
    let least_s = tokens.longest_life_s().div_ceil(MAX_DRAINING as u64 / 2);
    if every_s < least_s {
        node.refuse(format!(
            "is {every_s}s, so that more than {MAX_DRAINING} old keys would have to be \
             published at a time; use at least {least_s}s or lower tokens.maxLifetime"
        ));
    }
    Some(every_s)
}

/// Reads the section `masterKey`.
fn master_key(node: Node<'_>) -> MasterKeySource {
    if !node.is_present() {
        return MasterKeySource::Default;
    }
    let section = node.object(&["file"]);
    section
        .get("file")
        .required_text()
        .map_or(MasterKeySource::Default, |path| {
            MasterKeySource::File(path.into())
        })
}

/// Reads the section `bundle`.
fn bundle(node: Node<'_>) -> BundleSettings {
    let section = node.object(&["notAfter", "pollTokens"]);
    let mut poll_tokens = Vec::new();
    for item in section.get("pollTokens").items() {
        match item.text().map(SecretHash::of_configured) {
            Some(Ok(hash)) => poll_tokens.push(hash),
            Some(Err(message)) => item.refuse(message),
            None => {}
        }
    }
    BundleSettings {
        not_after_s: section.get("notAfter").seconds(3_600, 60, 7 * DAY_S),
        poll_tokens,
    }
}

/// Reads the section `limits`.
fn limits(node: Node<'_>) -> LimitSettings {
    let section = node.object(&[
        "requestsPerSecond",
        "failuresPerSecond",
        "connections",
        "connectionsPerAddress",
        "revokedTokensPerClient",
    ]);
    let count = |name: &str, default: u64, least: u64| {
        usize::try_from(section.get(name).number(default, least, 1_000_000)).unwrap_or(usize::MAX)
    };
    LimitSettings {
        requests_per_second: rate(&section.get("requestsPerSecond"), 20_000),
        failures_per_second: rate(&section.get("failuresPerSecond"), 20),
        connections: count("connections", 20_000, 16),
        connections_per_address: count("connectionsPerAddress", 1_000, 0),
        revoked_tokens_per_client: section.get("revokedTokensPerClient").number(
            10_000,
            1,
            MAX_REVOKED as u64,
        ),
    }
}

/// Reads a number of events per second.
fn rate(node: &Node<'_>, default: u64) -> u32 {
    u32::try_from(node.number(default, 1, 10_000_000)).unwrap_or(u32::MAX)
}

/// Reads the section `services`.
fn services(node: &Node<'_>, tokens: &TokenSettings) -> Vec<Service> {
    let mut seen = BTreeSet::new();
    let mut services = Vec::new();
    for item in node.items() {
        let members = item.object(&["audience", "scopes", "lifetime", "introspectors"]);
        let at = members.get("audience");
        let Some(audience) = at.required_text() else {
            continue;
        };
        if let Err(message) = check_name(audience) {
            at.refuse(message);
        }
        if !seen.insert(audience) {
            at.refuse(format!(
                "`{audience}` is described twice; merge the two services"
            ));
        }
        services.push(service(&members, audience, tokens));
    }
    services
}

/// Reads one service.
fn service(members: &Members<'_>, audience: &str, tokens: &TokenSettings) -> Service {
    let lifetime = members.get("lifetime");
    let lifetime_s = lifetime.seconds(tokens.lifetime_s, 1, DAY_S);
    refuse_longer(&lifetime, lifetime_s, tokens.max_lifetime_s);
    let scopes = members.get("scopes").texts(check_scope);
    let introspectors = members.get("introspectors").texts(check_name);
    Service {
        audience: audience.to_owned(),
        scopes,
        lifetime_s,
        introspectors,
    }
}

/// Rejects introspectors that are not clients.
fn refuse_unknown_introspectors(node: &Node<'_>, services: &[Service], clients: &[Client]) {
    for service in services {
        for name in service
            .introspectors
            .iter()
            .filter(|name| clients.iter().all(|client| client.id != **name))
        {
            node.refuse(format!(
                "service `{}` names introspector `{name}`, which is not a clientId",
                service.audience
            ));
        }
    }
}

/// Checks a name. Names occur in tokens, headers and logs, so they are printable ASCII without
/// spaces, quotes or backslashes, at most 256 bytes long.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if plain && name.len() <= 256 {
        return Ok(());
    }
    Err(
        "must be at most 256 printable ASCII characters without spaces, quotes and backslashes"
            .to_owned(),
    )
}

/// Checks a scope token (RFC 6749 §3.3).
pub(crate) fn check_scope(scope: &str) -> Result<(), String> {
    check_name(scope).map_err(|_| {
        "must be a scope: printable ASCII without spaces, quotes and backslashes \
         (RFC 6749 §3.3)"
            .to_owned()
    })
}
