//! Runs the built module in a small host that refuses one function after the other. A missing
//! function never causes a trap: the decisions stay the same, or the module rejects every request.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, anyhow, ensure};
use meshseal_tests::build;
use meshseal_tests::clock::unix_now;
use meshseal_tests::mint::{Key, Kind, Token, jwks};
use serde_json::{Value, json};
use wasmi::{Caller, Engine, ExternType, Instance, Linker, Memory, Module, Store, Val};

const ISSUER: &str = "https://idp.example";
const ROOT: i32 = 1;

/// Statuses of the ABI: `Unimplemented`, `NotFound`, `InternalFailure`, `BadArgument`, and an
/// undefined one.
const REFUSALS: [i32; 5] = [12, 1, 10, 2, 99];

/// Optional functions: without them every decision stays the same.
const OPTIONAL: [&str; 9] = [
    "proxy_log",
    "proxy_get_log_level",
    "proxy_get_current_time_nanoseconds",
    "proxy_define_metric",
    "proxy_increment_metric",
    "proxy_record_metric",
    "proxy_get_property",
    "proxy_call_foreign_function",
    "clock_time_get",
];

/// A proxy with one worker. It answers each call as Envoy does, or with the status in `refused`.
#[derive(Default)]
struct Host {
    refused: BTreeMap<&'static str, i32>,
    configuration: Vec<u8>,
    request: Vec<(String, String)>,
    call_body: Vec<u8>,
    calls: u32,
    replies: Vec<u32>,
    log: Vec<String>,
}

struct Vm {
    store: Store<Host>,
    instance: Instance,
    streams: i32,
}

/// The outcome of a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed { subject: Option<String> },
    Answered(u32),
    Held,
}

