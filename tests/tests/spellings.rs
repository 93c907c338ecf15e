//! Spellings of paths, read by servers that decode them (Node, Python, Go), called judges. If a
//! judge reads a spelling as a guarded path, the filter must decide it like that path. The judges
//! are in `tests/judges`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshseal_core::authz::Request;
use meshseal_tests::bootstrap::{Bootstrap, listener, meshseal};
use meshseal_tests::child::{Child, Program};
use meshseal_tests::mint::{Key, Kind, jwks};
use meshseal_tests::paths;
use meshseal_tests::ports::{free, loopback};
use meshseal_tests::proxy::{Proxy, folder, run};
use meshseal_tests::wait::until;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const JUDGES: [&str; 3] = ["node", "python", "go"];

/// Number of random paths in the corpus, besides the systematic ones.
const RANDOM_PATHS: usize = 20_000;

/// Returns the command line of a judge; builds it first if necessary.
fn judge(name: &str) -> Result<(PathBuf, Vec<PathBuf>)> {
    let sources = paths::root().join("tests/judges");
    match name {
        "node" => Ok(("node".into(), vec![sources.join("judge.mjs")])),
        "python" => Ok(("python3".into(), vec![sources.join("judge.py")])),
        _ => {
            let binary = folder("judges").join(format!("judge-{}", std::process::id()));
            let built = Command::new("go")
                .arg("build")
                .arg("-o")
                .arg(&binary)
                .arg(sources.join("judge.go"))
                .status();
            ensure!(
                built.context("cannot run go")?.success(),
                "go build of judge.go failed"
            );
            Ok((binary, Vec::new()))
        }
    }
}

/// Returns the readings of a judge for each path: one per decoder, null if a decoder fails.
fn readings(name: &str, corpus: &[String]) -> Result<Vec<Vec<Value>>> {
    let (program, arguments) = judge(name)?;
    let mut command = Command::new(program);
    let mut child = command
        .args(arguments)
        .arg("read")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("a pipe")?
        .write_all(serde_json::to_string(corpus)?.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{name} failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Random generator (xorshift64*) with a fixed seed, so that failures are reproducible.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap_or_default()
    }

    fn of<'p>(&mut self, parts: &[&'p str]) -> &'p str {
        parts
            .get(self.next() % parts.len())
            .copied()
            .unwrap_or_default()
    }
}

/// Returns the corpus: every octet, escaped with digits in every case, at three positions; and
/// random paths.
fn corpus() -> Vec<String> {
    let mut corpus = Vec::new();
    for octet in 0..=255_u8 {
        for escape in [
            format!("%{octet:02X}"),
            format!("%{octet:02x}"),
            format!("%{:X}{:x}", octet >> 4, octet & 15),
        ] {
            corpus.extend([
                format!("/{escape}"),
                format!("/a{escape}b/c"),
                format!("/a/{escape}/b?{escape}"),
            ]);
        }
    }
    const PARTS: [&str; 40] = [
        "/",
        "/",
        "/",
        "a",
        "admin",
        "b",
        ".",
        "..",
        "%2e",
        "%2E",
        "%2F",
        "%2f",
        "%5C",
        "\\",
        ";",
        "%3B",
        "%00",
        "%25",
        "%252e",
        "%40",
        "@",
        "%3a",
        ":",
        "%C3%A9",
        "%c3%a9",
        "%C3",
        "%A9",
        "%E2%82%ac",
        "%F0%9f%98%80",
        "%ff",
        "%2",
        "%zz",
        "%",
        "+",
        "%20",
        "%2B",
        "|",
        "%7C",
        "[",
        "%3F",
    ];
    let mut random = Random(0x6d65_7368_7365_616c);
    for _ in 0..RANDOM_PATHS {
        let parts = 1 + random.next() % 7;
        corpus.push(
            std::iter::once("/")
                .chain((0..parts).map(|_| random.of(&PARTS)))
                .collect(),
        );
    }
    corpus
}

