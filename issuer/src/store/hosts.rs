//! Hosts of a PostgreSQL URL, in libpq's syntax
//! (<https://www.postgresql.org/docs/current/libpq-connect.html>).

/// Most hosts that a URL may list.
const MAX_HOSTS: usize = 16;

/// One server of the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// Host and port, for messages.
    pub(super) name: String,
    /// URL of this server alone, in the driver's syntax. It may hold a password.
    pub(super) url: String,
}

/// Splits `postgres://USER@HOST1:PORT1,HOST2:PORT2/DATABASE?host=…&port=…&target_session_attrs=…`
/// into its servers.
pub(super) fn hosts(url: &str) -> Result<Vec<Host>, String> {
    let (scheme, rest) = url.split_once("://").ok_or("must begin with postgres://")?;
    // Split the URL. The last `@` ends the user: a password may contain another one.
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, listed) = authority
        .rsplit_once('@')
        .map_or(("", authority), |(user, listed)| (user, listed));
    let mut query = Query::read(query)?;
    // `host` in the query replaces the hosts of the authority, as in libpq.
    let named: Vec<(String, String)> = match &query.hosts {
        Some(hosts) => hosts
            .iter()
            .map(|host| (host.clone(), String::new()))
            .collect(),
        None => listed.split(',').map(split_port).collect(),
    };
    if named.len() > MAX_HOSTS {
        return Err(format!("names more than {MAX_HOSTS} hosts"));
    }
    let ports = std::mem::take(&mut query.ports);
    if !matches!(ports.len(), 0 | 1) && ports.len() != named.len() {
        return Err("`port` must name one port, or one for each host".to_owned());
    }
    let mut servers = Vec::with_capacity(named.len());
    for (at, (host, port)) in named.into_iter().enumerate() {
        let port = ports.get(at).or(ports.first()).cloned().unwrap_or(port);
        if !port.is_empty() && !port.parse::<u16>().is_ok_and(|port| port > 0) {
            // The text is not shown: with a `/` in the password it is a part of the password.
            return Err("has a port that is not a number from 1 to 65535; \
                        escape `/` and `@` in the password"
                .to_owned());
        }
        servers.push(host_url(scheme, user, (&host, &port), database, &query));
    }
    Ok(servers)
}

/// Returns the URL of one server.
fn host_url(
    scheme: &str,
    user: &str,
    (host, port): (&str, &str),
    database: &str,
    query: &Query,
) -> Host {
    let colon = if port.is_empty() { "" } else { ":" };
    let mut pairs = query.rest.clone();
    // The folder of a Unix socket cannot be part of the authority.
    let authority = if host.contains('/') {
        pairs.push(format!("host={}", escape(host)));
        format!("localhost{colon}{port}")
    } else {
        format!("{host}{colon}{port}")
    };
    let (at, question) = (
        if user.is_empty() { "" } else { "@" },
        if pairs.is_empty() { "" } else { "?" },
    );
    let url = format!(
        "{scheme}://{user}{at}{authority}/{database}{question}{}",
        pairs.join("&")
    );
    Host {
        name: format!("{host}{colon}{port}"),
        url,
    }
}

/// Parameters about the list of hosts, and the other ones unchanged.
#[derive(Default)]
struct Query {
    hosts: Option<Vec<String>>,
    ports: Vec<String>,
    rest: Vec<String>,
}

impl Query {
    fn read(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let decoded = form_urlencoded::parse(pair.as_bytes()).next();
            let (name, value) = decoded.unwrap_or_default();
            let list = || value.split(',').map(str::to_owned).collect();
            match &*name {
                "host" | "hostaddr" => query.hosts = Some(list()),
                "port" => query.ports = list(),
                "target_session_attrs" => match &*value {
                    "read-write" | "primary" => {}
                    _ => {
                        return Err(
                            "`target_session_attrs` must be read-write: the issuer writes"
                                .to_owned(),
                        );
                    }
                },
                _ => query.rest.push(pair.to_owned()),
            }
        }
        Ok(query)
    }
}

/// Splits host and port. The colons of an IPv6 address stay inside its brackets.
fn split_port(text: &str) -> (String, String) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host.to_owned(), port.to_owned()),
        _ => (text.to_owned(), String::new()),
    }
}

fn escape(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::hosts;

    fn read(url: &str) -> Vec<(String, String)> {
        hosts(url)
            .unwrap()
            .into_iter()
            .map(|host| (host.name, host.url))
            .collect()
    }

    #[test]
    fn splits_hosts_and_ports() {
        let both = read(
            "postgres://u:p@h1:5432,[::1]:5433,h3/db\
             ?target_session_attrs=read-write&sslmode=require",
        );
        let rest = "/db?sslmode=require";
        let expected = ["h1:5432", "[::1]:5433", "h3"]
            .map(|host| (host.to_owned(), format!("postgres://u:p@{host}{rest}")));
        assert_eq!(both, expected);
    }

    #[test]
    fn takes_hosts_from_parameters() {
        let listed = read("postgresql:///db?host=a,b&port=1,2&dbname=x");
        let expected = ["a:1", "b:2"]
            .map(|host| (host.to_owned(), format!("postgresql://{host}/db?dbname=x")));
        assert_eq!(listed, expected);
        let socket = read("postgres://u@localhost/db?host=/run/pg");
        let url = "postgres://u@localhost/db?host=%2Frun%2Fpg";
        assert_eq!(socket, [("/run/pg".to_owned(), url.to_owned())]);
    }

    #[test]
    fn mistakes_show_no_password() {
        for url in [
            "postgres://u:hunter2/x@h/db",
            "postgres://u:hun,ter2:x@h:y/db",
        ] {
            let message = hosts(url).unwrap_err();
            assert!(
                !message.contains("hun") && !message.contains("ter2"),
                "{message}"
            );
        }
    }

    #[test]
    fn refuses_other_session_attributes_and_ports() {
        for (url, expected) in [
            ("postgres://h/db?target_session_attrs=standby", "read-write"),
            ("postgres://h/db?target_session_attrs=any", "read-write"),
            ("postgres://h:0/db", "from 1 to 65535"),
            ("postgres://h:x/db", "from 1 to 65535"),
            ("postgres://a,b,c/db?port=1,2", "one for each host"),
        ] {
            assert!(hosts(url).unwrap_err().contains(expected), "{url}");
        }
    }
}
