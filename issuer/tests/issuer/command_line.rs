//! Commands as an operator runs them: usage, client secrets, pins and administration.

use std::path::Path;

use meshseal_issuer::clients::SecretHash;
use serde_json::{Value, json};

use crate::support::process::{Server, lines, meshseal, run, text, write};
use crate::support::signing::client_jwks;
use crate::support::yaml;

#[test]
fn wrong_usage_exits_2_with_remedy() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "jwks.json", client_jwks());
    write(
        folder.path(),
        "broken.yaml",
        "jwtRules: [ { issuer: x, audiences: [] } ]\nfoo: 1",
    );

    // Each message names the option or file at fault.
    for (arguments, expected) in [
        (vec!["token", "verify"], "--config"),
        (vec!["token", "verify", "--jwks", "jwks.json"], "--audience"),
        (
            vec!["token", "verify", "--config", "missing.yaml"],
            "missing.yaml",
        ),
        (
            vec!["token", "verify", "--config", "broken.yaml"],
            "audiences",
        ),
        (
            vec!["token", "verify", "--jwks", "jwks.json", "--path", "/"],
            "--method",
        ),
        (
            vec![
                "token",
                "verify",
                "--signature-only",
                "--jwks",
                "broken.yaml",
            ],
            "--jwks",
        ),
        (
            vec!["keys", "list", "--client-id", "x"],
            "MESHSEAL_CLIENT_SECRET",
        ),
        (vec!["revoke", "--client-id", "x"], "--subject"),
        (vec!["serve", "--config", "missing.yaml"], "missing.yaml"),
        (vec!["nonsense"], "nonsense"),
    ] {
        let output = run(folder.path(), &arguments, "");
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn generated_secret_matches_its_hash() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["client", "secret"], "");
    let made: std::collections::BTreeMap<&str, &str> = text(&output.stdout)
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .collect();
    assert_eq!(SecretHash::of(made["secret"]).to_string(), made["hash"]);
    let said = text(&output.stderr);
    assert!(
        said.starts_with("note: ") && said.contains("--config"),
        "the note names the option for a keyed hash: {said}"
    );
}

#[test]
fn keyed_hash_needs_the_master_key() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "issuer.yaml", "listen: 127.0.0.1:0");
    let make = || {
        run(
            folder.path(),
            &["client", "secret", "--config", "issuer.yaml"],
            "",
        )
    };

    // The first start of the issuer creates the master key.
    assert_eq!(make().status.code(), Some(1), "no master key yet");
    drop(Server::start(folder.path(), &["--config", "issuer.yaml"]));
    let made = make();
    assert_eq!(text(&made.stderr), "", "no note for a keyed hash");

    // The keyed hash works as a client secret.
    let made: std::collections::BTreeMap<&str, &str> = text(&made.stdout)
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .collect();
    let yaml = format!(
        "listen: 127.0.0.1:0\nservices: [{{ audience: a }}]\n\
         clients:\n- clientId: c\n  audiences: [a]\n  auth: {{ secrets: [{{ hash: \"{}\" }}] }}\n",
        made["hash"]
    );
    assert!(made["hash"].starts_with("hmac-sha256:"));
    write(folder.path(), "issuer.yaml", yaml);
    let mint = || {
        let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
        let mut mint = meshseal(folder.path());
        mint.args([
            "token",
            "mint",
            "--client-id",
            "c",
            "--url",
            &format!("http://{}", server.address),
        ]);
        mint.env("MESHSEAL_CLIENT_SECRET", made["secret"])
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(mint(), Some(0));

    // A new master key makes the hash useless.
    std::fs::remove_file(folder.path().join("meshseal.db")).unwrap();
    std::fs::remove_file(folder.path().join("meshseal.master.key")).unwrap();
    assert_eq!(
        mint(),
        Some(1),
        "the hash does not match under another master key"
    );
}

#[test]
fn operator_authenticates_with_key() {
    let folder = tempfile::tempdir().unwrap();
    for (name, algorithm) in [("ed", "ED25519"), ("ec", "EC"), ("rsa", "RSA")] {
        let mut command = std::process::Command::new("openssl");
        command
            .args(["genpkey", "-algorithm", algorithm, "-out", name])
            .current_dir(folder.path());
        if algorithm == "EC" {
            command.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        }
        assert!(
            command.output().unwrap().status.success(),
            "openssl genpkey {algorithm}"
        );
    }

    // The issuer knows all three keys of the client.
    let jwks = crate::support::signing::jwks_of(folder.path(), &["ed", "ec", "rsa"]);
    let yaml = format!(
        "issuer: http://127.0.0.1:9\nlisten: 127.0.0.1:0\n\
         clients:\n- {{ clientId: op, admin: true, auth: {{ jwks: {jwks} }} }}\n"
    );
    write(folder.path(), "issuer.yaml", yaml);
    let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
    for name in ["ed", "ec", "rsa"] {
        let ask = |verb: &[&str], issuer: &str| {
            let mut command = meshseal(folder.path());
            command.args(verb).args([
                "--client-id",
                "op",
                "--client-key-file",
                name,
                "--client-key-id",
                name,
            ]);
            command
                .args(["--issuer", issuer])
                .env("MESHSEAL_URL", format!("http://{}", server.address));
            command
                .env("MESHSEAL_ADMIN_URL", format!("http://{}", server.admin))
                .output()
                .unwrap()
        };
        for verb in [
            &["keys", "list"][..],
            &["revoke", "--subject", "x", "--wait", "0"],
        ] {
            let done = ask(verb, "http://127.0.0.1:9");
            assert_eq!(
                done.status.code(),
                Some(0),
                "{name} {verb:?}: {}",
                text(&done.stderr)
            );
        }
        let elsewhere = ask(&["keys", "list"], "https://other.example");
        assert!(
            text(&elsewhere.stderr).contains("401"),
            "{name}: assertion for another issuer"
        );
    }
}

