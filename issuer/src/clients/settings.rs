//! The `clients` section of the configuration.

use std::collections::BTreeSet;

use meshseal_core::jose::Alg;
use meshseal_core::keys::KeySet;

use super::{Access, Client, ClientAuth, SecretHash};
use crate::config::{Members, Node, Service, check_name, check_scope};

/// Secrets that one client may have at a time: the one in use and the one that replaces it.
const MAX_SECRETS: usize = 2;

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

/// Reads `access`, or `audiences` and `scopes`, which suffice when no two of the services share a
/// scope.
fn access(members: &Members<'_>, services: &[Service]) -> Vec<Access> {
    let (listed, audiences, scopes) = (
        members.get("access"),
        members.get("audiences"),
        members.get("scopes"),
    );
    if !listed.is_present() {
        let named = audiences.texts(|audience| known_audience(services, audience));
        let granted = scopes.texts(|scope| known_scope(services, &named, scope));
        let at = |audience: &String| {
            let service = services
                .iter()
                .find(|service| service.audience == *audience);
            let known =
                |scope: &&String| service.is_some_and(|service| service.scopes.contains(scope));
            Access {
                audience: audience.clone(),
                scopes: granted.iter().filter(known).cloned().collect(),
            }
        };
        return named.iter().map(at).collect();
    }
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

fn known_audience(services: &[Service], audience: &str) -> Result<(), String> {
    if services.iter().any(|service| service.audience == audience) {
        return Ok(());
    }
    Err(format!(
        "no service has the audience `{audience}`; add it under `services` or correct the name"
    ))
}

fn known_scope(services: &[Service], audiences: &[String], scope: &str) -> Result<(), String> {
    check_scope(scope)?;
    let reachable = services
        .iter()
        .filter(|service| audiences.contains(&service.audience));
    let mut knowing = reachable.filter(|service| service.scopes.iter().any(|known| known == scope));
    match (knowing.next(), knowing.next()) {
        (Some(_), None) => Ok(()),
        (Some(one), Some(other)) => Err(format!(
            "`{}` and `{}` both know the scope `{scope}`; grant it for each service in `access`",
            one.audience, other.audience
        )),
        (None, _) => Err(format!(
            "none of the client's services knows the scope `{scope}`; add it to the service or remove it here"
        )),
    }
}

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

fn secrets(node: &Node<'_>) -> Option<ClientAuth> {
    let items = node.items();
    if items.is_empty() || items.len() > MAX_SECRETS {
        node.refuse("must list one secret, or two while one replaces the other");
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

fn keys(node: &Node<'_>) -> Option<ClientAuth> {
    let written = node.raw()?;
    let text = written
        .as_str()
        .map_or_else(|| written.to_string(), str::to_owned);
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
