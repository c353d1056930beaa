//! A fleet of emulated replicas with a router before it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use emulator::{EmulatorConfig, Handle};
use policy::{admission::AdmissionMode, config::StrategyName};
use router::{
    config::{Admin, Config, Drain, Replica},
    serve::Router,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use types::quantity::Tokens;

/// Replicas of the fleet.
pub(super) const REPLICAS: usize = 8;

/// The model they serve, and the profile they run.
pub(super) const MODEL: &str = "llama-3-8b-h100";

/// Longest wait for the replicas to be ready.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A fleet with a router before it, serving.
pub(super) struct Stage {
    replicas: Vec<Handle>,
    data: SocketAddr,
    admin: SocketAddr,
    stop: CancellationToken,
    router: JoinHandle<()>,
}

/// A port that is held for later.
pub(super) struct Reserved(TcpListener);

/// Takes `port` on loopback; 0 takes a free one.
pub(super) async fn reserve(port: u16) -> anyhow::Result<Reserved> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let cure = || format!("cannot listen on port {port}; pass another one with --port, or 0");
    Ok(Reserved(listener.with_context(cure)?))
}

/// Tokens that a replica's KV cache holds unless told otherwise.
pub(super) fn kv_tokens() -> Tokens {
    engine_profile(None).map_or(Tokens::ZERO, |it| it.profile.kv_tokens)
}

fn engine_profile(kv_tokens: Option<Tokens>) -> anyhow::Result<EmulatorConfig> {
    let options = emulator::Options { profile: MODEL.to_owned(), ..emulator::Options::default() };
    let mut config = options.replica()?;
    config.profile.kv_tokens = kv_tokens.unwrap_or(config.profile.kv_tokens);
    Ok(config)
}

impl Stage {
    /// Opens a fleet whose router listens on a free port.
    pub(super) async fn open(
        policy: StrategyName,
        kv_tokens: Option<Tokens>,
    ) -> anyhow::Result<Self> {
        let port = reserve(0).await?;
        Self::open_on(policy, kv_tokens, port).await
    }

    /// Opens a fleet whose router listens on `port`, and waits until all replicas are ready.
    pub(super) async fn open_on(
        policy: StrategyName,
        kv_tokens: Option<Tokens>,
        Reserved(port): Reserved,
    ) -> anyhow::Result<Self> {
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            replicas.push(emulator::spawn(engine_profile(kv_tokens)?, listener)?);
        }
        let named = |(at, it): (usize, &Handle)| Replica {
            name: Some(format!("replica-{at}")),
            ..Replica::at(it.url())
        };
        let mut config = Config {
            listen: port.local_addr()?,
            admin: Admin { listen: (Ipv4Addr::LOCALHOST, 0).into(), ..Admin::default() },
            replicas: replicas.iter().enumerate().map(named).collect(),
            drain: Drain { lame_duck: Duration::ZERO, timeout: Duration::from_secs(5) },
            ..Config::default()
        };
        config.policy.strategy = policy;
        // Policies are compared by what becomes of everything that is sent.
        config.admission.mode = AdmissionMode::Off;
        let router = Router::open_on(config, port).await?;
        if tokio::time::timeout(READY_WITHIN, router.all_ready()).await.is_err() {
            bail!("the emulated replicas were not ready within {READY_WITHIN:?}");
        }
        let (data, admin) = (router.data()?, router.admin()?);
        let stop = CancellationToken::new();
        let router = tokio::spawn(router.run(stop.clone().cancelled_owned()));
        Ok(Self { replicas, data, admin, stop, router })
    }

    /// Base URL of the router.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.data)
    }

    /// Address of the router's admin port.
    pub(super) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Ends the router and then the replicas.
    pub(super) async fn close(self) {
        self.stop.cancel();
        // A panic in the task was reported when it happened.
        let _ = self.router.await;
        for replica in self.replicas {
            replica.shutdown().await;
        }
    }
}
