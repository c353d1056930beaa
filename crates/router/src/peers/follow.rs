//! Listens to one other router, again and again, and tells the dispatcher what it says.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use fleet::client::{Body, ClientConfig, ReplicaClient};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use policy::event::{Event, News, PeerId};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use tokio::time::{Instant, timeout};
use wire::placements::{Ended, Frame, Frames, Hello, Placed};

use super::{Failure, Target, fingerprint};
use crate::{
    app::App,
    config::{Peers as Configured, tls::Trusts},
};

/// What is asked for.
const PATH: &str = "/admin/placements";

/// How long a router may say nothing: it says every second that it is there.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Pauses between two attempts, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A connection that lasted so long was none of a row of failures.
const LASTED: Duration = Duration::from_secs(10);

/// Pause after an address turned out to be this router's own, or one of a router that is listened to
/// already.
const KNOWN_AGAIN: Duration = Duration::from_secs(60);

/// How listening ended.
enum Ending {
    Failed(Failure, String),
    /// It is this router, or one that is listened to already.
    Known,
}

impl Ending {
    fn of(failure: Failure, why: impl std::fmt::Display) -> Self {
        Self::Failed(failure, why.to_string())
    }
}

/// Listens to `target` until the task is ended.
pub(super) async fn follow(app: Arc<App>, configured: Arc<Configured>, target: Target, id: PeerId) {
    let (mut pause, mut last) = (PAUSES.0, None);
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(app.peers.run ^ u64::from(id.0));
    loop {
        let began = Instant::now();
        match listen(&app, &configured, &target, id).await {
            Ending::Known => {
                last = None;
                tokio::time::sleep(KNOWN_AGAIN).await;
                continue;
            }
            Ending::Failed(failure, why) => {
                app.peers.failed(failure);
                // A row of equal failures is told once.
                if LASTED <= began.elapsed() || last != Some(failure) {
                    let (peer, reason) = (target.origin.to_string(), failure.as_str());
                    tracing::warn!(peer, reason, why, "another router is not heard");
                }
                last = Some(failure);
            }
        }
        if LASTED <= began.elapsed() {
            pause = PAUSES.0;
        }
        // Spread, so that routers that began together do not come again together.
        let spread = draws.random_range(0.5..1.5);
        tokio::time::sleep(pause.mul_f64(spread)).await;
        pause = PAUSES.1.min(pause.saturating_mul(2));
    }
}

/// Listens once, to the end.
async fn listen(app: &Arc<App>, configured: &Configured, target: &Target, id: PeerId) -> Ending {
    let body = match open(app, configured, target).await {
        Ok(body) => body,
        Err(ending) => return ending,
    };
    let mut stream = Stream { body, frames: Frames::default() };
    let Hello { run, fingerprint: theirs } = match stream.next().await {
        Ok(Frame::Hello(hello)) => hello,
        Ok(_) => return Ending::of(Failure::Malformed, "it does not say who it is"),
        Err(ending) => return ending,
    };
    if run == app.peers.run {
        return Ending::Known;
    }
    if theirs != fingerprint(&app.settings.load().reader) {
        let cure = "it names blocks otherwise: give all routers the same hash_seed, \
             policy.prefix.block and policy.prefix.shared_by_tenants";
        return Ending::of(Failure::Names, cure);
    }
    let Some(_heard) = Heard::begin(app, run, id) else { return Ending::Known };
    tracing::info!(peer = %target.origin, "another router is heard");
    loop {
        match stream.next().await {
            Ok(frame) => learn(app, id, frame),
            Err(ending) => return ending,
        }
    }
}

/// Asks a router for what it places.
async fn open(app: &App, configured: &Configured, target: &Target) -> Result<Body, Ending> {
    let unreachable = |why: String| Ending::of(Failure::Unreachable, why);
    // The files are read anew each time, as they may have been replaced.
    let reach = Trusts::default()
        .reach(&target.origin, &target.host, false, &configured.tls)
        .map_err(|it| unreachable(format!("peers.tls.{}", it.join("; "))))?;
    let connect_timeout = app.settings.load().timeouts.connect;
    let config = ClientConfig { connect_timeout, idle_max: 0, ..ClientConfig::default() };
    let client = ReplicaClient::new(&config, &reach, target.origin.clone());
    let mut request = Request::get(PATH);
    if let Some(key) = app.settings.load().peer_key.clone() {
        request = request.header(header::AUTHORIZATION, key);
    }
    let request = request.body(Bytes::new()).map_err(|it| unreachable(it.to_string()))?;
    let response = match timeout(SILENCE_MAX, client.request(&request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_) => return Err(Ending::of(Failure::Silent, "it does not answer")),
    };
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let cure = "it does not take the key: set peers.key to its admin key";
            Err(Ending::of(Failure::Key, cure))
        }
        status => Err(Ending::of(Failure::Declined, format!("it answers {status}"))),
    }
}

/// Frames as they come.
struct Stream {
    body: Body,
    frames: Frames,
}

impl Stream {
    async fn next(&mut self) -> Result<Frame, Ending> {
        loop {
            match self.frames.take() {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(malformed) => return Err(Ending::of(Failure::Malformed, malformed)),
            }
            let unreachable = |why: &str| Ending::of(Failure::Unreachable, why);
            match timeout(SILENCE_MAX, self.body.frame()).await {
                Ok(Some(Ok(piece))) => {
                    if let Ok(bytes) = piece.into_data() {
                        self.frames.push(&bytes);
                    }
                }
                Ok(Some(Err(error))) => return Err(unreachable(&error.to_string())),
                Ok(None) => return Err(unreachable("it ended")),
                Err(_) => return Err(Ending::of(Failure::Silent, "it says nothing")),
            }
        }
    }
}

/// A router that is listened to. When that ends, nobody knows any more what it has under way.
struct Heard {
    app: Arc<App>,
    run: u64,
    id: PeerId,
}

impl Heard {
    /// None where it is listened to already.
    fn begin(app: &Arc<App>, run: u64, id: PeerId) -> Option<Self> {
        let is_new = app.peers.heard.lock().insert(run);
        is_new.then(|| Self { app: Arc::clone(app), run, id })
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.app.peers.heard.lock().remove(&self.run);
        tell(&self.app, self.id, News::Lost);
    }
}

fn tell(app: &App, peer: PeerId, news: News) {
    app.fleet.dispatch().observe(Event::PeerTold { peer, news });
}

/// Learns what another router says.
fn learn(app: &App, id: PeerId, frame: Frame) {
    let news = match frame {
        Frame::Placed(Placed { request, replica, cached }) => match app.registry.at(&replica) {
            Some(replica) => News::Placed { request, replica, cached },
            None => {
                app.peers.unknown.fetch_add(1, Ordering::Relaxed);
                return;
            }
        },
        Frame::FirstToken(request) => News::FirstToken(request),
        Frame::Ended(Ended { request, outcome, output, cached }) => {
            News::Ended { request, outcome, output, cached }
        }
        Frame::Lost(frames) => {
            tracing::warn!(frames, "another router told more than was taken in time");
            News::Lost
        }
        Frame::Ratio { model, centibytes } => {
            app.settings.load().reader.ratios.told(model, centibytes);
            return;
        }
        Frame::Hello(_) | Frame::Alive => return,
    };
    app.peers.received.fetch_add(1, Ordering::Relaxed);
    tell(app, id, news);
}
