//! How and to whom requests are sent, as the command line says it.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use replay::{Conversations, HangUps, ReplayOptions, Target, models};
use report::Terms;
use wire::openai::Endpoint;
use workload::Arrival;

use super::traffic::time;

/// How and to whom requests are sent.
#[derive(Debug, clap::Args)]
pub(super) struct Sending {
    /// Server to send to; when repeated, the servers take turns.
    #[arg(long, value_name = "URL", required = true)]
    target: Vec<Target>,
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
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    timeout: Duration,
    /// Start of the run that is sent and does not count.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
    pub(super) warm_up: Duration,
    /// Longest wait for answers after the last request was due.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    grace: Duration,
}

impl Sending {
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// The options of a run that sends `arrivals`; asks the target for its model where it must.
    pub(super) async fn options(
        &self,
        arrivals: &[Arrival],
        send_for: Option<Duration>,
        seed: u64,
        terms: Terms,
    ) -> anyhow::Result<ReplayOptions> {
        let ca_pem = match &self.ca {
            Some(file) => Some(fs::read(file).with_context(|| {
                format!("cannot read the authorities {}; pass a PEM file with --ca", file.display())
            })?),
            None => None,
        };
        let api_key = self.api_key.clone();
        let asks_for_one = arrivals.iter().any(|it| it.prompt.given.is_none());
        let model = match (&self.model, self.target.first()) {
            (Some(model), _) => model.clone(),
            (None, Some(target)) if asks_for_one => {
                models::first(target, api_key.as_deref(), ca_pem.as_deref()).await?
            }
            (None, Some(_) | None) => String::new(),
        };
        Ok(ReplayOptions {
            targets: self.target.clone(),
            ca_pem,
            model,
            endpoint: match self.endpoint.as_str() {
                "completions" => Endpoint::Completions,
                "messages" => Endpoint::Messages,
                _ => Endpoint::ChatCompletions,
            },
            api_key,
            exact_lengths: !self.respect_eos,
            run_id: format!("replay-{seed}"),
            session_header: !self.no_session_header,
            conversations: if self.closed { Conversations::Closed } else { Conversations::Open },
            send_for,
            hang_ups: self.hang_up,
            seed,
            open_requests_max: self.open_requests_max,
            request_deadline: self.timeout,
            warm_up: self.warm_up,
            drain_max: self.grace,
            terms,
        })
    }
}
