//! To whom requests are sent and how, as the command line says it: the same options for whatever puts a
//! server under load.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use replay::{
    Conversations, HangUps, Lag, ReplayOptions, Target,
    events::{self, Befell},
    lag::LAG_MAX,
    models,
};
use report::{Ending, RequestRecord, disruption::Disruption, windows};
use tokio::time::Instant;
use types::time::Timestamp;
use wire::openai::Endpoint;
use workload::Arrival;

use crate::typed;

/// The options that say something of a server only; others may be had in virtual time too.
const OF_A_TARGET: [&str; 25] = [
    "admin",
    "workload",
    "duration",
    "warm_up",
    "settle",
    "disrupt",
    "restart",
    "ca",
    "model",
    "endpoint",
    "header",
    "no_session_header",
    "respect_eos",
    "closed",
    "hang_up",
    "open_requests_max",
    "timeout",
    "grace",
    "goodput",
    "goodput_class",
    "slo_class",
    "retries_max",
    "allow_lag",
    "lag_max",
    "replicas",
];

/// To whom requests are sent, and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sending {
    /// Server to send to; when repeated, the servers take turns.
    #[arg(long, value_name = "URL")]
    pub(crate) target: Vec<Target>,
    /// Admin address of the router that is sent to: what it was told of (POST /admin/events) while a run
    /// lasted becomes a disruption window of that run.
    #[arg(long, value_name = "URL")]
    admin: Option<Target>,
    /// Certificate authorities, in PEM, that vouch for an https target in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Model to ask for; the first that the target lists when absent.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Where prompts go: OpenAI's chat or completions (no chat template changes their length there),
    /// or Anthropic's messages.
    #[arg(long, value_name = "API", default_value = "chat")]
    #[arg(value_parser = ["chat", "completions", "messages"])]
    endpoint: String,
    /// Key to send as `authorization: Bearer`, to messages as `x-api-key` too.
    #[arg(long, value_name = "KEY", env = "SLUICE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Header to send with every request, as in 'x-tenant: acme'; may be repeated.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Leaves `x-session-id` out, so that the router has to find conversations by itself.
    #[arg(long)]
    no_session_header: bool,
    /// Lets answers end where the model ends them: leaves out `ignore_eos`, which strict servers
    /// refuse.
    #[arg(long)]
    respect_eos: bool,
    /// Sends a conversation's next turn when its answer has come and the user has thought, and not
    /// on schedule.
    #[arg(long)]
    closed: bool,
    /// A share of the clients that hang up after a time or a number of tokens: 10%:2s, 5%:20tokens.
    #[arg(long, value_name = "SHARE:WHEN")]
    hang_up: Option<HangUps>,
    /// Most requests open at once.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    open_requests_max: usize,
    /// Longest time from a request's schedule to its last token.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = typed::some_time)]
    timeout: Duration,
    /// Longest wait for answers after the last request was due.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = typed::time)]
    grace: Duration,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| "write it as NAME: VALUE".to_owned())?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Has an option that only a server makes sense of refuse a scenario.
pub(crate) fn of_a_target(option: clap::Arg) -> clap::Arg {
    if OF_A_TARGET.contains(&option.get_id().as_str()) {
        option.conflicts_with("scenario")
    } else {
        option
    }
}

impl Sending {
    /// How requests are sent; [`asking`](Self::asking) and the caller complete it.
    ///
    /// # Errors
    /// A file of authorities that cannot be read.
    pub(crate) fn options(&self) -> anyhow::Result<ReplayOptions> {
        let ca_pem = match &self.ca {
            Some(file) => Some(fs::read(file).with_context(|| {
                format!("cannot read the authorities {}; pass a PEM file with --ca", file.display())
            })?),
            None => None,
        };
        Ok(ReplayOptions {
            targets: self.target.clone(),
            ca_pem,
            model: self.model.clone().unwrap_or_default(),
            endpoint: match self.endpoint.as_str() {
                "completions" => Endpoint::Completions,
                "messages" => Endpoint::Messages,
                _ => Endpoint::ChatCompletions,
            },
            api_key: self.api_key.clone(),
            headers: self.header.clone(),
            exact_lengths: !self.respect_eos,
            session_header: !self.no_session_header,
            conversations: if self.closed { Conversations::Closed } else { Conversations::Open },
            hang_ups: self.hang_up,
            open_requests_max: self.open_requests_max,
            request_deadline: self.timeout,
            drain_max: self.grace,
            ..ReplayOptions::default()
        })
    }

    /// What the router says befell it in a run that `began` then, of these records.
    ///
    /// # Errors
    /// An admin address that does not tell.
    pub(crate) async fn disruptions(
        &self,
        records: &[RequestRecord],
        began: Instant,
    ) -> anyhow::Result<Vec<Disruption>> {
        let Some(admin) = &self.admin else { return Ok(Vec::new()) };
        let told = events::read(admin).await?.during(began.elapsed());
        let windows = windows::windows(records);
        let seen = |it: Befell| Disruption::seen(it.kind, &windows, it.from, it.ended);
        Ok(told.into_iter().map(seen).collect())
    }

