//! Binary `meshseal`; see [`meshseal_issuer::cli`].

/// Allocator with which the issuer mints an eighth more tokens than with that of glibc, both for
/// clients with secrets and per core.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    meshseal_issuer::cli::main()
}
