//! The binary `meshseal`: see [`meshseal_issuer::cli`].

fn main() -> std::process::ExitCode {
    meshseal_issuer::cli::main()
}