#[test]
fn pins_init_creates_lasting_pins() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "issuer.yaml", yaml());
    let arguments = ["keys", "pins", "--config", "issuer.yaml"];
    let refused = run(folder.path(), &arguments, "");
    assert_eq!(
        (
            refused.status.code(),
            text(&refused.stderr).contains("--init")
        ),
        (Some(1), true)
    );
    assert!(
        !folder.path().join("meshseal.db").exists(),
        "no database is created"
    );

    // `--init` creates the keys once, and later runs only read them.
    let first = lines(&run(
        folder.path(),
        &[&arguments[..], &["--init"]].concat(),
        "",
    ))[0]
        .clone();
    let content = || std::fs::read(folder.path().join("meshseal.db")).unwrap();
    let before = content();
    let second = lines(&run(folder.path(), &arguments, ""))[0].clone();
    assert_eq!((&first, content() == before), (&second, true));
    // A database of another schema is refused and not changed.
    let mut older = before;
    older[60..64].copy_from_slice(&1_u32.to_be_bytes());
    std::fs::write(folder.path().join("older.db"), &older).unwrap();
    std::fs::copy(
        folder.path().join("meshseal.master.key"),
        folder.path().join("older.master.key"),
    )
    .unwrap();
    write(
        folder.path(),
        "older.yaml",
        format!("database: sqlite:older.db\n{}", yaml()),
    );
    let refused = run(
        folder.path(),
        &["keys", "pins", "--config", "older.yaml"],
        "",
    );
    let said = text(&refused.stderr);
    assert_eq!(
        (refused.status.code(), said.contains("schema 1")),
        (Some(1), true),
        "{said}"
    );
    assert!(
        std::fs::read(folder.path().join("older.db")).unwrap() == older,
        "the file is unchanged"
    );
    // The filter accepts the pins.
    let configuration = json!({
        "trustBundle": { "cluster": "issuer", "keys": first["keys"] },
        "jwtRules": [{ "issuer": "https://i.example", "audiences": ["a"], "trustBundle": true }],
    });
    meshseal_core::config::read_policy(&configuration.to_string()).unwrap();
}

/// Starts an issuer with the clients of the tests.
fn serve(folder: &Path) -> Server {
    let config = format!("listen: 127.0.0.1:0\n{}", yaml());
    write(folder, "issuer.yaml", config);
    Server::start(folder, &["--config", "issuer.yaml"])
}

const MINT: [&str; 6] = [
    "token",
    "mint",
    "--audience",
    "orders",
    "--scope",
    "orders.read",
];

#[test]
fn operator_mints_rotates_and_revokes() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let operate = |arguments: &[&str]| server.ask(folder.path(), "operator", arguments, "");
    let (code, token, said) = server.ask(folder.path(), "checkout", &MINT, "");
    assert_eq!((code, token.split('.').count()), (Some(0), 3), "{said}");

    // Rotation prints the new key, which the list shows as active.
    let (_, before, _) = operate(&["keys", "list"]);
    for part in ["active", "next", "0/0"] {
        assert!(before.contains(part), "{part} in {before}");
    }
    let (code, kid, said) = operate(&["keys", "rotate"]);
    assert_eq!(code, Some(0), "{said}");
    let (_, listed, _) = operate(&["keys", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let keys = listed["keys"].as_array().unwrap();
    let active = keys
        .iter()
        .find(|key| key["state"] == "active" && key["purpose"] == "token");
    assert_eq!(active.unwrap()["kid"], kid);

    // Revocation by token, subject, token id and key.
    let (code, receipt, said) =
        server.ask(folder.path(), "checkout", &["revoke", "--token"], &token);
    assert_eq!(code, Some(0), "{said}");
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    assert_eq!(receipt["confirmed"], 0);
    assert_eq!(operate(&["revoke", "--subject", "checkout"]).0, Some(0));
    assert_eq!(operate(&["revoke", "--jti", "no-such-jti"]).0, Some(1));
    assert_eq!(operate(&["keys", "revoke", &kid]).0, Some(0));
}

#[test]
fn failed_administration_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let (_, token, _) = server.ask(folder.path(), "checkout", &MINT, "");

    let truncated = &token[..token.len() - 2];
    let (code, told, said) =
        server.ask(folder.path(), "operator", &["revoke", "--token"], truncated);
    assert_eq!(code, Some(1), "{said}");
    assert!(told.contains("\"revoked\":false"), "{told}");
    assert!(
        said.contains("nothing was revoked: signature-invalid"),
        "{said}"
    );

    // The public listener serves no administration.
    let public = format!("http://{}", server.address);
    let list = ["keys", "list", "--admin-url", &public];
    let (code, _, said) = server.ask(folder.path(), "operator", &list, "");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("404"), "{said}");

    let (code, _, said) = server.ask(folder.path(), "checkout", &["keys", "list"], "");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("not an administrator"), "{said}");
}
