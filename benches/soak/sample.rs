//! What the router has, at one moment.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    net::SocketAddr,
    path::Path,
    time::Instant,
};

use anyhow::Context as _;

use crate::{clients::Tally, wire};

/// Descriptors and tasks that may come and go by themselves: probes and who looks at the metrics.
const MARGIN: u64 = 8;

/// What the router has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) rss_kb: u64,
    pub(crate) descriptors: u64,
    pub(crate) tasks: u64,
    pub(crate) in_flight: u64,
    pub(crate) queued_prefill: u64,
    pub(crate) waiting: u64,
    pub(crate) requests: u64,
}

impl Sample {
    /// What is reserved or waits; nothing when nobody asks.
    pub(crate) const fn reserved(&self) -> u64 {
        self.in_flight + self.queued_prefill + self.waiting
    }

    /// Whether nothing is left of what was begun since `start`.
    pub(crate) const fn is_idle_as(&self, start: &Self) -> bool {
        self.reserved() == 0
            && self.descriptors <= start.descriptors + MARGIN
            && self.tasks <= start.tasks + MARGIN
    }
}

/// Takes samples and writes them down.
pub(crate) struct Sampler {
    process: u32,
    admin: SocketAddr,
    began: Instant,
    table: BufWriter<File>,
}

impl Sampler {
    pub(crate) fn new(process: u32, admin: SocketAddr, out: &Path) -> anyhow::Result<Self> {
        let file = File::create(out).with_context(|| format!("cannot write {}", out.display()))?;
        let mut table = BufWriter::new(file);
        writeln!(
            table,
            "seconds\trss_kb\tdescriptors\ttasks\tin_flight\tqueued_prefill_tokens\twaiting\trequests\twhole\tttft_p50_ms\tttft_p99_ms"
        )?;
        Ok(Self { process, admin, began: Instant::now(), table })
    }

    pub(crate) async fn take(&mut self, tally: &Tally) -> anyhow::Result<Sample> {
        let metrics = wire::ask(self.admin, "GET", "/metrics", "").await;
        let metrics = metrics.context("the router's metrics cannot be read")?;
        let of = |name: &str| sum(&metrics, name);
        let sample = Sample {
            rss_kb: self.rss_kb()?,
            descriptors: self.descriptors()?,
            tasks: of("sluice_tasks"),
            in_flight: of("sluice_requests_in_flight"),
            queued_prefill: of("sluice_queued_prefill_tokens"),
            waiting: of("sluice_requests_waiting"),
            requests: of("sluice_requests_total"),
        };
        let Sample { rss_kb, descriptors, tasks, in_flight, queued_prefill, waiting, requests } =
            sample;
        let (p50, p99) = tally.first_tokens_ms();
        writeln!(
            self.table,
            "{:.1}\t{rss_kb}\t{descriptors}\t{tasks}\t{in_flight}\t{queued_prefill}\t{waiting}\t{requests}\t{}\t{p50}\t{p99}",
            self.began.elapsed().as_secs_f64(),
            tally.whole()
        )?;
        self.table.flush()?;
        Ok(sample)
    }

    fn descriptors(&self) -> anyhow::Result<u64> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.process))?.count();
        Ok(u64::try_from(open)?)
    }

    fn rss_kb(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
        let kb = line.and_then(|it| it.trim().split(' ').next()?.parse().ok());
        kb.context("the system does not say how much memory the router has")
    }
}

/// The sum of all samples of the metric `name`, which counts.
fn sum(metrics: &str, name: &str) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_it = rest.starts_with('{') || rest.starts_with(' ');
        is_it.then(|| rest.rsplit(' ').next()?.split('.').next()?.parse::<u64>().ok()).flatten()
    });
    values.sum()
}
