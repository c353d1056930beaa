//! The whole path of a request.
//!
//! ```text
//! client ─► intake ─► place ─► upstream ─► relay ─► client
//!             │         │         │          │
//!             └─────────┴────┬────┴──────────┘
//!                         passage: what the request carries, and gives back when dropped
//! ```
//!
//! The passage exists before the first `.await`. Whichever way the request ends, at its last byte,
//! in an error or because the client hung up, the passage is dropped, and that is the one place
//! where the ticket is given back, the metrics are counted and the line is logged.

use http::{Request, Response};
use hyper::body::Incoming;
use wire::openai::Endpoint;

use crate::{
    app::App,
    intake,
    passage::Passage,
    reject::{self, Refusal},
    relay,
    reply::Reply,
    upstream::{self, Answer},
};

/// Serves one request of the data port.
pub(crate) async fn complete(
    app: &App,
    endpoint: Endpoint,
    request: &mut Request<Incoming>,
) -> Response<Reply> {
    let mut passage = Passage::begin(app, endpoint, request.headers());
    match answer(app, &mut passage, request).await {
        Ok(answer) => relay::stream(app, answer, passage),
        Err(refusal) => reject::respond(&refusal, passage),
    }
}

async fn answer(
    app: &App,
    passage: &mut Passage,
    request: &mut Request<Incoming>,
) -> Result<Answer, Refusal> {
    // Parses what routing needs and names the prompt's blocks.
    let intake = intake::read(app, passage, request).await?;
    // Chooses a replica and reserves the request's place on it, when one has room.
    passage.place(app, intake.request).await?;
    // Retries end at the first byte of an answer.
    upstream::send(app, passage, &intake.outbound).await
}
