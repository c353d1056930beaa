//! The body of an answer: something whole, or what a replica sends.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use crate::{h2_streams, relay::Relay};

/// The body of an answer on the data port.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Written by the router itself.
    Whole(Full<Bytes>),
    /// Relayed from a replica. Boxed, so that connections that wait take little memory.
    Relayed(Box<Relay>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = match self.get_mut() {
            Self::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|it| it.map(|frame| frame.map_err(|never| match never {}))),
            Self::Relayed(relay) => Pin::new(&mut **relay).poll_frame(cx),
        };
        h2_streams::body_said(&piece);
        piece
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Relayed(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Relayed(relay) => relay.size_hint(),
        }
    }
}

/// An answer in JSON that the router writes itself.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Full::new(body.into())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
