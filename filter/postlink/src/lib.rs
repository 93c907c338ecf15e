//! The build step after linking the filter. It removes the exports that the module does not need
//! together with all code that only they reach, and rejects a module with imports that proxy-wasm
//! hosts do not provide. Where the filter implements a callback itself, its function replaces the
//! SDK's.
//!
//! proxy-wasm hosts call every exported callback for each phase of a request, and the SDK exports
//! all of them. Removing unneeded exports saves about 5 µs a request in Envoy.
//!
//! [`EXPORTS`] and [`IMPORTS`] are the only lists of this kind; the tests of the built module read
//! them, too.

use std::collections::BTreeSet;
use std::fmt;

/// Exports to keep: those that a host needs to start the module, and the callbacks that the filter
/// implements (proxy-wasm ABI 0.2.1, `abi-versions/v0.2.1/README.md` of proxy-wasm/spec).
pub const EXPORTS: &[&str] = &[
    "memory",
    "_initialize",
    "proxy_abi_version_0_2_1",
    "proxy_on_memory_allocate",
    "proxy_on_vm_start",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_request_headers",
    "proxy_on_http_call_response",
    "proxy_on_tick",
];

/// The filter's own callbacks, with the names under which the proxy must find them (`filter/abi`,
/// streams).
pub const OURS: &[(&str, &str)] = &[
    ("meshseal_on_context_create", "proxy_on_context_create"),
    ("meshseal_on_request_headers", "proxy_on_request_headers"),
    (
        "meshseal_on_http_call_response",
        "proxy_on_http_call_response",
    ),
    ("meshseal_on_memory_allocate", "proxy_on_memory_allocate"),
];

/// Allowed imports as (module, name). They are the host functions of proxy-wasm ABI 0.2.1, more of
/// which the SDK links than the filter calls, and the WASI functions that Rust's standard library
/// needs for panics, the environment and the seeds of hash maps. Every proxy-wasm host provides
/// them.
pub const IMPORTS: &[(&str, &str)] = &[
    ("env", "proxy_add_header_map_value"),
    ("env", "proxy_call_foreign_function"),
    ("env", "proxy_close_stream"),
    ("env", "proxy_continue_stream"),
    ("env", "proxy_define_metric"),
    ("env", "proxy_dequeue_shared_queue"),
    ("env", "proxy_done"),
    ("env", "proxy_enqueue_shared_queue"),
    ("env", "proxy_get_buffer_bytes"),
    ("env", "proxy_get_current_time_nanoseconds"),
    ("env", "proxy_get_header_map_pairs"),
    ("env", "proxy_get_header_map_value"),
    ("env", "proxy_get_log_level"),
    ("env", "proxy_get_property"),
    ("env", "proxy_get_shared_data"),
    ("env", "proxy_get_status"),
    ("env", "proxy_grpc_call"),
    ("env", "proxy_grpc_cancel"),
    ("env", "proxy_grpc_close"),
    ("env", "proxy_grpc_send"),
    ("env", "proxy_grpc_stream"),
    ("env", "proxy_http_call"),
    ("env", "proxy_increment_metric"),
    ("env", "proxy_log"),
    ("env", "proxy_record_metric"),
    ("env", "proxy_register_shared_queue"),
    ("env", "proxy_remove_header_map_value"),
    ("env", "proxy_replace_header_map_value"),
    ("env", "proxy_resolve_shared_queue"),
    ("env", "proxy_send_local_response"),
    ("env", "proxy_set_buffer_bytes"),
    ("env", "proxy_set_effective_context"),
    ("env", "proxy_set_header_map_pairs"),
    ("env", "proxy_set_property"),
    ("env", "proxy_set_shared_data"),
    ("env", "proxy_set_tick_period_milliseconds"),
    ("wasi_snapshot_preview1", "clock_time_get"),
    ("wasi_snapshot_preview1", "environ_get"),
    ("wasi_snapshot_preview1", "environ_sizes_get"),
    ("wasi_snapshot_preview1", "fd_write"),
    ("wasi_snapshot_preview1", "proc_exit"),
    ("wasi_snapshot_preview1", "random_get"),
];

