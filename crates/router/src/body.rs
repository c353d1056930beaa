//! Receives the bodies of requests into memory that all of them share.
//!
//! Memory is taken as bytes come, never for what a head announces: whoever announces much and sends
//! nothing keeps nobody out. Where a body then lies is settled once, from its announced length on: what is not written
//! yet is only promised by the system, while growing would leave a copy behind at each step. A body that needs more while all of it is taken waits a moment for it and
//! is then refused, so bodies never wait for each other for long. While one waits, those that come too
//! slowly to be worth their memory are ended, the one first that has waited longest for its next byte.

use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::reject::Refusal;

/// Bytes of body that one permit of the budget stands for.
const UNIT_BYTES: usize = 1_024;

/// Memory that a body of unknown length begins with, and one of which only a part has come.
const FIRST_BYTES: usize = 4 << 10;

/// By how much a body grows where there is no memory to double it.
const STEP_BYTES: usize = 64 << 10;

/// How long a body waits for memory, and how often slow ones are looked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(125);
const LOOKS: usize = 4;

/// Slowest body that keeps its memory while another needs it, in bytes a second; a tenth of what the
/// longest body needs to come in time.
const BYTES_PER_S_MIN: f64 = 65_536.0;

/// Times over which that is measured: the shortest, which is also how long a body may stand still then,
/// and when the measure begins anew.
const MEASURED_MIN: Duration = Duration::from_secs(1);
const MEASURED_MAX: Duration = Duration::from_secs(2);

/// Why a body with lines after its last chunk is refused. Nobody sends them to an engine, and what ends them
/// is a matter of opinion: who takes a bare line feed for the end finds another request in what follows.
const TRAILERS: &str = "a chunked body must end with `0`, an empty line, and no trailers";

/// Memory for all bodies.
#[derive(Debug)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    /// Told when a body waits for memory.
    is_short: Notify,
    /// Permits that slow bodies should give back.
    wanted: AtomicUsize,
}

/// What a body has of the budget; given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Share(Option<OwnedSemaphorePermit>);

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Longest body, in bytes.
    pub(crate) bytes_max: usize,
    /// The length that its head announces.
    pub(crate) announced: Option<usize>,
    /// Longest time in which it must come.
    pub(crate) within: Duration,
    /// Whether lines after its end are a reason to refuse it, as over HTTP/1.
    pub(crate) refuses_trailers: bool,
}

impl Budget {
    /// Room for `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        let permits = bytes.div_ceil(UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            is_short: Notify::new(),
            wanted: AtomicUsize::new(0),
        }
    }

    /// Receives `body` within `bounds`.
    ///
    /// # Errors
    ///
    /// When it is too long, too late, broken, or there is no memory for it.
    pub(crate) async fn receive<B>(
        &self,
        bounds: Bounds,
        body: B,
    ) -> Result<(Bytes, Share), Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Error + 'static,
    {
        let bytes_max = bounds.bytes_max;
        if bounds.announced.is_some_and(|it| bytes_max < it) {
            return Err(Refusal::TooLarge { bytes_max });
        }
        let coming = Coming {
            budget: self,
            bounds,
            share: Share::default(),
            kept: Vec::new(),
            measured: Measured::begin(0),
        };
        tokio::select! {
            biased;
            received = coming.receive(body) => received,
            () = tokio::time::sleep(bounds.within) => {
                Err(Refusal::BodyTimedOut { after: bounds.within })
            }
        }
    }

    /// Makes `share` large enough for `bytes`, at once or not at all.
    fn try_grow(&self, share: &mut Share, bytes: usize) -> bool {
        let more = share.missing(bytes);
        more == 0
            || Arc::clone(&self.permits)
                .try_acquire_many_owned(more)
                .is_ok_and(|permit| share.add(permit))
    }

    /// The same, and waits for it while slow bodies are ended.
    async fn grow(&self, share: &mut Share, bytes: usize) -> Result<(), Refusal> {
        let more = share.missing(bytes);
        for _ in 0..LOOKS {
            self.wanted.fetch_max(usize::try_from(more).unwrap_or(usize::MAX), Ordering::Relaxed);
            self.is_short.notify_waiters();
            let permit = Arc::clone(&self.permits).acquire_many_owned(more);
            if let Ok(Ok(permit)) = tokio::time::timeout(LOOK_EVERY, permit).await {
                share.add(permit);
                return Ok(());
            }
        }
        Err(Refusal::OutOfMemory)
    }

    /// Whether `share` is still wanted by those who wait, which is then settled.
    fn wants(&self, share: &Share) -> bool {
        let permits = share.permits();
        let settle = |wanted: usize| (wanted != 0).then(|| wanted.saturating_sub(permits));
        permits != 0
            && self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, settle).is_ok()
    }
}

