//! What this router tells the others: `GET /admin/placements`, a stream of frames without an end.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use fleet::{fleet::Fleet, placements::Listener};
use http_body::Frame as BodyFrame;
use policy::event::News;
use rustc_hash::FxHashMap;
use tokio::time::{Interval, MissedTickBehavior};
use types::request::ModelId;
use wire::placements::{Ended, Frame, Hello, Placed, write};

use super::fingerprint;
use crate::app::App;

/// How often it is told that the stream goes on.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// After how many of those lengths of tokens are told again that have not changed: what another router
/// has counted since may make it agree.
const RATIOS_AGAIN: u32 = 10;

/// `GET /admin/placements`.
pub(crate) async fn placements(State(app): State<Arc<App>>) -> Response {
    let Some(listener) = app.fleet.dispatch().placements().listen() else {
        let why = "as many routers listen as may\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let content_type = (header::CONTENT_TYPE, "application/vnd.sluice.placements");
    let teller = Teller::new(app, listener);
    ([content_type], Body::new(Stream { next: Box::pin(teller.next()) })).into_response()
}

/// Says to one listener what there is to say.
struct Teller {
    app: Arc<App>,
    listener: Listener,
    ticks: Interval,
    ticked: u32,
    has_begun: bool,
    /// Lengths of tokens that were told.
    ratios: FxHashMap<ModelId, u32>,
}

impl Teller {
    fn new(app: Arc<App>, listener: Listener) -> Self {
        let mut ticks = tokio::time::interval(ALIVE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ratios = FxHashMap::default();
        Self { app, listener, ticks, ticked: 0, has_begun: false, ratios }
    }

    /// Waits for the next bytes; none once the router has ended.
    async fn next(mut self) -> Option<(Self, Bytes)> {
        let mut bytes = Vec::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            let fingerprint = fingerprint(&self.app.settings.load().reader);
            let hello = Hello { run: self.app.peers.run, fingerprint };
            write(&Frame::Hello(hello), &mut bytes);
        }
        while bytes.is_empty() {
            tokio::select! {
                told = self.listener.next() => {
                    if told.lost > 0 {
                        write(&Frame::Lost(told.lost), &mut bytes);
                    }
                    let frames = told.news.into_iter().filter_map(|it| frame(&self.app.fleet, it));
                    frames.for_each(|it| write(&it, &mut bytes));
                }
                _ = self.ticks.tick() => self.tick(&mut bytes),
                () = self.app.over.cancelled() => return None,
            }
        }
        Some((self, bytes.into()))
    }

    fn tick(&mut self, bytes: &mut Vec<u8>) {
        write(&Frame::Alive, bytes);
        if self.ticked.is_multiple_of(RATIOS_AGAIN) {
            self.ratios.clear();
        }
        self.ticked = self.ticked.wrapping_add(1);
        for (model, centibytes) in self.app.settings.load().reader.ratios.all() {
            if self.ratios.insert(model, centibytes) != Some(centibytes) {
                write(&Frame::Ratio { model, centibytes }, bytes);
            }
        }
    }
}

/// A piece of news as others read it; none where it is on a replica that has left.
fn frame(fleet: &Fleet, news: News) -> Option<Frame> {
    Some(match news {
        News::Placed { request, replica, cached } => {
            let replica = fleet.replica(replica)?.origin().to_string();
            Frame::Placed(Placed { request, replica, cached })
        }
        News::FirstToken(request) => Frame::FirstToken(request),
        News::Ended { request, outcome, output, cached } => {
            Frame::Ended(Ended { request, outcome, output, cached })
        }
        News::Lost => return None,
    })
}

type Next = Pin<Box<dyn Future<Output = Option<(Teller, Bytes)>> + Send>>;

/// The body: what is said next is asked for when the one before was taken.
struct Stream {
    next: Next,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let Poll::Ready(next) = self.next.as_mut().poll(cx) else { return Poll::Pending };
        let Some((teller, bytes)) = next else {
            self.next = Box::pin(std::future::ready(None));
            return Poll::Ready(None);
        };
        self.next = Box::pin(teller.next());
        Poll::Ready(Some(Ok(BodyFrame::data(bytes))))
    }
}
