//! Checks the files in istio/: our own code accepts them, filter and issuer use the same names, and
//! the filter decides when loaded as Istio loads it. tests/image/check.sh checks them against the
//! schemas of Kubernetes and Istio.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshseal_core::authn::KeySource;
use meshseal_core::policy::Mode;
use meshseal_core::policy::Policy;
use meshseal_tests::bootstrap::{Bootstrap, listener};
use meshseal_tests::http::Request;
use meshseal_tests::issuer::{CLIENT, Issuer};
use meshseal_tests::proxy::{Proxy, WORKERS, folder, run};
use meshseal_tests::{build, paths, ports};
use serde_json::{Value, json};

/// Files of both kinds that load the filter, and the JSON pointer to their plugin configuration.
const FILTERS: [(&str, &str); 2] = [
    ("wasmplugin.yaml", "/spec/pluginConfig"),
    ("trafficextension.yaml", "/spec/wasm/pluginConfig"),
];
const ISSUERS: [&str; 2] = ["issuer/issuer.yaml", "issuer-postgres/issuer.yaml"];

fn istio(path: &str) -> PathBuf {
    paths::root().join("istio").join(path)
}

fn yaml(path: &str) -> Result<Value> {
    let file = istio(path);
    serde_saphyr::from_str(&fs::read_to_string(&file)?).with_context(|| file.display().to_string())
}

/// Returns the plugin configurations, read from JSON text as istiod passes them on.
fn plugin_configs() -> Result<Vec<(Value, Policy)>> {
    let mut configs = Vec::new();
    for (file, pointer) in FILTERS {
        let document = yaml(&format!("filter/{file}"))?;
        let config = document
            .pointer(pointer)
            .with_context(|| format!("{file} has no {pointer}"))?;
        let policy = meshseal_core::config::read_policy(&config.to_string())
            .map_err(|errors| anyhow::anyhow!("{file}: {errors}"))?;
        configs.push((config.clone(), policy));
    }
    Ok(configs)
}

fn texts(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[test]
fn filter_and_schema_accept_both_plugin_configurations() -> Result<()> {
    let schema = fs::read_to_string(paths::envoy_config().join("plugin-config.schema.json"))?;
    let schema = jsonschema::draft202012::new(&serde_json::from_str(&schema)?)?;
    for (config, policy) in plugin_configs()? {
        let problems: Vec<String> = schema
            .iter_errors(&config)
            .map(|problem| format!("{}: {problem}", problem.instance_path()))
            .collect();
        ensure!(problems.is_empty(), "{problems:?}");
        ensure!(
            policy.mode() == Mode::Enforce,
            "the shipped files must enforce; shadow mode is a step of the rollout"
        );
    }
    Ok(())
}

/// Runs the command that the files recommend to their reader.
#[test]
fn config_check_accepts_every_file() -> Result<()> {
    let filters = FILTERS.map(|(file, _)| istio(&format!("filter/{file}")));
    let output = Command::new(build::issuer()?)
        .args(["config", "check"])
        .args(filters)
        .args(ISSUERS.map(istio))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}");
    ensure!(
        said.matches("ok (plugin configuration").count() == FILTERS.len(),
        "{said}"
    );
    ensure!(
        said.matches("ok (issuer configuration)").count() == ISSUERS.len(),
        "{said}"
    );
    Ok(())
}

/// The cluster must have Istio's name for the cluster of a Service: direction, port, subset, host.
#[test]
fn filter_polls_issuer_service() -> Result<()> {
    let (service, kustomization) = (
        yaml("issuer/service.yaml")?,
        yaml("issuer/kustomization.yaml")?,
    );
    let name = service
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .context("the Service has no name")?;
    let port = service
        .pointer("/spec/ports/0/port")
        .and_then(Value::as_u64)
        .context("the Service has no port")?;
    let namespace = kustomization
        .pointer("/namespace")
        .and_then(Value::as_str)
        .context("the kustomization names no namespace")?;
    let host = format!("{name}.{namespace}.svc.cluster.local");
    for (_, policy) in plugin_configs()? {
        let bundle = policy.authn().trust_bundle().context("no trustBundle")?;
        ensure!(
            *bundle.cluster == *format!("outbound|{port}||{host}"),
            "{}",
            bundle.cluster
        );
        // `authority` defaults to the name of the cluster, which is not a host name here: it
        // contains bars.
        ensure!(*bundle.authority == *host, "{}", bundle.authority);
    }
    Ok(())
}

