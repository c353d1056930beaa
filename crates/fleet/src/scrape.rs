//! Reads, again and again, what a replica's metrics say of its load and of its cache.

use std::{sync::Arc, time::Duration};

use http::uri::PathAndQuery;
use policy::event::Event;
use tokio::time::MissedTickBehavior;
use types::{quantity::Tokens, request::ModelId};
use wire::prometheus::{Adapters, Scrape};

use crate::{probe, replica::Replica};

/// Reads the metrics of `replica` until the task is ended.
///
/// A replica without metrics is no worse for it: the load that this router placed is known anyway.
pub(crate) async fn watch(replica: Arc<Replica>, interval: Duration, timeout: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut history = History::default();
    loop {
        ticks.tick().await;
        let text = probe::get(&replica, PathAndQuery::from_static("/metrics"), timeout).await;
        let scrape = text.ok().and_then(|it| wire::prometheus::read(&it));
        if let Some(scrape) = &scrape {
            replica.told_nonsense(scrape.implausible);
            let News { has_restarted, cache, adapters } = history.learn(scrape);
            if has_restarted {
                tracing::info!(
                    replica = replica.name(),
                    "the engine restarted, its cache is empty"
                );
                replica.restarted();
            }
            if let Some(tokens) = cache {
                replica.observe(Event::CacheSized { replica: replica.id(), tokens });
            }
            if let Some(Adapters { in_use, most }) = adapters {
                let adapters = in_use.iter().map(|it| ModelId::from_name(it)).collect();
                let replica_id = replica.id();
                replica.observe(Event::AdaptersInUse { replica: replica_id, adapters, most });
            }
        }
        replica.reported(scrape.map(|it| it.load));
    }
}

/// What was read before.
#[derive(Debug, Default)]
struct History {
    started_s: Option<f64>,
    prompt_tokens: Option<f64>,
    cache: Option<Tokens>,
    adapters: Option<Adapters>,
}

/// What a reading says that was not known.
#[derive(Debug, PartialEq)]
struct News {
    /// Another process counts than before.
    has_restarted: bool,
    /// Tokens that its cache has room for, where that is another number than before.
    cache: Option<Tokens>,
    /// The adapters in use, where they are others than before.
    adapters: Option<Adapters>,
}

impl History {
    fn learn(&mut self, scrape: &Scrape) -> News {
        let is_another = |before: Option<f64>, now: Option<f64>, is: fn(f64, f64) -> bool| {
            before.zip(now).is_some_and(|(before, now)| is(before, now))
        };
        // A start is told to the hundredth of a second, by some to the second.
        let has_restarted =
            is_another(self.started_s, scrape.started_s, |before, now| before + 1.0 < now)
                || is_another(self.prompt_tokens, scrape.prompt_tokens, |before, now| now < before);
        self.started_s = scrape.started_s.or(self.started_s);
        self.prompt_tokens = scrape.prompt_tokens.or(self.prompt_tokens);
        let size = scrape.cache_blocks.zip(scrape.block).map(|(it, block)| it.tokens(block));
        let cache = size.filter(|_| size != self.cache);
        self.cache = size.or(self.cache);
        let is_new = scrape.adapters.is_some() && scrape.adapters != self.adapters;
        let adapters = scrape.adapters.clone().filter(|_| is_new);
        self.adapters = scrape.adapters.clone().or_else(|| self.adapters.take());
        News { has_restarted, cache, adapters }
    }
}

#[cfg(test)]
mod tests {
    use types::quantity::Blocks;

    use super::*;

    fn scrape(started_s: Option<f64>, prompt_tokens: f64) -> Scrape {
        Scrape { started_s, prompt_tokens: Some(prompt_tokens), ..Scrape::default() }
    }

    #[test]
    fn another_process_is_told_by_its_start_or_by_its_counters() {
        let mut history = History::default();
        let mut restarted = |it: Scrape| history.learn(&it).has_restarted;
        assert!(!restarted(scrape(Some(100.0), 10.0)));
        assert!(!restarted(scrape(Some(100.5), 20.0)));
        assert!(
            restarted(scrape(Some(160.0), 30.0)),
            "it has computed more by now, and started later"
        );
        assert!(!restarted(scrape(None, 40.0)));
        assert!(restarted(scrape(None, 5.0)));
        assert!(!restarted(Scrape::default()));
        assert!(!restarted(scrape(None, 6.0)));
    }

    #[test]
    fn a_size_is_told_once() {
        let sized = |blocks| Scrape {
            cache_blocks: Some(Blocks(blocks)),
            block: Some(Tokens(16)),
            ..Scrape::default()
        };
        let mut history = History::default();
        let sizes = [10, 10, 20].map(|it| history.learn(&sized(it)).cache);
        assert_eq!(sizes, [Some(Tokens(160)), None, Some(Tokens(320))]);
    }
}