    /// `options` with a model to ask for; asks the target for one where `arrivals` need it and nobody
    /// named one.
    ///
    /// # Errors
    /// A target that lists no model.
    pub(crate) async fn asking(
        options: ReplayOptions,
        arrivals: &[Arrival],
    ) -> anyhow::Result<ReplayOptions> {
        let asks_for_one = arrivals.iter().any(|it| it.prompt.given.is_none());
        if !options.model.is_empty() || !asks_for_one {
            return Ok(options);
        }
        let Some(target) = options.targets.first() else {
            bail!("nobody to send to; pass --target URL");
        };
        let (key, ca) = (options.api_key.as_deref(), options.ca_pem.as_deref());
        let model = models::first(target, key, ca).await?;
        Ok(ReplayOptions { model, ..options })
    }
}

/// Refuses a run in which nobody answered anything: its figures are of nothing.
///
/// # Errors
/// Says what went wrong most often.
pub(crate) fn refuse_silence(records: &[RequestRecord]) -> anyhow::Result<()> {
    let is_answer = |it: &RequestRecord| match it.ending {
        Ending::Completed | Ending::Rejected | Ending::Cancelled => true,
        Ending::Failed => false,
    };
    match errors(records).first() {
        Some((why, _)) if !records.iter().any(is_answer) => {
            bail!("no request was answered: {why}; check --target, --model, --endpoint and the key")
        }
        Some(_) | None => Ok(()),
    }
}

/// Share of the prompts that may be found cached beyond what they repeat of each other: what chat templates
/// have in common.
const UNEXPLAINED_MAX: f64 = 0.1;

/// What a person should know of caches that held the prompts before they were first sent; `reuse` is the
/// share of them that was sent earlier in the same run.
pub(crate) fn seen_before(records: &[RequestRecord], reuse: f64) -> Option<String> {
    let told = records.iter().filter(|it| it.ending == Ending::Completed);
    let (mut cached, mut all) = (0_u64, 0_u64);
    for (record, found) in told.filter_map(|it| Some((it, it.cached_tokens?))) {
        cached = cached.saturating_add(found.0.into());
        all = all.saturating_add(record.input_tokens.0.into());
    }
    let hits = if all == 0 { 0.0 } else { cached as f64 / all as f64 };
    (hits > reuse + UNEXPLAINED_MAX).then(|| {
        format!(
            "caches held {:.0} % of what was asked, of which only {:.0} % had been sent before in this run: \
             the server had seen these prompts earlier; restart it, or pass another --seed where prompts \
             are generated",
            hits * 100.0,
            reuse * 100.0
        )
    })
}

/// Whether every run sends the same words, which another seed does not change.
pub(crate) fn is_given(arrival: &Arrival) -> bool {
    let prompt = &arrival.prompt;
    prompt.given.is_some() || prompt.messages.iter().any(|it| it.text.is_some())
}

/// What went wrong with requests that failed, and how often, the most frequent first.
pub(crate) fn errors(records: &[RequestRecord]) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records.iter().filter(|it| it.ending == Ending::Failed) {
        let why = record.error.as_deref().unwrap_or("no reason");
        let count = counts.entry(why).or_default();
        *count = count.saturating_add(1);
    }
    let mut all: Vec<(String, usize)> =
        counts.into_iter().map(|(why, count)| (why.to_owned(), count)).collect();
    all.sort_by_key(|it| std::cmp::Reverse(it.1));
    all
}

/// How late the generator may be.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Trust {
    /// Accepts a run whose generator fell behind its own schedule, which otherwise ends with 1.
    #[arg(long)]
    pub(crate) allow_lag: bool,
    /// The p99 of requests' lateness from which the generator counts as fallen behind; 10ms when absent.
    #[arg(long, value_name = "TIME", value_parser = typed::time)]
    lag_max: Option<Duration>,
}

impl Trust {
    /// Why a run is not to be trusted, if so.
    pub(crate) fn doubt(
        &self,
        records: &[RequestRecord],
        warm_up: Duration,
        unsent: u64,
    ) -> Option<String> {
        let lag = Lag::of(records, Timestamp::from_elapsed(warm_up), unsent);
        let behind = lag.verdict(self.lag_max.unwrap_or(LAG_MAX))?;
        let or = if self.allow_lag { "" } else { ", or pass --allow-lag" };
        Some(format!(
            "{behind}; send less, from more cores, with a higher --open-requests-max or `ulimit -n`{or}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_allows_lag_is_not_told_to() {
        let doubt = |allow_lag| {
            let trust = Trust { allow_lag, lag_max: None };
            trust.doubt(&[], Duration::ZERO, 1).unwrap()
        };
        assert!(doubt(false).contains("--allow-lag") && !doubt(true).contains("--allow-lag"));
        assert!(doubt(true).contains("send less"));
    }
}