#[test]
fn issuer_audiences_and_scopes_match_filter() -> Result<()> {
    let issuer = yaml(ISSUERS[0])?;
    let identifier = issuer
        .pointer("/issuer")
        .and_then(Value::as_str)
        .context("issuer.yaml has no issuer")?;
    let services = issuer
        .pointer("/services")
        .and_then(Value::as_array)
        .context("issuer.yaml has no services")?;
    for (config, policy) in plugin_configs()? {
        let [rule] = policy.authn().jwt_rules() else {
            anyhow::bail!(
                "{} jwtRules; the example has one",
                policy.authn().jwt_rules().len()
            )
        };
        ensure!(*rule.issuer == *identifier && matches!(rule.keys, KeySource::Bundle));
        let [audience] = rule.audiences.as_slice() else {
            anyhow::bail!("the example has one audience")
        };
        let service = services
            .iter()
            .find(|service| service.get("audience").and_then(Value::as_str) == Some(audience));
        let known = service
            .and_then(|service| service.get("scopes"))
            .map(texts)
            .context("no service has the audience")?;
        for wanted in config
            .pointer("/rules")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|rule| rule.get("scopes"))
        {
            ensure!(
                texts(wanted).iter().all(|scope| known.contains(scope)),
                "{wanted} is not among {known:?}"
            );
        }
    }
    Ok(())
}

/// A sidecar must not require tokens on outbound requests of its workload, and must never pass a
/// request that it could not check.
#[test]
fn filter_guards_inbound_traffic_and_fails_closed() -> Result<()> {
    let (plugin, extension) = (
        yaml("filter/wasmplugin.yaml")?,
        yaml("filter/trafficextension.yaml")?,
    );
    for (document, wasm) in [(&plugin, "/spec"), (&extension, "/spec/wasm")] {
        let at = |path: &str| {
            document
                .pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        ensure!(
            at("/spec/match/0/mode") == "SERVER" && document.pointer("/spec/match/1").is_none()
        );
        ensure!(at("/spec/phase") == "AUTHN");
        ensure!(at(&format!("{wasm}/failStrategy")) == "FAIL_RELOAD");
        ensure!(
            at(&format!("{wasm}/sha256")) == "0".repeat(64),
            "the placeholder must match no image"
        );
    }
    Ok(())
}

/// Returns the Wasm filter that istiod generates from a WasmPlugin (istio/istio
/// pilot/pkg/model/extensions.go): without root_id and vm_id, with the configuration as JSON text
/// and with environment variables of Istio in the VM.
fn as_istiod_makes_it(config: &Value) -> Value {
    json!({
        "name": "extensions.istio.io/wasmplugin/shop.meshseal",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "shop.meshseal",
                "failure_policy": "FAIL_RELOAD",
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": config.to_string(),
                },
                "vm_config": {
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": paths::wasm()}},
                    "environment_variables": {
                        "key_values": {"ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "1"},
                    },
                },
            },
        },
    })
}

/// Runs the shipped plugin configuration in a real Envoy with Istio's cluster name. Only the
/// placeholders are replaced by this issuer's address, pins and credential.
#[test]
fn shipped_plugin_polls_issuer_and_decides() -> Result<()> {
    run(async {
        let port = ports::free()?;
        let mut issuer = Issuer::prepare(&folder("istio-issuer"), port, 300)?;
        let pins = issuer.pins()?;
        issuer.start().await?;
        let [(mut config, policy), _] =
            <[_; 2]>::try_from(plugin_configs()?).map_err(|_| anyhow::anyhow!("two kinds"))?;
        // Replace the placeholders.
        let mut put = |at: &str, value: Value| {
            config
                .pointer_mut(at)
                .map(|place| *place = value)
                .context("no such place")
        };
        put("/trustBundle/keys", pins)?;
        put("/trustBundle/pollToken", issuer.poll_token().into())?;
        put("/jwtRules/0/issuer", issuer.url().into())?;
        let cluster = policy
            .authn()
            .trust_bundle()
            .context("no trust bundle")?
            .cluster
            .to_string();
        // Envoy with Istio's name for the cluster.
        let bootstrap = Bootstrap::new()
            .listener(listener("inbound", &[as_istiod_makes_it(&config)], "echo"))
            .cluster(&cluster, ports::loopback(port));
        let proxy = Proxy::start_with("istio", bootstrap, &["inbound"]).await?;
        issuer
            .wait_for_proxies(WORKERS, Duration::from_secs(20))
            .await?;

        let token = issuer.token("orders").await?;
        let cases = [
            (Request::get("/healthz"), 200, None),
            (Request::get("/orders/7"), 401, None),
            (Request::get("/orders/7").bearer(&token), 200, Some(CLIENT)),
            (Request::new("POST", "/orders").bearer(&token), 403, None),
        ];
        for (request, status, subject) in cases {
            for response in proxy
                .ask_each_worker("inbound", |_| request.clone())
                .await?
            {
                ensure!(
                    response.status == status,
                    "expected {status}, got {response:?}"
                );
                let seen = response.json();
                ensure!(
                    seen.pointer("/headers/x-subject").and_then(Value::as_str) == subject,
                    "{response:?}"
                );
            }
        }
        Ok(())
    })
}