fn plugin(settings: Value) -> Result<Value> {
    let key = Key::generate(Kind::Ed25519, "k1")?;
    let mut plugin = json!({
        "jwtRules": [{
            "issuer": "https://issuer.example", "audiences": ["orders"], "jwks": jwks(&[&key])?,
        }],
    });
    if let (Some(plugin), Value::Object(settings)) = (plugin.as_object_mut(), settings) {
        plugin.extend(settings);
    }
    Ok(plugin)
}

#[test]
fn judges_read_the_canonical_form() -> Result<()> {
    std::fs::create_dir_all(folder("judges"))?;
    let rules = json!({"rules": [{"to": [{"operation": {"paths": ["/*"]}}]}]});
    let policy = meshseal_core::config::read_policy(&plugin(rules)?.to_string())?;
    let corpus = corpus();
    for name in JUDGES {
        let mut accepted = 0;
        for (path, readings) in corpus.iter().zip(readings(name, &corpus)?) {
            if let Ok(request) = policy.authz().canonical(&Request {
                method: "GET",
                host: "h",
                path,
            }) {
                accepted += 1;
                let same = readings.iter().all(|reading| reading == request.path());
                ensure!(
                    same,
                    "{path}: {name} reads {readings:?}, the filter {:?}",
                    request.path()
                );
            }
        }
        ensure!(accepted > 2_000, "only {accepted} paths were compared");
    }
    Ok(())
}

/// Guarded paths, as a rule names them.
const GUARDED: [&str; 5] = [
    "/admin",
    "/admin/*",
    "/users/@me",
    "/caf%c3%a9/*",
    "*:cancel",
];

fn is_guarded(reading: &str) -> bool {
    let exact = ["/admin", "/users/@me"].contains(&reading);
    exact
        || reading.starts_with("/admin/")
        || reading.starts_with("/café/")
        || reading.ends_with(":cancel")
}

/// Spellings of guarded paths by every trick in the documents, with the documented answer: 401 like
/// the guarded path, or 400 for an ambiguous path. A path with 200 is another path, which no
/// upstream may read as the guarded one.
const ATTACKS: [(&str, u16); 38] = [
    ("/%61dmin", 401),
    ("/adm%69n/x", 401),
    ("/%2561dmin", 400),
    ("/users/%40me", 401),
    ("/users/%40%6d%65", 401),
    ("/caf%C3%A9/x", 401),
    ("/caf%c3%A9/x", 401),
    ("/caf%e9/x", 400),
    ("/orders/7%3Acancel", 401),
    ("/orders/7%3acancel", 401),
    ("//admin", 400),
    ("/admin//x", 400),
    ("/x/../admin", 400),
    ("/x/%2e%2e/admin", 400),
    ("/x/.%2E/admin/y", 400),
    ("/./admin", 400),
    ("/admin%2Fx", 400),
    ("/x/..%2fadmin", 400),
    ("/%2Fadmin", 400),
    ("/x%5C..%5Cadmin", 400),
    ("/x\\..\\admin", 400),
    ("/\\admin", 400),
    ("/admin;x", 400),
    ("/admin;/x", 400),
    ("/admin%3Bx", 400),
    ("/;x/admin", 400),
    ("/x/..;/admin", 400),
    ("/admin%00", 400),
    ("/admin%00.png", 400),
    ("/admin%0a", 400),
    ("/admin%C2%85", 400),
    ("/admin#x", 400),
    ("/admin%23x", 200),
    ("/admin%3Fx", 200),
    ("/admin?x=%3B;//..", 401),
    ("/caf\u{e9}/x", 400),
    ("/admin%", 400),
    ("/admin%zz", 400),
];