impl Share {
    fn permits(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Bytes that it is enough for.
    fn bytes(&self) -> usize {
        self.permits().saturating_mul(UNIT_BYTES)
    }

    /// Permits that `bytes` take beyond those that are there.
    fn missing(&self, bytes: usize) -> u32 {
        let more = bytes.div_ceil(UNIT_BYTES).saturating_sub(self.permits());
        u32::try_from(more).unwrap_or(u32::MAX)
    }

    fn add(&mut self, permit: OwnedSemaphorePermit) -> bool {
        match &mut self.0 {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        true
    }

    /// Gives back what `bytes` do not take.
    fn shrink(&mut self, bytes: usize) {
        let surplus = self.permits().saturating_sub(bytes.div_ceil(UNIT_BYTES));
        drop(self.0.as_mut().and_then(|it| it.split(surplus)));
    }
}

/// A body of which a part has come.
struct Coming<'a> {
    budget: &'a Budget,
    bounds: Bounds,
    share: Share,
    kept: Vec<u8>,
    measured: Measured,
}

/// Where the measure of its speed began, and when its last bytes came.
struct Measured {
    at: Instant,
    bytes: usize,
    last: Instant,
}

impl Measured {
    /// Begins now, at so many bytes.
    fn begin(bytes: usize) -> Self {
        let now = Instant::now();
        Self { at: now, bytes, last: now }
    }
}

impl Coming<'_> {
    async fn receive<B>(mut self, mut body: B) -> Result<(Bytes, Share), Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Error + 'static,
    {
        loop {
            let is_short = self.budget.is_short.notified();
            // One that has no memory has none to give, and need not listen.
            let may_give = self.share.permits() != 0;
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = is_short, if may_give => {
                    if self.is_slow() && self.budget.wants(&self.share) {
                        return Err(Refusal::BodySlow);
                    }
                    continue;
                }
            };
            let Some(frame) = frame else { return Ok(self.whole()) };
            let frame = frame.map_err(|it| broken(&it))?;
            let Ok(bytes) = frame.into_data() else {
                if self.bounds.refuses_trailers {
                    return Err(Refusal::Framing(TRAILERS));
                }
                continue;
            };
            let bytes_max = self.bounds.bytes_max;
            if bytes_max.saturating_sub(self.kept.len()) < bytes.len() {
                return Err(Refusal::TooLarge { bytes_max });
            }
            if self.bounds.announced == Some(bytes.len()) {
                // All of it at once: there is nothing to put together.
                if !self.budget.try_grow(&mut self.share, bytes.len()) {
                    self.budget.grow(&mut self.share, bytes.len()).await?;
                }
                return Ok((bytes, self.share));
            }
            self.keep(&bytes).await?;
        }
    }

    /// Keeps `bytes`, in memory that was taken for them before.
    async fn keep(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let needed = self.kept.len().saturating_add(bytes.len());
        if self.share.bytes() < needed {
            self.take_for(needed).await?;
        }
        if self.kept.capacity() < needed {
            self.make_room();
        }
        self.kept.extend_from_slice(bytes);
        let now = Instant::now();
        if MEASURED_MAX <= now.duration_since(self.measured.at) {
            self.measured = Measured::begin(self.kept.len());
        }
        self.measured.last = now;
        Ok(())
    }

    /// Takes memory for `needed` bytes: twice what is there where that can be had, so that little is
    /// copied, else a step more, else just that.
    async fn take_for(&mut self, needed: usize) -> Result<(), Refusal> {
        let most = self.bounds.announced.unwrap_or(self.bounds.bytes_max).max(needed);
        let doubled = self.share.bytes().saturating_mul(2).max(FIRST_BYTES).max(needed);
        for capacity in [doubled, needed.saturating_add(STEP_BYTES), needed] {
            let capacity = capacity.min(most);
            if self.budget.try_grow(&mut self.share, capacity) {
                return Ok(());
            }
        }
        self.budget.grow(&mut self.share, needed).await?;
        // It was not the client who took its time.
        self.measured = Measured::begin(self.kept.len());
        Ok(())
    }

    /// Room for what memory was taken for; for all that is announced once more than a first part has come, unless the
    /// system promises no more.
    fn make_room(&mut self) {
        let taken = self.share.bytes();
        let announced = self.bounds.announced.filter(|_| STEP_BYTES < taken);
        let room = |bytes: usize| bytes.saturating_sub(self.kept.len());
        let (taken, all) = (room(taken), announced.map(room));
        if all.is_none_or(|all| self.kept.try_reserve_exact(all).is_err()) {
            self.kept.reserve_exact(taken);
        }
    }

    /// Whether it stands still, or comes at less than the slowest speed.
    fn is_slow(&self) -> bool {
        let Measured { at, bytes, last } = &self.measured;
        let took = at.elapsed();
        let came = self.kept.len().saturating_sub(*bytes) as f64;
        MEASURED_MIN <= last.elapsed()
            || (MEASURED_MIN <= took && came < BYTES_PER_S_MIN * took.as_secs_f64())
    }

    fn whole(mut self) -> (Bytes, Share) {
        self.kept.shrink_to_fit();
        self.share.shrink(self.kept.len());
        (self.kept.into(), self.share)
    }
}

/// Tells a client that sent garbage from one that has gone.
pub(crate) fn broken(error: &(dyn Error + 'static)) -> Refusal {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let garbage = [io::ErrorKind::InvalidInput, io::ErrorKind::InvalidData];
            return if garbage.contains(&error.kind()) {
                Refusal::BodyBroken
            } else {
                Refusal::ClientGone
            };
        }
        cause = error.source();
    }
    Refusal::ClientGone
}

#[cfg(test)]
mod tests;
