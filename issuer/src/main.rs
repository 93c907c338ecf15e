//! The binary `meshseal`: see [`meshseal_issuer::cli`].

/// An eighth more tokens for a secret, and for each core, than with the allocator of glibc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    meshseal_issuer::cli::main()
}
