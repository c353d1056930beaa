//! A soak (D8): a router for a long time among replicas that fail and clients that misbehave, then a verdict.
//!
//! `cargo build --release -p sluice -p benches && target/release/soak --minutes 20 --out FILE.tsv`
//!
//! The router is a process of its own; replicas and clients are in this one. Half as many clients ask as the
//! replicas' batches have places. While they do, replicas fail in every way that is known and recover, and the
//! configuration is reloaded, replicas that leave and come back included. Memory, descriptors, tasks and what is
//! reserved are sampled all along and written as a table. Exits with 1 when a bound is broken.
//!
//! That the verdict can fail is shown by `--hoard 20`, which opens as many connections a second and keeps them, and by
//! `--judge-under-load`, which takes the last sample while everyone still asks.

#![expect(clippy::print_stdout, reason = "the result is for people to read")]

mod clients;
mod config;
mod misfortune;
mod sample;
mod verdict;
mod wire;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Parser;
use emulator::{EmulatorConfig, Handle, Options};
use tokio::{sync::watch, task::JoinSet};

use crate::{clients::Tally, sample::Sampler};

/// Replicas, and the sequences that the batch of each has room for.
const REPLICAS: usize = 6;
const PLACES: u32 = 16;

/// Longest time for the router to take its first requests, and to be idle once nobody asks any more.
const START_MAX: Duration = Duration::from_secs(20);
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Runs a router among failing replicas and misbehaving clients, and judges what it has kept.
#[derive(Debug, Parser)]
struct Args {
    /// How long clients ask.
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// Where the table of samples goes.
    #[arg(long, default_value = "soak.tsv")]
    out: PathBuf,
    /// The router.
    #[arg(long, default_value = "target/release/sluice")]
    router: PathBuf,
    /// Connections a second that are opened and kept, to show that the verdict can fail.
    #[arg(long, default_value_t = 0)]
    hoard: u32,
    /// Takes the last sample while clients still ask, to show the same.
    #[arg(long)]
    judge_under_load: bool,
}

fn main() -> ExitCode {
    let judged = tokio::runtime::Runtime::new()
        .context("cannot start the threads")
        .and_then(|it| it.block_on(soak(Args::parse())));
    match judged {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A router that is killed when nobody wants it any more.
struct Router {
    child: Child,
    data: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Router {
    fn start(program: &Path, config: &Path) -> anyhow::Result<Self> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let (data, admin) = (free()?, free()?);
        let mut command = Command::new(program);
        command.args(["--log-format", "json", "serve", "-c"]).arg(config);
        command.args(["--listen", &data.to_string(), "--admin-listen", &admin.to_string()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, data, admin })
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < START_MAX {
            let answer = wire::ask(self.admin, "GET", "/admin/replicas", "").await;
            let ready =
                answer.is_ok_and(|it| it.matches("\"health\":\"ready\"").count() == REPLICAS);
            if ready {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the router is not ready after {START_MAX:?}")
    }
}

async fn replicas() -> anyhow::Result<Vec<Handle>> {
    let options = Options { max_num_seqs: Some(PLACES), ..Options::default() };
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        let config: EmulatorConfig = options.replica()?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        replicas.push(emulator::spawn(config, listener)?);
    }
    Ok(replicas)
}

async fn soak(args: Args) -> anyhow::Result<bool> {
    let replicas = replicas().await?;
    let folder = std::env::temp_dir().join(format!("sluice-soak-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let config = config::Config::new(folder.join("router.yaml"), &replicas)?;
    let router = Router::start(&args.router, config.file())?;
    router.ready().await?;

    let asked = Duration::from_secs_f64(60.0 * args.minutes);
    let tally = Arc::new(Tally::default());
    let mut sampler = Sampler::new(router.child.id(), router.admin, &args.out)?;
    // One request to each end of everything, so that what is made once is made before the first sample.
    clients::once(router.data).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let start = sampler.take(&tally).await?;
    println!("{} replicas of {PLACES} places, {} clients", REPLICAS, clients::count());

    let (stop, stopped) = watch::channel(false);
    let mut asking = JoinSet::new();
    clients::spawn_all(&mut asking, router.data, &tally, &stopped);
    clients::spawn_hoard(router.data, args.hoard, &stopped);
    let failing = tokio::spawn(misfortune::befall(replicas, stopped.clone()));
    let reloading = tokio::spawn(config.keep_changing(router.admin, stopped));
    let every = (asked / 240).clamp(Duration::from_secs(1), Duration::from_secs(5));
    let until = Instant::now() + asked;
    let mut samples = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(every).await;
        samples.push(sampler.take(&tally).await?);
    }
    if args.judge_under_load {
        let last = sampler.take(&tally).await?;
        return Ok(verdict::judge(&start, &samples, &last, &tally));
    }
    stop.send(true)?;
    while asking.join_next().await.is_some() {}
    let replicas = failing.await??;
    let reloads = reloading.await??;
    let mut last = sampler.take(&tally).await?;
    let idle = Instant::now();
    while idle.elapsed() < IDLE_MAX && !last.is_idle_as(&start) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        last = sampler.take(&tally).await?;
    }
    println!("idle {} s after the last client; {reloads} reloads", idle.elapsed().as_secs());
    let left: usize = replicas.iter().map(|it| it.stats().in_flight).sum();
    println!("answers that replicas still compute: {left}");
    let _ = fs::remove_dir_all(&folder);
    Ok(verdict::judge(&start, &samples, &last, &tally) && left == 0)
}