/// Reason for rejecting a module.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The input is not a WebAssembly module that this tool can read.
    Unreadable(String),
    /// The module lacks these of [`EXPORTS`]: a callback of the filter is not linked.
    MissingExports(Vec<String>),
    /// The module has these imports outside of [`IMPORTS`], as `module.name`; hosts would not load
    /// it.
    ForeignImports(Vec<String>),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(reason) => write!(out, "not a readable WebAssembly module: {reason}"),
            Self::MissingExports(names) => {
                write!(
                    out,
                    "exports missing: {}; is this the meshseal-filter cdylib?",
                    names.join(", ")
                )
            }
            Self::ForeignImports(names) => {
                write!(
                    out,
                    "imports that proxy-wasm hosts do not provide: {}; remove the dependency that \
                     needs them",
                    names.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// Trims a linked module to [`EXPORTS`] and the code that they reach; removes the name and producer
/// sections.
///
/// # Errors
/// [`Refusal`] if hosts could not run the module.
pub fn trim(wasm: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut config = walrus::ModuleConfig::new();
    config
        .generate_name_section(false)
        .generate_producers_section(false);
    let mut module = config
        .parse(wasm)
        .map_err(|error| Refusal::Unreadable(error.to_string()))?;
    // Check that every needed export is present before changing anything.
    let present: BTreeSet<String> = module
        .exports
        .iter()
        .map(|export| export.name.clone())
        .collect();
    let needed = EXPORTS.iter().chain(OURS.iter().map(|(ours, _)| ours));
    let missing: Vec<String> = needed
        .filter(|name| !present.contains(**name))
        .map(|name| (*name).to_owned())
        .collect();
    if !missing.is_empty() {
        return Err(Refusal::MissingExports(missing));
    }
    // The SDK's functions give up their names, and the filter's own take them.
    let surplus: Vec<_> = module
        .exports
        .iter()
        .filter(|export| {
            let replaced = OURS.iter().any(|(_, theirs)| *theirs == export.name);
            replaced || !(EXPORTS.contains(&&*export.name) || abi_name(&export.name).is_some())
        })
        .map(|export| export.id())
        .collect();
    for id in surplus {
        module.exports.delete(id);
    }
    // The remaining exports of the filter take the names of the ABI.
    for export in module.exports.iter_mut() {
        if let Some(name) = abi_name(&export.name) {
            export.name = name.to_owned();
        }
    }
    // Removes the functions and imports that only the deleted exports reached.
    walrus::passes::gc::run(&mut module);
    let foreign: Vec<String> = module
        .imports
        .iter()
        .filter(|import| !IMPORTS.contains(&(import.module.as_str(), import.name.as_str())))
        .map(|import| format!("{}.{}", import.module, import.name))
        .collect();
    if !foreign.is_empty() {
        return Err(Refusal::ForeignImports(foreign));
    }
    Ok(module.emit_wasm())
}

/// Returns the name that one of the filter's own callbacks takes in the trimmed module.
fn abi_name(name: &str) -> Option<&'static str> {
    OURS.iter()
        .find(|(ours, _)| *ours == name)
        .map(|(_, theirs)| *theirs)
}

/// Returns the names of a module's exports and imports (`module.name`), for tests of the built
/// module.
///
/// # Errors
/// [`Refusal::Unreadable`].
pub fn surface(wasm: &[u8]) -> Result<(BTreeSet<String>, BTreeSet<String>), Refusal> {
    let module = walrus::Module::from_buffer(wasm)
        .map_err(|error| Refusal::Unreadable(error.to_string()))?;
    let exports = module
        .exports
        .iter()
        .map(|export| export.name.clone())
        .collect();
    let imports = module
        .imports
        .iter()
        .map(|import| format!("{}.{}", import.module, import.name))
        .collect();
    Ok((exports, imports))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a module with all of EXPORTS, `import`, and one more callback that calls another
    /// import; `without` names an export to leave out.
    fn module(import: &str, without: &str) -> Vec<u8> {
        let functions: String = EXPORTS
            .iter()
            .chain(OURS.iter().map(|(ours, _)| ours))
            .filter(|name| **name != "memory" && **name != without)
            .map(|name| format!("(func (export \"{name}\"))"))
            .collect();
        let text = format!(
            "(module (import \"env\" \"proxy_log\" (func $log)) {import}
               (memory (export \"memory\") 1)
               {functions}
               (func $surplus (export \"proxy_on_response_body\") call $log))"
        );
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn removes_unneeded_exports_and_their_imports() {
        let trimmed = trim(&module("", "")).unwrap();
        let (exports, imports) = surface(&trimmed).unwrap();
        assert_eq!(
            exports,
            EXPORTS.iter().map(|name| (*name).to_owned()).collect()
        );
        assert_eq!(
            imports,
            BTreeSet::new(),
            "proxy_log was reached by the surplus callback only"
        );
    }

    #[test]
    fn names_missing_callback() {
        let refusal = trim(&module("", "proxy_on_tick")).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::MissingExports(vec!["proxy_on_tick".to_owned()])
        );
    }

    #[test]
    fn own_callbacks_replace_sdk_callbacks() {
        let marked = OURS
            .iter()
            .fold(module("", ""), |wasm, (ours, _)| marked(&wasm, ours));
        let trimmed = walrus::Module::from_buffer(&trim(&marked).unwrap()).unwrap();
        for (_, theirs) in OURS {
            let id = trimmed.exports.get_func(*theirs).unwrap();
            let walrus::FunctionKind::Local(function) = &trimmed.funcs.get(id).kind else {
                panic!("imported")
            };
            assert!(
                !function.block(function.entry_block()).instrs.is_empty(),
                "{theirs} is the SDK's"
            );
        }
        let lacking = trim(&module("", "meshseal_on_memory_allocate")).unwrap_err();
        assert_eq!(
            lacking,
            Refusal::MissingExports(vec!["meshseal_on_memory_allocate".to_owned()])
        );
    }

    /// Adds an instruction to the body of an exported function.
    fn marked(wasm: &[u8], export: &str) -> Vec<u8> {
        let mut module = walrus::Module::from_buffer(wasm).unwrap();
        let id = module.exports.get_func(export).unwrap();
        let walrus::FunctionKind::Local(function) = &mut module.funcs.get_mut(id).kind else {
            panic!("imported")
        };
        function.builder_mut().func_body().i32_const(1).drop();
        module.emit_wasm()
    }

    #[test]
    fn rejects_import_outside_abi() {
        let import = "(import \"wbg\" \"now\" (func $now)) (start $now)";
        assert_eq!(
            trim(&module(import, "")).unwrap_err(),
            Refusal::ForeignImports(vec!["wbg.now".to_owned()])
        );
    }

    #[test]
    fn rejects_input_without_module() {
        assert!(matches!(trim(b"\0asm"), Err(Refusal::Unreadable(_))));
    }

    #[test]
    fn lists_have_no_duplicates() {
        assert_eq!(EXPORTS.iter().collect::<BTreeSet<_>>().len(), EXPORTS.len());
        assert_eq!(IMPORTS.iter().collect::<BTreeSet<_>>().len(), IMPORTS.len());
    }
}