/// Sends a request with an unchanged target. Returns the status and the body.
async fn ask(to: SocketAddr, target: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(to).await?;
    stream
        .write_all(
            format!("GET {target} HTTP/1.1\r\nhost: svc.example\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("{target}: {text:?}"))?;
    let body = text
        .find('{')
        .zip(text.rfind('}'))
        .and_then(|(from, to)| text.get(from..=to))
        .unwrap_or_default();
    Ok((status, body.to_owned()))
}

/// Starts a judge as an upstream.
async fn serve(name: &str) -> Result<(Child, SocketAddr)> {
    let (path, arguments) = judge(name)?;
    let address = loopback(free()?);
    let mut args: Vec<_> = arguments.into_iter().map(Into::into).collect();
    args.extend(["serve".into(), address.port().to_string().into()]);
    let dir = folder("judges");
    let log = dir.join(format!("{name}.log"));
    let child = Child::start(&Program {
        name: name.to_owned(),
        path,
        args,
        env: Vec::new(),
        dir,
        log,
    })?;
    until("the judge", Duration::from_secs(20), || async {
        TcpStream::connect(address).await.ok()
    })
    .await?;
    Ok((child, address))
}

async fn check_judge(name: &str, guarded: SocketAddr, kept: SocketAddr) -> Result<()> {
    for (path, expected) in [
        ("/admin", 401),
        ("/admin/x", 401),
        ("/users/@me", 401),
        ("/users/7", 200),
        ("/%61%20+%C3%A9", 200),
    ] {
        let (status, body) = ask(guarded, path).await?;
        ensure!(status == expected, "{name} {path}: {status} {body}");
    }
    let (status, body) = ask(kept, "/projects/group%2Fproject").await?;
    let seen = serde_json::from_str::<Value>(&body).unwrap_or_default();
    ensure!(
        status == 200 && seen.get("target") == Some(&json!("/projects/group%2Fproject")),
        "{name}: {status} {body}"
    );
    for (path, expected) in [
        ("/projects/a%2Fb/c", 401),
        ("/projects/a%2F..%2Fb", 400),
        ("/projects%2Fa", 401),
    ] {
        let (status, body) = ask(kept, path).await?;
        ensure!(status == expected, "{name} {path}: {status} {body}");
    }
    // Attacks. Envoy waits a second before it closes a connection, so all are sent at once.
    let mut asked = JoinSet::new();
    for (path, expected) in ATTACKS {
        asked.spawn(async move { (path, expected, ask(guarded, path).await) });
    }
    while let Some(answer) = asked.join_next().await {
        let (path, expected, answer) = answer?;
        let (status, body) = answer?;
        let seen = serde_json::from_str::<Value>(&body).unwrap_or_default();
        let readings = seen
            .get("readings")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let reached = readings.iter().filter_map(Value::as_str).any(is_guarded);
        ensure!(status == expected, "{name} {path}: {status} {body}");
        ensure!(
            !(status == 200 && reached),
            "{name} {path} reads a guarded path: {body}"
        );
    }
    Ok(())
}

/// Returns rules that need no token for these operations, and a scope for all others.
fn open_for(operation: Value) -> Value {
    json!([
        {"allowMissing": true, "to": [{"operation": operation}]},
        {"scopes": ["all"]},
    ])
}

#[test]
fn no_path_spelling_bypasses_rules() -> Result<()> {
    run(async {
        std::fs::create_dir_all(folder("judges"))?;
        let guarded = plugin(json!({
            "statPrefix": "guarded",
            "rules": open_for(json!({"notPaths": GUARDED})),
        }))?;
        let kept = plugin(json!({
            "statPrefix": "kept", "pathWithEscapedSlashesAction": "KEEP_UNCHANGED",
            "rules": open_for(json!({"paths": ["/projects/{*}"]})),
        }))?;
        let (mut bootstrap, mut children) = (Bootstrap::new(), Vec::new());
        for name in JUDGES {
            let (child, address) = serve(name).await?;
            children.push(child);
            bootstrap = bootstrap
                .cluster(name, address)
                .listener(listener(
                    &format!("{name}-guarded"),
                    &[meshseal(&guarded)],
                    name,
                ))
                .listener(listener(&format!("{name}-kept"), &[meshseal(&kept)], name));
        }
        let names: Vec<String> = JUDGES
            .iter()
            .flat_map(|name| [format!("{name}-guarded"), format!("{name}-kept")])
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let proxy = Proxy::start_with("spellings", bootstrap, &names).await?;
        for name in JUDGES {
            check_judge(
                name,
                proxy.address(&format!("{name}-guarded"))?,
                proxy.address(&format!("{name}-kept"))?,
            )
            .await?;
        }
        Ok(())
    })
}