impl Vm {
    fn start(module: &Module, plugin: &Value, refused: &[(&'static str, i32)]) -> Result<Self> {
        let engine = module.engine();
        let host = Host {
            refused: refused.iter().copied().collect(),
            configuration: plugin.to_string().into_bytes(),
            ..Host::default()
        };
        let mut store = Store::new(engine, host);
        let mut linker = Linker::new(engine);
        for import in module.imports() {
            let ExternType::Func(signature) = import.ty() else {
                continue;
            };
            let name = import.name().to_owned();
            let serve = move |caller: Caller<'_, Host>, arguments: &[Val], results: &mut [Val]| {
                let status = answer(
                    caller,
                    &name,
                    &arguments.iter().map(number).collect::<Vec<_>>(),
                )?;
                if let Some(result) = results.first_mut() {
                    *result = Val::I32(status);
                }
                Ok(())
            };
            linker.func_new(import.module(), import.name(), signature.clone(), serve)?;
        }
        let instance = linker.instantiate_and_start(&mut store, module)?;
        let mut vm = Self {
            store,
            instance,
            streams: 100,
        };
        vm.call("_initialize", &[])?;
        vm.call("proxy_on_context_create", &[ROOT, 0])?;
        ensure!(
            vm.call("proxy_on_vm_start", &[ROOT, 0])? == 1,
            "the VM does not start"
        );
        Ok(vm)
    }

    fn configure(&mut self) -> Result<bool> {
        let size = i32::try_from(self.store.data().configuration.len())?;
        Ok(self.call("proxy_on_configure", &[ROOT, size])? == 1)
    }

    /// Calls an export and returns its result, or 0 if it has none. A trap is an error.
    fn call(&mut self, export: &str, arguments: &[i32]) -> Result<i32> {
        let function = self
            .instance
            .get_func(&self.store, export)
            .with_context(|| format!("no export {export}"))?;
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        let arguments: Vec<Val> = arguments.iter().copied().map(Val::I32).collect();
        let called = function.call(&mut self.store, &arguments, &mut results);
        called.map_err(|trap| anyhow!("{export}: {trap}; log: {:?}", self.store.data().log))?;
        Ok(results
            .first()
            .map_or(0, |result| i32::try_from(number(result)).unwrap_or(-1)))
    }

    fn tick(&mut self) -> Result<()> {
        self.call("proxy_on_tick", &[ROOT]).map(drop)
    }

    /// Answers the last call with a key set.
    fn answer_call(&mut self, body: &str) -> Result<()> {
        self.store.data_mut().call_body = body.as_bytes().to_vec();
        let (token, size) = (
            i32::try_from(self.store.data().calls)?,
            i32::try_from(body.len())?,
        );
        self.call("proxy_on_http_call_response", &[ROOT, token, 1, size, 0])
            .map(drop)
    }

    fn request(&mut self, headers: &[(&str, &str)]) -> Result<Outcome> {
        self.streams += 1;
        let mut all = vec![
            (":method", "GET"),
            (":authority", "orders"),
            (":path", "/orders/1"),
        ];
        all.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
        let all = all
            .iter()
            .chain(headers)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.store.data_mut().request = all.collect();
        self.store.data_mut().replies.clear();
        self.call("proxy_on_context_create", &[self.streams, ROOT])?;
        let goes_on = self.call("proxy_on_request_headers", &[self.streams, 3, 1])? == 0;
        let host = self.store.data();
        Ok(match (goes_on, host.replies.first()) {
            (true, _) => {
                let subject = host
                    .request
                    .iter()
                    .find(|(name, _)| name == "x-sub")
                    .map(|(_, value)| value.clone());
                Outcome::Passed { subject }
            }
            (false, Some(status)) => Outcome::Answered(*status),
            (false, None) => Outcome::Held,
        })
    }
}

fn number(value: &Val) -> i64 {
    value
        .i32()
        .map(i64::from)
        .or_else(|| value.i64())
        .unwrap_or_default()
}

fn trap(what: impl std::fmt::Display) -> wasmi::Error {
    wasmi::Error::new(what.to_string())
}

fn memory(caller: &Caller<'_, Host>) -> Result<Memory, wasmi::Error> {
    caller
        .get_export("memory")
        .and_then(wasmi::Extern::into_memory)
        .ok_or_else(|| trap("no memory"))
}

fn read(caller: &Caller<'_, Host>, at: i64, size: i64) -> Result<String, wasmi::Error> {
    let mut bytes = vec![0; usize::try_from(size).map_err(trap)?];
    memory(caller)?
        .read(caller, usize::try_from(at).map_err(trap)?, &mut bytes)
        .map_err(trap)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write(caller: &mut Caller<'_, Host>, at: i64, bytes: &[u8]) -> Result<(), wasmi::Error> {
    memory(caller)?
        .write(caller, usize::try_from(at).map_err(trap)?, bytes)
        .map_err(trap)
}

/// Copies bytes into memory that the module allocates, and writes their address and size to `data`
/// and `size`.
fn give(
    caller: &mut Caller<'_, Host>,
    bytes: &[u8],
    data: i64,
    size: i64,
) -> Result<i32, wasmi::Error> {
    let length = i32::try_from(bytes.len()).map_err(trap)?;
    let allocate = caller
        .get_export("proxy_on_memory_allocate")
        .and_then(wasmi::Extern::into_func);
    let mut place = [Val::I32(0)];
    allocate.ok_or_else(|| trap("no allocator"))?.call(
        &mut *caller,
        &[Val::I32(length)],
        &mut place,
    )?;
    let [place] = place;
    write(caller, number(&place), bytes)?;
    let place = u32::try_from(number(&place)).unwrap_or_default();
    write(caller, data, &place.to_le_bytes())?;
    write(caller, size, &length.to_le_bytes())?;
    Ok(0)
}

fn le_bytes(size: usize) -> [u8; 4] {
    u32::try_from(size).unwrap_or_default().to_le_bytes()
}

/// Encodes headers as the ABI does: number of pairs, all sizes, then names and values, each with a
/// zero byte.
fn pairs(headers: &[(String, String)]) -> Vec<u8> {
    let mut bytes = le_bytes(headers.len()).to_vec();
    for (name, value) in headers {
        bytes.extend(le_bytes(name.len()));
        bytes.extend(le_bytes(value.len()));
    }
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), &[0], value.as_bytes(), &[0]].concat());
    }
    bytes
}

