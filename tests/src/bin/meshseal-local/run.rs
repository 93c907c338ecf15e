//! `run`: starts all parts, prints how to use them and stops them on Ctrl-C.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use meshseal_tests::issuer::{CLIENT, state_folder};
use meshseal_tests::stack::{Ports, Stack};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;

use crate::say::{progress, say};

/// Lifetime of tokens: the default of the issuer.
const LIFETIME_S: u64 = 300;

pub(crate) async fn run() -> Result<ExitCode> {
    let ports = Ports::from_environment()?;
    let folder = state_folder("run");
    let mut stack = tokio::select! {
        stack = Stack::start(&folder, ports, LIFETIME_S, progress) => stack?,
        () = stop_asked() => return Ok(ExitCode::SUCCESS),
    };
    say(&how_to(&stack));
    let ended = tokio::select! {
        error = failure(&mut stack) => Some(error),
        () = stop_asked() => None,
    };
    progress("stopping");
    stack.stop().await;
    ended.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Waits for Ctrl-C or SIGTERM.
async fn stop_asked() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Waits until a part ends unexpectedly and returns its error.
async fn failure(stack: &mut Stack) -> anyhow::Error {
    let mut looks = interval(Duration::from_millis(200));
    loop {
        looks.tick().await;
        if let Err(error) = stack
            .envoy
            .check_alive()
            .and_then(|()| stack.issuer.check_alive())
        {
            return error;
        }
    }
}

fn how_to(stack: &Stack) -> String {
    let issuer = stack.issuer.url();
    let edge = format!("http://127.0.0.1:{}", stack.ports.edge);
    let login = format!("{CLIENT}:{}", stack.issuer.secret());
    format!(
        "\n\
         edge     {edge}            issuer  {issuer}/.well-known/openid-configuration\n\
         sidecar  http://127.0.0.1:{sidecar}            service http://127.0.0.1:{service}\n\
         Envoy    http://127.0.0.1:{admin}/stats?filter=meshseal\n\
         \n\
         Try:\n\
         \n\
         1. a token\n\
         \x20  TOKEN=$(curl -s -u {login} -d grant_type=client_credentials -d audience=orders \
         {issuer}/token | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')\n\
         2. a request with the token: the service sees the caller, but not the token\n\
         \x20  curl -s -H \"Authorization: Bearer $TOKEN\" {edge}/orders/1\n\
         3. a request without a token\n\
         \x20  curl -si {edge}/orders/1\n\
         4. revoke the token, with a receipt that counts every worker; then repeat 2\n\
         \x20  curl -s -u {login} -d token=$TOKEN -d wait=5 {issuer}/revoke\n\
         \n\
         Ctrl-C stops everything.",
        sidecar = stack.ports.sidecar,
        service = stack.ports.service,
        admin = stack.ports.admin,
    )
}
