//! Reads what an engine says of its load, in Prometheus text, with the names of vLLM, SGLang and
//! llama-server.
//!
//! A page is 50 to 90 KB of which ten lines matter, so lines are told apart by their names before
//! anything is parsed. An engine with data-parallel ranks reports each rank: requests add up over
//! ranks, shares are averaged. Tensor- and pipeline-parallel ranks repeat the figure of the rank
//! they belong to and do not add up.

use std::collections::BTreeMap;

use memchr::{memchr, memchr2, memrchr};
use types::{
    quantity::{Blocks, Tokens},
    replica::LoadReport,
};

#[cfg(test)]
mod tests;

/// What one page of metrics says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    /// The engine's load.
    pub load: LoadReport,
    /// Tokens in a KV block.
    pub block: Option<Tokens>,
    /// KV blocks that the cache has room for, over all ranks.
    pub cache_blocks: Option<Blocks>,
    /// When the process started, in seconds since 1970.
    pub started_s: Option<f64>,
    /// Prompt tokens since then; less than before means that another process counts.
    pub prompt_tokens: Option<f64>,
    /// The adapters (LoRA) in use, where the engine has any.
    pub adapters: Option<Adapters>,
    /// Samples that can't be true, which are left out: no numbers, negative ones, and figures beyond what
    /// any engine has.
    pub implausible: u32,
}

/// The adapters that requests on an engine use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapters {
    /// Their names: those that run, then those that wait.
    pub in_use: Vec<String>,
    /// How many the engine has room for.
    pub most: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Metric {
    Running,
    Waiting,
    KvUsage,
    Preemptions,
    PreemptionsOfEnded,
    BlockTokens,
    CacheBlocks,
    CacheTokens,
    Started,
    PromptTokens,
    Adapters,
}

impl Metric {
    /// The largest value that an engine can have, over all its ranks.
    const fn most(self) -> f64 {
        match self {
            Self::Running | Self::Waiting => 1e6,
            // A share; some engines have told more than there is, and some per cent.
            Self::KvUsage => 1e6,
            Self::Preemptions | Self::PreemptionsOfEnded => 4e9,
            Self::BlockTokens => 1e6,
            Self::CacheBlocks | Self::CacheTokens => 4e9,
            // Seconds since 1970, for some thousand years.
            Self::Started | Self::Adapters => 1e11,
            Self::PromptTokens => 1e18,
        }
    }
}

/// Reads a page of metrics; `None` where none of its lines is known.
#[must_use]
pub fn read(text: &[u8]) -> Option<Scrape> {
    let mut samples = Samples::default();
    let mut rest = text;
    while !rest.is_empty() {
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, tail) = rest.split_at(end);
        samples.take(line);
        rest = tail.get(1..).unwrap_or_default();
    }
    samples.scrape()
}