/// Answers a host call and returns its status.
fn answer(
    mut caller: Caller<'_, Host>,
    name: &str,
    arguments: &[i64],
) -> Result<i32, wasmi::Error> {
    if let Some(status) = caller.data().refused.get(name) {
        return Ok(*status);
    }
    // Status 0 is `Ok`; arms that answer with another status return early.
    match (name, arguments) {
        ("proxy_log", [_, message, size]) => {
            let line = read(&caller, *message, *size)?;
            caller.data_mut().log.push(line);
        }
        ("proxy_get_log_level", [level]) => write(&mut caller, *level, &2_u32.to_le_bytes())?,
        ("proxy_get_current_time_nanoseconds", [time]) | ("clock_time_get", [_, _, time]) => {
            let nanos = unix_now().saturating_mul(1_000_000_000);
            write(&mut caller, *time, &nanos.to_le_bytes())?;
        }
        ("proxy_define_metric", [_, _, _, id]) => write(&mut caller, *id, &7_u32.to_le_bytes())?,
        ("proxy_get_buffer_bytes", [kind, _, _, data, size]) => {
            let host = caller.data();
            // Buffer 7 is the plugin configuration.
            let bytes = if *kind == 7 {
                host.configuration.clone()
            } else {
                host.call_body.clone()
            };
            return give(&mut caller, &bytes, *data, *size);
        }
        ("proxy_get_header_map_pairs", [map, data, size]) => {
            let status = [(":status".to_owned(), "200".to_owned())];
            let bytes = if *map == 0 {
                pairs(&caller.data().request)
            } else {
                pairs(&status)
            };
            return give(&mut caller, &bytes, *data, *size);
        }
        ("proxy_add_header_map_value", [_, name, size, value, value_size]) => {
            let header = (
                read(&caller, *name, *size)?,
                read(&caller, *value, *value_size)?,
            );
            caller.data_mut().request.push(header);
        }
        ("proxy_remove_header_map_value", [_, name, size]) => {
            let name = read(&caller, *name, *size)?;
            caller
                .data_mut()
                .request
                .retain(|(known, _)| *known != name);
        }
        ("proxy_replace_header_map_value", [_, name, size, value, value_size]) => {
            let header = (
                read(&caller, *name, *size)?,
                read(&caller, *value, *value_size)?,
            );
            caller
                .data_mut()
                .request
                .retain(|(known, _)| *known != header.0);
            caller.data_mut().request.push(header);
        }
        ("proxy_http_call", [.., token]) => {
            caller.data_mut().calls += 1;
            let calls = caller.data().calls;
            write(&mut caller, *token, &calls.to_le_bytes())?;
        }
        ("proxy_send_local_response", [status, ..]) => {
            caller
                .data_mut()
                .replies
                .push(u32::try_from(*status).unwrap_or_default());
        }
        // WASI.
        ("random_get", [place, size]) => write(
            &mut caller,
            *place,
            &vec![4; usize::try_from(*size).map_err(trap)?],
        )?,
        ("environ_sizes_get", [count, size]) => {
            write(&mut caller, *count, &[0; 4])?;
            write(&mut caller, *size, &[0; 4])?;
        }
        (
            "environ_get"
            | "proxy_increment_metric"
            | "proxy_record_metric"
            | "proxy_set_effective_context",
            _,
        )
        | ("proxy_continue_stream" | "proxy_set_tick_period_milliseconds", _) => {}
        ("fd_write", [_, vectors, _, written]) => {
            let text = read(&caller, *vectors, 8)?;
            caller.data_mut().log.push(text);
            write(&mut caller, *written, &[0xff, 0xff, 0, 0])?;
        }
        // A panic of the module ends here.
        ("proc_exit", _) => return Err(trap("the module ended itself")),
        // `NotFound` for unknown names, `Unimplemented` for everything else.
        ("proxy_get_property" | "proxy_call_foreign_function", _) => return Ok(1),
        _ => return Ok(12),
    }
    Ok(0)
}

