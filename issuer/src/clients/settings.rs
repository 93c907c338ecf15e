//! Reader of the `clients` section of the configuration.

use std::collections::BTreeSet;

use meshseal_core::jose::Alg;
use meshseal_core::keys::KeySet;

use super::{Access, Client, ClientAuth, SecretHash};
use crate::config::{Members, Node, Service, check_name, check_scope};

/// Largest number of secrets of one client: the present secret and its replacement.
const MAX_SECRETS: usize = 2;

/// Reads all clients. Mistakes are recorded with their location in the document.
pub(crate) fn read(node: &Node<'_>, services: &[Service]) -> Vec<Client> {
    let mut seen = BTreeSet::new();
    let mut clients = Vec::new();
    for item in node.items() {
        let members = item.object(&["clientId", "auth", "audiences", "scopes", "access", "admin"]);
        let at = members.get("clientId");
        let Some(id) = at.required_text() else {
            continue;
        };
        if let Err(message) = check_name(id) {
            at.refuse(message);
        }
        if !seen.insert(id) {
            at.refuse(format!(
                "`{id}` is described twice; give each client its own id"
            ));
        }
        // All members are read even if one is wrong, so that every mistake is reported.
        let access = access(&members, services);
        let auth = auth(&members.get("auth"));
        let admin = members.get("admin").flag();
        clients.extend(auth.map(|auth| Client {
            id: id.to_owned(),
            auth,
            access,
            admin,
        }));
    }
    clients
}

/// Reads `access`, or the short form `audiences` and `scopes`, which requires that no two of the
/// services define the same scope.
fn access(members: &Members<'_>, services: &[Service]) -> Vec<Access> {
    let (listed, audiences, scopes) = (
        members.get("access"),
        members.get("audiences"),
        members.get("scopes"),
    );
    // The short form: each scope belongs to the one service that defines it.
    if !listed.is_present() {
        let named = audiences.texts(|audience| known_audience(services, audience));
        let granted = scopes.texts(|scope| known_scope(services, &named, scope));
        return named
            .iter()
            .map(|audience| {
                let service = services
                    .iter()
                    .find(|service| service.audience == *audience);
                Access {
                    audience: audience.clone(),
                    scopes: granted
                        .iter()
                        .filter(|scope| service.is_some_and(|found| found.scopes.contains(scope)))
                        .cloned()
                        .collect(),
                }
            })
            .collect();
    }
    // The long form.
    if audiences.is_present() || scopes.is_present() {
        listed.refuse("replaces `audiences` and `scopes`; remove those");
    }
    let mut seen = BTreeSet::new();
    let mut access = Vec::new();
    for item in listed.items() {
        let members = item.object(&["audience", "scopes"]);
        let at = members.get("audience");
        let Some(audience) = at.required_text() else {
            continue;
        };
        if let Err(message) = known_audience(services, audience) {
            at.refuse(message);
        }
        if !seen.insert(audience) {
            at.refuse(format!("`{audience}` is listed twice; merge the two"));
        }
        let here = [audience.to_owned()];
        let scopes = members
            .get("scopes")
            .texts(|scope| known_scope(services, &here, scope));
        access.push(Access {
            audience: audience.to_owned(),
            scopes,
        });
    }
    access
}

/// Checks that a service has this audience.
fn known_audience(services: &[Service], audience: &str) -> Result<(), String> {
    if services.iter().any(|service| service.audience == audience) {
        return Ok(());
    }
    Err(format!(
        "no service has the audience `{audience}`; add it under `services` or correct the name"
    ))
}

/// Checks that exactly one of these services defines a scope.
fn known_scope(services: &[Service], audiences: &[String], scope: &str) -> Result<(), String> {
    check_scope(scope)?;
    let reachable = services
        .iter()
        .filter(|service| audiences.contains(&service.audience));
    let mut defining = reachable.filter(|service| service.scopes.iter().any(|at| at == scope));
    match (defining.next(), defining.next()) {
        (Some(_), None) => Ok(()),
        (Some(one), Some(other)) => Err(format!(
            "`{}` and `{}` both define the scope `{scope}`; grant it for each service in `access`",
            one.audience, other.audience
        )),
        (None, _) => Err(format!(
            "no service of this client defines the scope `{scope}`; add it to the service or \
             remove it here"
        )),
    }
}

/// Reads the authentication method.
fn auth(node: &Node<'_>) -> Option<ClientAuth> {
    if !node.is_present() {
        node.refuse("is required: `secrets` or `jwks`");
        return None;
    }
    let members = node.reborrow().object(&["secrets", "jwks"]);
    let (hashes, jwks) = (members.get("secrets"), members.get("jwks"));
    match (hashes.is_present(), jwks.is_present()) {
        (true, false) => secrets(&hashes),
        (false, true) => keys(&jwks),
        _ => {
            node.refuse("must have exactly one of `secrets` and `jwks`");
            None
        }
    }
}

/// Reads the hashes of a client's secrets.
fn secrets(node: &Node<'_>) -> Option<ClientAuth> {
    let items = node.items();
    if items.is_empty() || items.len() > MAX_SECRETS {
        node.refuse("must list one secret, or two during a replacement");
    }
    let mut hashes = Vec::new();
    for item in items {
        let members = item.object(&["hash"]);
        let hash = members.get("hash");
        match hash.required_text().map(SecretHash::parse) {
            Some(Ok(parsed)) => hashes.push(parsed),
            Some(Err(message)) => hash.refuse(message),
            None => {}
        }
    }
    (!hashes.is_empty()).then_some(ClientAuth::Secrets(hashes))
}

/// Reads a client's JWK Set, given as an object or as JSON text.
fn keys(node: &Node<'_>) -> Option<ClientAuth> {
    let written = node.raw()?;
    let text = written
        .as_str()
        .map_or_else(|| written.to_string(), str::to_owned);
    // A symmetric key would be a client secret in clear.
    let asymmetric: Vec<Alg> = Alg::ALL
        .into_iter()
        .filter(|alg| !alg.is_symmetric())
        .collect();
    match KeySet::from_config(&text, &asymmetric, false) {
        Ok(set) => Some(ClientAuth::Keys(set)),
        Err(problems) => {
            for problem in problems {
                node.refuse_at(&problem.path, problem.message);
            }
            None
        }
    }
}
