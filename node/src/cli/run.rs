//! `pikoscope run`: two threads. The gossip thread owns the packet path; this one serves everything else and
//! waits for signals.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use super::{Failure, Run};
use crate::config::{Config, Host, LogLevel, Settings};
use crate::control::{self, socket::ControlSocket};
use crate::http;
use crate::metrics::Metrics;
use crate::net::{self, NetError};

/// How long the gossip thread may take to end: it drains its ring and writes its report.
const FAREWELL: Duration = Duration::from_secs(10);

pub(super) fn run(run: Run) -> Result<(), Failure> {
    probe_user::memory::return_large();
    let file = run.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
    let config = run.settings.or(file).validate(&Host::here())?;
    log_to_stderr(config.log);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Ports and files first: what can't be had must be known before anything gossips.
    let (listener, _removed_at_exit) = ControlSocket::bind(&config.control)?.into_parts();
    let metrics_listener = http::bind(config.metrics_bind)?;
    let metrics = Arc::new(Metrics::new()?);
    let (requests, inbox) = control::channel()?;
    let stop = requests.clone();

    let result = runtime.block_on(async move {
        let mut signals = Signals::new()?;
        let metrics_listener = TcpListener::from_std(metrics_listener)?;
        tracing::info!("metrics on http://{}/metrics", metrics_listener.local_addr()?);
        tracing::info!("control socket {}", config.control.display());
        tokio::spawn(http::serve(metrics_listener, Arc::clone(&metrics)));
        tokio::spawn(control::server::serve(UnixListener::from_std(listener)?, requests));

        let helper = Handle::current();
        let mut ended = gossip(config, move |config, ready| {
            net::run(config, metrics, inbox, helper, ready)
        })?;
        let result = tokio::select! {
            result = &mut ended => return outcome(result),
            name = signals.next() => {
                tracing::info!("{name}: shutting down");
                stop.stop();
                tokio::select! {
                    result = tokio::time::timeout(FAREWELL, ended) => result,
                    name = signals.next() => return Err(format!("{name} again: ended without waiting for the gossip thread").into()),
                }
            }
        };
        result.map_or_else(
            |_| Err(format!("the gossip thread did not end within {} s", FAREWELL.as_secs()).into()),
            outcome,
        )
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    result
}

type Ended = oneshot::Receiver<Result<(), NetError>>;

/// Starts the gossip thread; its result comes through the channel.
fn gossip(
    config: Config,
    run: impl FnOnce(Config, fn(std::net::SocketAddr)) -> Result<(), NetError> + Send + 'static,
) -> Result<Ended, Failure> {
    let (tell, ended) = oneshot::channel();
    std::thread::Builder::new().name("pikoscope-net".into()).spawn(move || {
        let ready = |bound| tracing::info!("gossiping on {bound}");
        // Nobody listens any more after a second signal.
        let _ = tell.send(run(config, ready));
    })?;
    Ok(ended)
}

fn outcome(result: Result<Result<(), NetError>, oneshot::error::RecvError>) -> Result<(), Failure> {
    match result {
        Ok(result) => Ok(result?),
        // Its panic has been reported by the panic hook.
        Err(_) => Err("the gossip thread ended unexpectedly: this is a bug".into()),
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Our own records at `level`, others' from warnings on.
fn log_to_stderr(level: LogLevel) {
    let filter = EnvFilter::new(format!("warn,pikoscope={level},probe_user={level}"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // Fails when there is a subscriber already, as in tests: then that one it is.
    let _ = log.try_init();
}