struct Case {
    module: Module,
    inline: Value,
    remote: Value,
    keys: String,
    good: String,
    bad: String,
}

impl Case {
    fn new() -> Result<Self> {
        let (key, stranger) = (
            Key::generate(Kind::P256, "k")?,
            Key::generate(Kind::P256, "k")?,
        );
        let keys = jwks(&[&key])?;

        Ok(Self {
            module: Module::new(&Engine::default(), fs::read(build::wasm()?)?)?,
            inline: plugin(json!({ "jwks": keys })),
            remote: plugin(json!({"jwksUri": "https://idp.example/keys", "jwksCluster": "idp"})),
            keys: keys.to_string(),
            good: format!(
                "Bearer {}",
                Token::new(ISSUER, "orders", unix_now()).sign(&key)?
            ),
            bad: format!(
                "Bearer {}",
                Token::new(ISSUER, "orders", unix_now()).sign(&stranger)?
            ),
        })
    }

    /// Returns the outcomes of a valid token, a bad token and no token, with inline keys.
    fn decide(&self, refused: &[(&'static str, i32)]) -> Result<[Outcome; 3]> {
        let mut vm = Vm::start(&self.module, &self.inline, refused)?;
        vm.configure()?;
        vm.tick()?;
        let forged = ("x-sub", "root");
        let outcomes = [
            vm.request(&[("authorization", &self.good), forged])?,
            vm.request(&[("authorization", &self.bad), forged])?,
            vm.request(&[forged])?,
        ];
        vm.tick()?;
        Ok(outcomes)
    }
}

/// Returns a plugin configuration with this source of keys.
fn plugin(source: Value) -> Value {
    let mut rule = json!({"issuer": ISSUER, "audiences": ["orders"],
        "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}]});
    if let (Some(rule), Value::Object(source)) = (rule.as_object_mut(), source) {
        rule.extend(source);
    }
    json!({ "jwtRules": [rule] })
}

/// The correct outcomes of [`Case::decide`].
fn right() -> [Outcome; 3] {
    [
        Outcome::Passed {
            subject: Some("alice".to_owned()),
        },
        Outcome::Answered(401),
        Outcome::Answered(401),
    ]
}

#[test]
fn missing_optional_facility_changes_no_decision() -> Result<()> {
    let case = Case::new()?;
    ensure!(case.decide(&[])? == right(), "a host with everything");
    for status in REFUSALS {
        for name in OPTIONAL {
            let outcomes = case
                .decide(&[(name, status)])
                .with_context(|| format!("{name} answers {status}"))?;
            ensure!(outcomes == right(), "{name} answers {status}: {outcomes:?}");
        }
        // WASI's clock replaces that of the ABI, so one of the two must remain.
        let all = OPTIONAL.map(|name| (name, status));
        let all: Vec<_> = all
            .into_iter()
            .filter(|(name, _)| *name != "clock_time_get")
            .collect();
        let outcomes = case
            .decide(&all)
            .with_context(|| format!("all answer {status}"))?;
        ensure!(outcomes == right(), "all answer {status}: {outcomes:?}");
    }
    Ok(())
}

#[test]
fn nothing_passes_without_essential_facility() -> Result<()> {
    let case = Case::new()?;
    let clocks = ["proxy_get_current_time_nanoseconds", "clock_time_get"];
    let essential: [&[&'static str]; 6] = [
        &["proxy_get_buffer_bytes"],
        &["proxy_get_header_map_pairs"],
        &["proxy_add_header_map_value"],
        &["proxy_remove_header_map_value"],
        &["proxy_send_local_response"],
        &clocks,
    ];
    for status in REFUSALS {
        for names in essential {
            let refused: Vec<_> = names.iter().map(|name| (*name, status)).collect();
            let outcomes = case
                .decide(&refused)
                .with_context(|| format!("{names:?} answer {status}"))?;
            // Without local responses a valid token still passes; only the others must not.
            let skip = usize::from(names == ["proxy_send_local_response"]);
            let mut checked = outcomes.iter().skip(skip);
            ensure!(
                checked.all(|outcome| !matches!(outcome, Outcome::Passed { .. })),
                "{names:?} answer {status}: {outcomes:?}"
            );
        }
    }
    Ok(())
}

/// Without forged outputs, the token is the only header to remove.
#[test]
fn rejects_request_with_unremovable_token() -> Result<()> {
    let case = Case::new()?;
    let token = case.good.trim_start_matches("Bearer ");
    let (remove, replace) = (
        "proxy_remove_header_map_value",
        "proxy_replace_header_map_value",
    );
    let (alone, cookies, path) = (
        format!("s={token}"),
        format!("a=b; s={token}"),
        format!("/?t={token}"),
    );
    let places = [
        (
            json!({"fromHeaders": [{"name": "authorization", "prefix": "Bearer "}]}),
            ("authorization", &case.good),
            remove,
        ),
        (json!({"fromCookies": ["s"]}), ("cookie", &alone), remove),
        (json!({"fromCookies": ["s"]}), ("cookie", &cookies), replace),
        (json!({"fromParams": ["t"]}), (":path", &path), replace),
    ];
    for (place, (name, value), function) in places {
        let mut plugin = case.inline.clone();
        let rule = plugin["jwtRules"][0].as_object_mut().context("a rule")?;
        rule.extend(place.as_object().context("a place")?.clone());
        let ask = |refused: &[(&'static str, i32)]| -> Result<Outcome> {
            let mut vm = Vm::start(&case.module, &plugin, refused)?;
            ensure!(
                vm.configure()?,
                "the configuration is good: {:?}",
                vm.store.data().log
            );
            vm.request(&[(name, value)])
        };
        ensure!(
            matches!(ask(&[])?, Outcome::Passed { .. }),
            "{name} on a host that removes"
        );
        for status in REFUSALS {
            let outcome = ask(&[(function, status)])
                .with_context(|| format!("{function} answers {status}"))?;
            ensure!(
                outcome == Outcome::Answered(503),
                "{name}: {function} answers {status}: {outcome:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn failing_host_calls_cause_no_trap() -> Result<()> {
    let case = Case::new()?;
    for (_, name) in meshseal_postlink::IMPORTS
        .iter()
        .filter(|(module, _)| *module == "env")
    {
        for status in REFUSALS {
            let outcomes = case
                .decide(&[(name, status)])
                .with_context(|| format!("{name} answers {status}"))?;
            ensure!(
                !matches!(outcomes[1], Outcome::Passed { .. }),
                "{name} answers {status}: {outcomes:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn answers_503_without_calls_or_timers() -> Result<()> {
    let case = Case::new()?;
    let run = |refused: &[(&'static str, i32)]| -> Result<Outcome> {
        let mut vm = Vm::start(&case.module, &case.remote, refused)?;
        ensure!(
            vm.configure()?,
            "the configuration is good: {:?}",
            vm.store.data().log
        );
        vm.tick()?;
        if vm.store.data().calls > 0 {
            vm.answer_call(&case.keys)?;
        }
        vm.tick()?;
        vm.request(&[("authorization", &case.good)])
    };
    for status in REFUSALS {
        for name in [
            "proxy_set_tick_period_milliseconds",
            "proxy_define_metric",
            "clock_time_get",
            "proxy_get_property",
        ] {
            let outcome =
                run(&[(name, status)]).with_context(|| format!("{name} answers {status}"))?;
            ensure!(
                matches!(outcome, Outcome::Passed { .. }),
                "{name} answers {status}: {outcome:?}"
            );
        }
        let outcome =
            run(&[("proxy_http_call", status)]).with_context(|| format!("no calls: {status}"))?;
        ensure!(
            outcome == Outcome::Answered(503),
            "no calls: {status}: {outcome:?}"
        );
        // Without header maps the filter can read neither the status of a call nor the token of
        // a request.
        let outcome = run(&[("proxy_get_header_map_pairs", status)])
            .with_context(|| format!("no maps: {status}"))?;
        ensure!(
            matches!(outcome, Outcome::Answered(_)),
            "no maps: {status}: {outcome:?}"
        );
    }
    Ok(())
}
