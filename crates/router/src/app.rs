//! What all requests share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use fleet::fleet::Fleet;
use http::{HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Limits, Priorities, Promises, Timeouts},
    intake::Reader,
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
    pub(crate) promises: Promises,
    pub(crate) priorities: Priorities,
    pub(crate) body_budget: Arc<Semaphore>,
    /// Set when the router has begun to end: it still serves, and says that it is not ready.
    pub(crate) ending: AtomicBool,
    /// Cancelled when the time for open answers is over.
    pub(crate) cut: CancellationToken,
    request_ids: RequestIds,
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
            reader: Arc::new(reader),
            tenant_header: config.tenant_header(),
            promises: config.slo.clone(),
            priorities: config.priority.clone(),
            body_budget: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            ending: AtomicBool::new(false),
            cut: CancellationToken::new(),
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
