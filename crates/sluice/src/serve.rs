//! `sluice serve`: the router.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use policy::config::StrategyName;
use router::{
    config::{self, Config, ConfigError, Draft},
    reload::Source,
    serve::Router,
};

use crate::{limits, shutdown, typed};

/// Routes requests to replicas that speak the OpenAI API.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice serve --replica http://10.0.0.11:8000 --replica http://10.0.0.12:8000
  sluice serve -c config/router.yaml")]
pub(crate) struct Serve {
    /// The configuration; optional when replicas are given.
    #[arg(short, long, value_name = "FILE", env = "SLUICE_CONFIG")]
    config: Option<PathBuf>,
    /// A replica, in addition to those of the configuration; may be repeated.
    #[arg(long, value_name = "URL")]
    replica: Vec<String>,
    /// The strategy: least-latency, round-robin, random, least-request, power-of-two,
    /// consistent-hash, sticky, prefix-aware or kv-aware.
    #[arg(long, value_name = "NAME")]
    policy: Option<StrategyName>,
    /// Address of the data port.
    #[arg(long, value_name = "IP:PORT", env = "SLUICE_LISTEN", value_parser = typed::address)]
    listen: Option<SocketAddr>,
    /// Address of the admin port.
    #[arg(long, value_name = "IP:PORT", env = "SLUICE_ADMIN_LISTEN", value_parser = typed::address)]
    admin_listen: Option<SocketAddr>,
    /// Threads that serve; one for each core when absent.
    #[arg(long, value_name = "N", value_parser = typed::threads)]
    worker_threads: Option<std::num::NonZeroUsize>,
    /// Records every decision in a file of its own in this folder, for `sluice simulate --recording`.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

pub(crate) fn run(serve: Serve) -> anyhow::Result<()> {
    let serve = Arc::new(serve);
    // Before the file is read, so that no change of it is missed.
    let source = serve.config.clone().map(|file| {
        let serve = Arc::clone(&serve);
        Source::new(file, move || configuration(&serve, limits::clients_max()))
    });
    limits::raise();
    let asked = configuration(&serve, usize::MAX)?.limits.connections_max;
    let config = configuration(&serve, limits::clients_max())?;
    let fits = config.limits.connections_max;
    if fits < asked {
        tracing::warn!(
            asked,
            fits,
            "the limit on open files has no room for limits.connections_max"
        );
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.worker_threads {
        runtime.worker_threads(threads.get());
    }
    let runtime = runtime.enable_all().build().context("cannot start the threads that serve")?;
    runtime.block_on(async {
        let mut router = Router::open(config).await?;
        if let Some(source) = source {
            router = router.reloading(source);
        }
        tracing::info!(listen = %router.data()?, admin = %router.admin()?, "serving");
        router.run_reloading(shutdown::requested(), shutdown::hang_up).await;
        tracing::info!("ended");
        Ok(())
    })
}

/// The configuration file with what was typed laid over it, and no more than `clients_max` connections.
fn configuration(serve: &Serve, clients_max: usize) -> Result<Config, ConfigError> {
    let mut draft = match &serve.config {
        Some(path) => config::read(path)?,
        None => Draft::default(),
    };
    let config = &mut draft.config;
    config.replicas.extend(serve.replica.iter().cloned().map(config::Replica::at));
    config.policy.strategy = serve.policy.unwrap_or(config.policy.strategy);
    config.listen = serve.listen.unwrap_or(config.listen);
    config.admin.listen = serve.admin_listen.unwrap_or(config.admin.listen);
    config.limits.connections_max = config.limits.connections_max.min(clients_max);
    config.worker_threads = serve.worker_threads.or(config.worker_threads);
    let recording = serve.record.clone().map(config::Recording::into_directory);
    config.recording = recording.or(config.recording.take());
    let file = serve.config.as_ref();
    let typed = || "from the command line".to_owned();
    draft.checked(&file.map_or_else(typed, |it| it.display().to_string()))
}