/// The known samples by metric and data-parallel rank; of equal ones the largest.
#[derive(Default)]
struct Samples<'t> {
    values: BTreeMap<(Metric, &'t [u8]), f64>,
    /// The newest line on adapters, which has its time as its value.
    adapters: Option<(f64, &'t [u8])>,
    implausible: u32,
}

impl<'t> Samples<'t> {
    fn take(&mut self, line: &'t [u8]) {
        let name = line.get(..memchr2(b'{', b' ', line).unwrap_or(0)).unwrap_or_default();
        let metric = match name {
            b"vllm:num_requests_running"
            | b"sglang:num_running_reqs"
            | b"llamacpp:requests_processing" => Metric::Running,
            b"vllm:num_requests_waiting"
            | b"sglang:num_queue_reqs"
            | b"llamacpp:requests_deferred" => Metric::Waiting,
            b"vllm:kv_cache_usage_perc"
            | b"vllm:gpu_cache_usage_perc"
            | b"sglang:token_usage"
            | b"llamacpp:kv_cache_usage_ratio" => Metric::KvUsage,
            b"vllm:num_preemptions_total" => Metric::Preemptions,
            // SGLang observes how often a request gave way once it has ended.
            b"sglang:num_retractions_sum" => Metric::PreemptionsOfEnded,
            b"sglang:page_size" => Metric::BlockTokens,
            b"sglang:max_total_num_tokens" => Metric::CacheTokens,
            b"process_start_time_seconds" => Metric::Started,
            b"vllm:prompt_tokens_total"
            | b"sglang:prompt_tokens_total"
            | b"llamacpp:prompt_tokens_total" => Metric::PromptTokens,
            b"vllm:lora_requests_info" => Metric::Adapters,
            b"vllm:cache_config_info" => return self.take_cache_config(line),
            _ => return,
        };
        // What follows the last brace is the value and nothing else, whatever the labels hold.
        let value = memrchr(b'}', line).map_or(name.len(), |it| it.saturating_add(1));
        let value = line.get(value..).unwrap_or_default().trim_ascii();
        let value = value.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let Some(value) = self.believed(metric, value) else { return };
        if metric != Metric::Adapters {
            self.put(metric, line, value);
        } else if self.adapters.is_none_or(|it| it.0 <= value) {
            // Lines on earlier states stay on the page.
            self.adapters = Some((value, line));
        }
    }

    fn adapters(&self) -> Option<Adapters> {
        let (_, line) = self.adapters?;
        let most = label(line, b"max_lora").and_then(number).map(whole)?;
        let mut in_use: Vec<String> = Vec::new();
        for state in [&b"running_lora_adapters"[..], b"waiting_lora_adapters"] {
            let names = label(line, state).and_then(|it| std::str::from_utf8(it).ok());
            for name in names.unwrap_or_default().split(',').map(str::trim) {
                if !name.is_empty() && in_use.iter().all(|it| it != name) {
                    in_use.push(name.to_owned());
                }
            }
        }
        Some(Adapters { in_use, most })
    }

    /// vLLM says its cache's shape in the labels of a sample that is always 1.
    fn take_cache_config(&mut self, line: &'t [u8]) {
        for (name, metric) in
            [("block_size", Metric::BlockTokens), ("num_gpu_blocks", Metric::CacheBlocks)]
        {
            let Some(text) = label(line, name.as_bytes()) else { continue };
            if let Some(value) = self.believed(metric, text) {
                self.put(metric, line, value);
            }
        }
    }

    /// The value of a sample, where it can be true. `None` as Python writes it says nothing.
    fn believed(&mut self, metric: Metric, text: &[u8]) -> Option<f64> {
        let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        if (0.0..=metric.most()).contains(&value) {
            return Some(value);
        }
        self.implausible = self.implausible.saturating_add(1);
        None
    }

    fn put(&mut self, metric: Metric, line: &'t [u8], value: f64) {
        let rank = label(line, b"dp_rank").or_else(|| label(line, b"engine")).unwrap_or_default();
        let sample = self.values.entry((metric, rank)).or_insert(value);
        *sample = sample.max(value);
    }

    fn values(&self, metric: Metric) -> impl Iterator<Item = f64> {
        self.values.iter().filter(move |((of, _), _)| *of == metric).map(|(_, value)| *value)
    }

    fn sum(&self, metric: Metric) -> Option<f64> {
        self.values(metric).reduce(|sum, value| sum + value)
    }

    /// As [`Self::sum`], where it can be true: ranks that are made up add up too.
    fn total(&self, metric: Metric) -> Option<f64> {
        self.sum(metric).filter(|sum| *sum <= metric.most())
    }

    fn scrape(&self) -> Option<Scrape> {
        // What any process says of itself makes no engine.
        if self.values.keys().all(|it| it.0 == Metric::Started) {
            return None;
        }
        let ranks = self.values(Metric::KvUsage).count();
        let usage = self.sum(Metric::KvUsage).unwrap_or_default();
        let block = self.values(Metric::BlockTokens).reduce(f64::max).map(whole).map(Tokens);
        let cache_tokens = self.total(Metric::CacheTokens).map(whole).map(Tokens);
        Some(Scrape {
            load: LoadReport {
                running: self.total(Metric::Running).map(whole).unwrap_or_default(),
                waiting: self.total(Metric::Waiting).map(whole).unwrap_or_default(),
                kv_usage: share(usage, ranks),
                preemptions: self.total(Metric::Preemptions).map(whole),
                preemptions_of_ended: self.total(Metric::PreemptionsOfEnded).map(whole),
            },
            block,
            cache_blocks: self
                .total(Metric::CacheBlocks)
                .map(|blocks| Blocks(whole(blocks)))
                .or_else(|| Some(cache_tokens?.full_blocks(block?))),
            started_s: self.values(Metric::Started).reduce(f64::max),
            prompt_tokens: self.sum(Metric::PromptTokens),
            adapters: self.adapters(),
            implausible: self.implausible,
        })
    }
}

/// The value of a label, as written.
fn label<'t>(line: &'t [u8], wanted: &[u8]) -> Option<&'t [u8]> {
    let mut rest = line.get(memchr(b'{', line)?.saturating_add(1)..)?;
    loop {
        let (name, after) = rest.split_at_checked(memchr(b'=', rest)?)?;
        let text = after.strip_prefix(b"=\"")?;
        let mut end = 0_usize;
        loop {
            end = end.saturating_add(memchr2(b'"', b'\\', text.get(end..)?)?);
            if text.get(end) == Some(&b'"') {
                break;
            }
            end = end.saturating_add(2);
        }
        let (value, after) = text.split_at_checked(end)?;
        if name.trim_ascii() == wanted {
            return Some(value);
        }
        rest = after.strip_prefix(b"\"")?.trim_ascii_start().strip_prefix(b",")?;
    }
}

fn number(text: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates, and a count that is not whole is none"
)]
fn whole(value: f64) -> u32 {
    value as u32
}

/// The mean of `ranks` shares that add up to `sum`.
#[expect(clippy::cast_possible_truncation, reason = "a share needs no more than seven digits")]
fn share(sum: f64, ranks: usize) -> f32 {
    let ranks = u32::try_from(ranks).unwrap_or(u32::MAX).max(1);
    (sum / f64::from(ranks)).clamp(0.0, 1.0) as f32
}
