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

/// Connection limit of the administration and metrics listeners, which serve a few operators.
const ADMIN_CONNECTIONS: usize = 64;

/// Run the issuer.
///
/// Without --config, the issuer listens on 127.0.0.1:8080, for operators on 127.0.0.1:8081, and
/// keeps its state in ./meshseal.db. No clients are configured then: the issuer publishes keys but
/// issues no tokens. SIGTERM and SIGINT stop it after the requests in progress.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshseal serve
  meshseal serve --config issuer.yaml --log json

PostgreSQL needs a master key (MESHSEAL_MASTER_KEY or masterKey.file):
  openssl rand -base64 32   # run once, and keep the key

RUST_LOG=debug logs more.")]
pub(super) struct Serve {
    /// Configuration of the issuer (YAML); `meshseal config check` validates it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Format of log lines on standard error.
    #[arg(long, value_enum, default_value = "plain")]
    log: LogFormat,
    /// Trust the machine's clock, even if the database stores a later time or its server's clock
    /// differs.
    ///
    /// The issuer then issues tokens again. Compare the clock with a reliable source first.
    #[arg(long)]
    accept_clock: bool,
}

impl Serve {
    pub(super) async fn run(self) -> Outcome {
        init_logging(self.log);
        // Bind all listeners first, so that a taken port is reported before the database opens.
        let mut config = load(self.config)?;
        let listener = listen(&mut config).await?;
        let address = listener.local_addr().map_err(Failure::new)?;
        let admin_listener = bind(&config.admin_listen, "admin.listen").await?;
        let admin_address = admin_listener.local_addr().map_err(Failure::new)?;
        let metrics_listener = match &config.metrics_listen {
            Some(address) => Some(bind(address, "metrics.listen").await?),
            None => None,
        };
        // Install signal handlers and limits, then open the database.
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
        tracing::info!(
            issuer = issuer.config.issuer,
            database = %issuer.config.database,
            clients = issuer.registry.len(),
            "ready"
        );
        print(&format!("listening on http://{address}"));
        print(&format!("administration on http://{admin_address}"));
        // Serve on all listeners until a signal arrives.
        let tasks = background::spawn(&issuer);
        let clients = http::serve(listener, app(issuer.clone()), places, async {
            ending.await;
            tracing::info!("shutting down");
            // Answer waiting polls now, and stop the other listeners.
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
        tokio::join!(clients, operators, metrics);
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

/// Reads the configuration; without a path, returns the default settings.
pub(super) fn load(path: Option<PathBuf>) -> Result<Config, Failure> {
    let Some(path) = path else {
        return Ok(Config::default_settings());
    };
    from_file(&path).map_err(|error| Failure::usage(format!("{}:\n{error}", path.display())))
}

/// Binds `listen`, and completes the default issuer identifier.
async fn listen(config: &mut Config) -> Result<TcpListener, Failure> {
    let listener = bind(&config.listen, "listen").await?;
    // Without `issuer`, the identifier is the listening address. With port 0, the system has only
    // now chosen the port.
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
