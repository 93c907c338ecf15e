//! `meshseal serve`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::{Failure, Outcome, print};
use crate::clock::SystemClock;
use crate::config::{Config, from_file};
use crate::issuer::Issuer;
use crate::telemetry::{LogFormat, init_logging};
use crate::{admin_app, app, background, http, metrics_app};

/// Connections of operators: a few people and their scripts.
const ADMIN_CONNECTIONS: usize = 64;

/// Run the issuer.
///
/// Without --config it listens on 127.0.0.1:8080, for operators on 127.0.0.1:8081, and keeps its
/// state in ./meshseal.db; there are no clients, so it publishes keys but gives nobody a token.
/// SIGTERM and SIGINT end it: answers under way are finished first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshseal serve
  meshseal serve --config issuer.yaml --log json
  MESHSEAL_MASTER_KEY=$(openssl rand -base64 32) meshseal serve --config issuer.yaml   # needed with PostgreSQL

RUST_LOG=debug shows more.")]
pub(super) struct Serve {
    /// The issuer's YAML; `meshseal config check` tells whether it is right.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines on standard error look.
    #[arg(long, value_enum, default_value = "plain")]
    log: LogFormat,
    /// Trust the machine's clock, although the database remembers a later time or its server
    /// disagrees.
    ///
    /// Ends the refusal to issue tokens after the clock was wrong for long. Compare with a reliable
    /// source first.
    #[arg(long)]
    accept_clock: bool,
}

impl Serve {
    pub(super) async fn run(self) -> Outcome {
        init_logging(self.log);
        let mut config = load(self.config)?;
        let listener = listen(&mut config).await?;
        let address = listener.local_addr().map_err(Failure::new)?;
        let admin_listener = bind(&config.admin_listen, "admin.listen").await?;
        let admin_address = admin_listener.local_addr().map_err(Failure::new)?;
        let metrics_listener = match &config.metrics_listen {
            Some(address) => Some(bind(address, "metrics.listen").await?),
            None => None,
        };
        let ending = ending()?;
        let descriptors = http::raise_descriptor_limit();
        let connections = http::affordable_connections(config.limits.connections, descriptors);
        let places = http::Places::new(connections, config.limits.connections_per_address);
        let clock = if self.accept_clock {
            SystemClock::accepted()
        } else {
            SystemClock::new()
        };
        let issuer = Arc::new(
            Issuer::open(config, Arc::new(clock))
                .await
                .map_err(Failure::new)?,
        );
        tracing::info!(issuer = issuer.config.issuer, database = %issuer.config.database, clients = issuer.registry.len(), "ready");
        print(&format!("listening on http://{address}"));
        print(&format!("administration on http://{admin_address}"));
        let tasks = background::spawn(&issuer);
        let everybody = http::serve(listener, app(issuer.clone()), places, async {
            ending.await;
            tracing::info!("ending");
            // Whoever waits in a long-poll is answered now.
            issuer.ending.cancel();
        });
        let metrics = serve_metrics(&issuer, metrics_listener);
        let places = http::Places::new(ADMIN_CONNECTIONS, 0);
        let operators = http::serve(
            admin_listener,
            admin_app(issuer.clone()),
            places,
            issuer.ending.cancelled(),
        );
        tokio::join!(everybody, operators, metrics);
        tasks.join_all().await;
        Ok(ExitCode::SUCCESS)
    }
}

async fn serve_metrics(issuer: &Arc<Issuer>, listener: Option<TcpListener>) {
    if let Some(listener) = listener {
        let places = http::Places::new(ADMIN_CONNECTIONS, 0);
        http::serve(
            listener,
            metrics_app(issuer.clone()),
            places,
            issuer.ending.cancelled(),
        )
        .await;
    }
}

pub(super) fn load(path: Option<PathBuf>) -> Result<Config, Failure> {
    let Some(path) = path else {
        return Ok(Config::default_settings());
    };
    from_file(&path).map_err(|error| Failure::usage(format!("{}:\n{error}", path.display())))
}

async fn listen(config: &mut Config) -> Result<TcpListener, Failure> {
    let listener = bind(&config.listen, "listen").await?;
    // An issuer that was not named is where it listens; with port 0 that is known only now.
    if config.issuer == format!("http://{}", config.listen)
        && let Ok(address) = listener.local_addr()
    {
        config.issuer = format!("http://{address}");
    }
    Ok(listener)
}

async fn bind(address: &str, setting: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let remedy = format!("stop what listens there, or set `{setting}` to another HOST:PORT");
        Failure::new(format!("cannot listen on {address}: {error}; {remedy}"))
    })
}

/// Resolves at the first SIGTERM or SIGINT.
fn ending() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
