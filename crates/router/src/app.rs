//! What all requests share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use fleet::fleet::Fleet;
use http::{HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    config::{Config, Limits, Timeouts},
    intake::Reader,
    quarantine::Quarantine,
    retries::Retries,
    telemetry::Telemetry,
};

/// Bytes of body that one permit of the budget stands for.
const BUDGET_UNIT_BYTES: usize = 1_024;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) fleet: Fleet,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) attempts_max: u32,
    pub(crate) reader: Arc<Reader>,
    pub(crate) tenant_header: Option<HeaderName>,
    pub(crate) body_budget: Arc<Semaphore>,
    pub(crate) quarantine: Quarantine,
    pub(crate) retries: Retries,
    /// Set when the router has begun to end: it still serves, and says that it is not ready.
    pub(crate) ending: AtomicBool,
    /// Comes when the time for open answers is over.
    pub(crate) cut: Cut,
    request_ids: RequestIds,
}

/// The moment from which answers that are still open are cut off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    /// Read with every event of every stream, where the token's lock would be contended.
    has_come: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Cut {
    /// Makes it now.
    pub(crate) fn now(&self) {
        self.has_come.store(true, Ordering::Release);
        self.token.cancel();
    }

    pub(crate) fn has_come(&self) -> bool {
        self.has_come.load(Ordering::Acquire)
    }

    /// Completes when it comes.
    pub(crate) fn comes(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }
}

/// Names requests that come without a name.
#[derive(Debug)]
struct RequestIds {
    run: u32,
    next: AtomicU64,
}

impl App {
    /// Puts together what requests share; `run` tells this run's request ids from another's.
    pub(crate) fn new(fleet: Fleet, config: &Config, reader: Reader, run: u32) -> Self {
        let permits = config.limits.body_bytes_in_flight_max.0.div_ceil(BUDGET_UNIT_BYTES);
        Self {
            fleet,
            telemetry: Arc::new(Telemetry::new()),
            limits: config.limits,
            timeouts: config.timeouts,
            attempts_max: config.attempts_max,
            quarantine: Quarantine::new(reader.hash_key),
            retries: Retries::default(),
            reader: Arc::new(reader),
            tenant_header: config.tenant_header(),
            body_budget: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            ending: AtomicBool::new(false),
            cut: Cut::default(),
            request_ids: RequestIds { run, next: AtomicU64::new(0) },
        }
    }

    /// A name for a request that came without one.
    pub(crate) fn request_id(&self) -> HeaderValue {
        let RequestIds { run, next } = &self.request_ids;
        let number = next.fetch_add(1, Ordering::Relaxed);
        HeaderValue::try_from(format!("req-{run:08x}-{number:x}"))
            .unwrap_or(HeaderValue::from_static("req"))
    }

    /// Permits of the body budget that `bytes` of body take.
    pub(crate) fn permits(bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX)
    }

    /// Whether requests sent here can be served.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ending.load(Ordering::Relaxed) && self.fleet.is_ready()
    }
}
