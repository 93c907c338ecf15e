//! The command line: `meshseal serve` and the operator's verbs. Each verb has its own file.

mod assertion;
mod client_secret;
mod config_check;
mod documents;
mod incident;
mod key_file;
mod keys_list;
mod keys_pins;
mod keys_revoke;
mod keys_rotate;
mod migrate;
mod proxies_forget;
mod proxies_list;
mod remote;
mod revoke;
mod serve;
mod table;
mod token_inspect;
mod token_mint;
mod token_verify;
mod tokens_in;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Issues short-lived service tokens and pushes keys and revocations to every proxy.
#[derive(Debug, Parser)]
#[command(
    name = "meshseal",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::Serve),
    Migrate(migrate::Migrate),
    /// Tokens: verify, mint, inspect.
    #[command(subcommand)]
    Token(TokenVerb),
    /// Signing keys: list, rotate, revoke, pins.
    #[command(subcommand)]
    Keys(KeysVerb),
    Revoke(revoke::Revoke),
    /// Proxy workers: list, forget.
    #[command(subcommand)]
    Proxies(ProxiesVerb),
    /// Configuration: check.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Clients: create secrets.
    #[command(subcommand)]
    Client(ClientVerb),
    /// Lost or forged state: show, declare, end, repair.
    #[command(subcommand)]
    Incident(incident::IncidentVerb),
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    Verify(token_verify::Verify),
    Mint(token_mint::Mint),
    Inspect(token_inspect::Inspect),
}

#[derive(Debug, Subcommand)]
enum KeysVerb {
    List(keys_list::List),
    Rotate(keys_rotate::Rotate),
    Revoke(keys_revoke::Revoke),
    Pins(keys_pins::Pins),
}

#[derive(Debug, Subcommand)]
enum ProxiesVerb {
    List(proxies_list::List),
    Forget(proxies_forget::Forget),
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    Check(config_check::Check),
}

#[derive(Debug, Subcommand)]
enum ClientVerb {
    Secret(client_secret::Secret),
}

/// Error of a verb: its message and exit status.
#[derive(Debug)]
struct Failure {
    message: String,
    exit: u8,
}

impl Failure {
    /// Creates the error for an operation that failed (exit status 1).
    fn new(message: impl std::fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            exit: 1,
        }
    }

    /// Creates the error for wrong usage (exit status 2).
    fn usage(message: impl std::fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            exit: 2,
        }
    }
}

/// Result of a verb: the exit status or the error.
type Outcome = Result<ExitCode, Failure>;

/// Parses the arguments and runs the verb.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(cli.verb)),
        Err(error) => Err(Failure::new(format!("cannot start threads: {error}"))),
    };
    // Report an error on standard error, and use its exit status.
    outcome.unwrap_or_else(|Failure { message, exit }| {
        note(&format!("error: {message}"));
        ExitCode::from(exit)
    })
}

async fn run(verb: Verb) -> Outcome {
    match verb {
        Verb::Serve(serve) => serve.run().await,
        Verb::Migrate(migrate) => migrate.run().await,
        Verb::Token(TokenVerb::Verify(verify)) => verify.run(),
        Verb::Token(TokenVerb::Mint(mint)) => mint.run(),
        Verb::Token(TokenVerb::Inspect(inspect)) => inspect.run(),
        Verb::Keys(KeysVerb::List(list)) => list.run(),
        Verb::Keys(KeysVerb::Rotate(rotate)) => rotate.run().await,
        Verb::Keys(KeysVerb::Revoke(revoke)) => revoke.run(),
        Verb::Keys(KeysVerb::Pins(pins)) => pins.run().await,
        Verb::Revoke(revoke) => revoke.run(),
        Verb::Proxies(ProxiesVerb::List(list)) => list.run(),
        Verb::Proxies(ProxiesVerb::Forget(forget)) => forget.run(),
        Verb::Config(ConfigVerb::Check(check)) => Ok(check.run()),
        Verb::Client(ClientVerb::Secret(secret)) => secret.run(),
        Verb::Incident(verb) => verb.run().await,
    }
}

/// Prints a line of the result to standard output. Ignores a closed pipe.
fn print(line: &str) {
    let _gone = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a line for the operator to standard error.
fn note(line: &str) {
    let _gone = writeln!(std::io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn key_id_may_look_like_flag() {
        for kid in ["-hVkW", "-VkW", "--kW", "_-kW"] {
            for arguments in [
                ["meshseal", "keys", "revoke", kid, "--client-id", "x"],
                ["meshseal", "keys", "revoke", "--client-id", "x", kid],
            ] {
                let parsed = Cli::try_parse_from(arguments);
                assert!(
                    matches!(
                        &parsed,
                        Ok(Cli {
                            verb: Verb::Keys(KeysVerb::Revoke(_))
                        })
                    ),
                    "{arguments:?}: {parsed:?}"
                );
            }
        }
    }
}
