//! Goodput as the router sees it, for `GET /admin/goodput`, and what changes it from outside: quality
//! labels and disruptions.
//!
//! Figures are the router's own: latencies count from a request's head, and a client that measures adds
//! the way to the router. What a request was promised is what it carried or its configuration says.

use std::time::Duration;

use parking_lot::Mutex;
use report::{
    Ending, RequestRecord, Terms,
    cost::Prices,
    judged::Label,
    record::Gaps,
    rolling::{Figures, KeyOf, Rolling, View},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use types::{quantity::Tokens, request::TenantId, slo::Slo, time::Timestamp};

/// How long a window stays open that nobody closes.
const LASTS: Duration = Duration::from_secs(300);

/// Longest time that a window may be opened for.
const LASTS_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Longest name of a disruption.
const KIND_BYTES_MAX: usize = 64;

/// Goodput since the router started.
#[derive(Debug)]
pub(crate) struct Goodput {
    started: Instant,
    rolling: Mutex<Rolling>,
}

/// A request that has left.
#[derive(Debug)]
pub(crate) struct Left<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) model: &'a str,
    pub(crate) slo_class: &'a str,
    pub(crate) tenant: TenantId,
    pub(crate) slo: Slo,
    pub(crate) received: Instant,
    pub(crate) ttft: Option<Duration>,
    /// The longest gap of its answer, and the shortest.
    pub(crate) gaps: Option<(Duration, Duration)>,
    pub(crate) ending: Ending,
    pub(crate) attempts: u32,
    pub(crate) prompt: Tokens,
    pub(crate) output: Option<Tokens>,
    pub(crate) cached: Option<Tokens>,
}

/// What the body of `POST /admin/events` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    /// What happens: `deployment`, `scale-out`, `salt-rotation` …
    kind: String,
    /// How long its window stays open; it may be closed sooner.
    #[serde(default)]
    lasts_s: Option<f64>,
    /// Closes the window instead.
    #[serde(default)]
    end: bool,
}

/// What became of a label.
#[derive(Debug, Serialize)]
pub(crate) struct Joined {
    /// Whether its request is still remembered.
    pub(crate) joined: bool,
}

impl Goodput {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), rolling: Mutex::default() }
    }

    fn at(&self, instant: Instant) -> Timestamp {
        Timestamp::from_elapsed(instant.duration_since(self.started))
    }

    /// Counts a request that has left `now`; returns whether it was good.
    pub(crate) fn left(&self, now: Instant, left: &Left<'_>, prices: Option<&Prices>) -> bool {
        let (scheduled, ended) = (self.at(left.received), self.at(now));
        let mut record = RequestRecord {
            request_id: left.request_id.to_owned(),
            scheduled,
            sent: Some(scheduled),
            first_token: left.ttft.map(|it| scheduled + it),
            last_token: Some(ended),
            ended,
            input_tokens: left.prompt,
            output_tokens: left.output.unwrap_or_default(),
            cached_tokens: left.cached,
            itl: left.gaps.map(gaps),
            attempts: Some(left.attempts),
            ending: left.ending,
            ..RequestRecord::default()
        };
        record.slo = Terms { slo: left.slo, retries_max: None }.judge(&record);
        let tenant = shown(left.tenant);
        let key = KeyOf { model: left.model, slo_class: left.slo_class, tenant: &tenant };
        self.rolling.lock().count(ended, key, &record, prices);
        record.slo.good
    }

    /// Joins a label to its request, if that was `tenant`'s. One without a verdict, a mere grade, changes no figure here.
    pub(crate) fn label(&self, tenant: TenantId, label: &Label) -> Joined {
        tracing::info!(
            request_id = label.request_id,
            accepted = label.accepted,
            quality = label.quality,
            "feedback"
        );
        let (tenant, mut rolling) = (shown(tenant), self.rolling.lock());
        let joined = match label.accepted {
            Some(accepted) => rolling.label(&tenant, &label.request_id, accepted),
            None => rolling.remembers(&tenant, &label.request_id),
        };
        Joined { joined }
    }

    /// Opens a disruption window, or closes it.
    ///
    /// # Errors
    /// What is wrong with the event.
    pub(crate) fn event(&self, event: &Event) -> Result<(), String> {
        let kind = event.kind.trim();
        let is_name =
            !kind.is_empty() && kind.len() <= KIND_BYTES_MAX && !kind.chars().any(char::is_control);
        if !is_name {
            return Err(format!("kind: needs a name of 1 to {KIND_BYTES_MAX} bytes"));
        }
        let now = self.at(Instant::now());
        if event.end {
            return if self.rolling.lock().close(now, kind) {
                tracing::info!(kind, "disruption over");
                Ok(())
            } else {
                Err(format!("no window of `{kind}` is open; see GET /admin/goodput"))
            };
        }
        let lasts = event.lasts_s.map_or(Ok(LASTS), |it| {
            let lasts = Duration::try_from_secs_f64(it).ok();
            lasts.filter(|it| !it.is_zero() && *it <= LASTS_MAX).ok_or_else(|| {
                format!(
                    "lasts_s: needs seconds above 0 and up to {}, has {it}",
                    LASTS_MAX.as_secs()
                )
            })
        })?;
        self.rolling.lock().open(now, kind, lasts);
        tracing::info!(kind, lasts_s = lasts.as_secs_f64(), "disruption");
        Ok(())
    }

    /// Learns that so many replicas are paid for from now on.
    pub(crate) fn paid(&self, replicas: u32) {
        let now = self.at(Instant::now());
        self.rolling.lock().paid(now, replicas);
    }

    pub(crate) fn view(&self, prices: Option<&Prices>) -> View {
        let now = self.at(Instant::now());
        self.rolling.lock().view(now, prices)
    }

    /// The last ten minutes of each SLO class.
    pub(crate) fn classes(&self, prices: Option<&Prices>) -> Vec<(String, Figures)> {
        let now = self.at(Instant::now());
        self.rolling.lock().classes(now, prices)
    }
}

/// A tenant as figures have it: in hexadecimal, or as nothing where nobody is told apart.
fn shown(tenant: TenantId) -> String {
    if tenant == TenantId::NONE { String::new() } else { format!("{:016x}", tenant.0) }
}

/// What is known of the gaps of an answer. Their 95th percentile is not: the longest stands for it, which
/// never calls a broken promise kept.
fn gaps((longest, shortest): (Duration, Duration)) -> Gaps {
    let ms = |it: Duration| it.as_secs_f64() * 1_000.0;
    Gaps {
        mean_ms: f64::midpoint(ms(longest), ms(shortest)),
        min_ms: ms(shortest),
        p95_ms: ms(longest),
        max_ms: ms(longest),
    }
}
