//! Connections and routes.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    completion::{App, complete, read},
    dialect::Dialect,
    error::ApiError,
    faults::Fault,
    metrics,
    reply::seconds_since_1970,
    stream::Events,
};

/// The vLLM release whose dialect this is, marked as not being it.
const VERSION: &str = "0.32.0+sluice";

/// Ends a connection without a proper end of the answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the connection breaks on purpose")]
pub(crate) struct Abrupt;

/// Why a request gets no good answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It gets an error.
    Api(ApiError),
    /// It gets nothing.
    Abrupt,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    Whole(Bytes),
    Events(Box<Events>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Abrupt;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Abrupt>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Events(events) => {
                events.poll_next(context).map(|piece| piece.map(|it| it.map(Frame::data)))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// A fault to switch to, and who waits until it is in force.
pub(crate) type Switch = (Fault, oneshot::Sender<io::Result<()>>);

/// Accepts connections for ever and switches faults.
pub(crate) async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
    mut switches: mpsc::Receiver<Switch>,
    fault: Fault,
) {
    let current = Arc::new(Mutex::new(fault));
    let mut listener = (fault != Fault::Down).then_some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some((fault, switched)) = switches.recv() => {
                *current.lock() = fault;
                if fault.severs() {
                    connections.shutdown().await;
                }
                let result = match (fault, &listener) {
                    (Fault::Down, _) => {
                        listener = None;
                        app.replica.restart();
                        Ok(())
                    }
                    (_, Some(_)) => Ok(()),
                    (_, None) => TcpListener::bind(address).await.map(|it| listener = Some(it)),
                };
                // Whoever asked may have stopped waiting.
                let _ = switched.send(result);
            }
            stream = accept(listener.as_ref()) => {
                let (app, current) = (Arc::clone(&app), Arc::clone(&current));
                connections.spawn(connection(app, current, stream));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of file descriptors: wait for some to come back.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn connection(app: Arc<App>, current: Arc<Mutex<Fault>>, mut stream: TcpStream) {
    // Each token is a small write that must not wait for the next one.
    let _ = stream.set_nodelay(true);
    if *current.lock() == Fault::GarbageBytes {
        let _ = stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n").await;
        return;
    }
    let service = service_fn(|request| {
        let (app, fault) = (Arc::clone(&app), *current.lock());
        async move {
            match route(&app, request, fault).await {
                Ok(response) => Ok(response),
                Err(Failure::Api(error)) => Ok(json(error.status, error.body())),
                Err(Failure::Abrupt) => Err(Abrupt),
            }
        }
    });
    // An error here is a client that hung up or a fault that broke the connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn route(
    app: &App,
    request: Request<Incoming>,
    fault: Fault,
) -> Result<Response<Body>, Failure> {
    if fault == Fault::Silence {
        return std::future::pending().await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match (path.as_str(), method) {
        ("/v1/chat/completions", Method::POST) => {
            generate(app, Dialect::Chat, request, fault).await
        }
        ("/v1/completions", Method::POST) => {
            generate(app, Dialect::Completion, request, fault).await
        }
        ("/health", Method::GET) => {
            if let Fault::SlowHealth(delay) = fault {
                tokio::time::sleep(delay).await;
            }
            Ok(Response::new(Body::Whole(Bytes::new())))
        }
        ("/ping", Method::GET | Method::POST) => Ok(Response::new(Body::Whole(Bytes::new()))),
        ("/metrics", Method::GET) => Ok(metrics_page(app)),
        ("/v1/models", Method::GET) => Ok(json(StatusCode::OK, models(app))),
        ("/version", Method::GET) => {
            Ok(json(StatusCode::OK, format!("{{\"version\":\"{VERSION}\"}}")))
        }
        ("/load", Method::GET) => {
            let in_flight = app.replica.snapshot().in_flight;
            Ok(json(StatusCode::OK, format!("{{\"server_load\":{in_flight}}}")))
        }
        ("/reset_prefix_cache", Method::POST) => {
            let success = app.replica.reset_prefix_cache();
            Ok(json(StatusCode::OK, format!("{{\"success\":{success}}}")))
        }
        (path, _) => Ok(no_route(path)),
    }
}

async fn generate(
    app: &App,
    dialect: Dialect,
    request: Request<Incoming>,
    fault: Fault,
) -> Result<Response<Body>, Failure> {
    match fault {
        Fault::CloseBeforeAnswer => {
            read(request.into_body()).await?;
            Err(Failure::Abrupt)
        }
        Fault::GarbageBody => Ok(json(StatusCode::OK, "<html>not what you asked for")),
        Fault::Status { code, retry_after } => Ok(failing(code, retry_after)),
        Fault::None
        | Fault::Down
        | Fault::GarbageBytes
        | Fault::Silence
        | Fault::BreakAfter(_)
        | Fault::StallAfter(_)
        | Fault::EngineDeathAfter(_)
        | Fault::SlowHealth(_) => complete(app, dialect, request, fault).await,
    }
}

fn failing(code: u16, retry_after: Option<Duration>) -> Response<Body> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, ApiError::of_status(status).body());
    if let Some(delay) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, delay.as_secs().into());
    }
    response
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    typed(status, body, "application/json")
}

fn typed(status: StatusCode, body: impl Into<Bytes>, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::Whole(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn metrics_page(app: &App) -> Response<Body> {
    let page = metrics::render(&app.model, &app.profile, &app.replica.snapshot());
    typed(StatusCode::OK, page, "text/plain; version=1.0.0; charset=utf-8")
}

fn models(app: &App) -> String {
    let model = serde_json::Value::from(app.model.as_str());
    let (created, context) = (seconds_since_1970(), app.profile.max_model_len);
    format!(
        "{{\"object\":\"list\",\"data\":[{{\"id\":{model},\"object\":\"model\",\
         \"created\":{created},\"owned_by\":\"vllm\",\"root\":{model},\"parent\":null,\
         \"max_model_len\":{context},\"permission\":[{{\"id\":\"modelperm-{:016x}\",\
         \"object\":\"model_permission\",\"created\":{created},\"allow_create_engine\":false,\
         \"allow_sampling\":true,\"allow_logprobs\":true,\"allow_search_indices\":false,\
         \"allow_view\":true,\"allow_fine_tuning\":false,\"organization\":\"*\",\"group\":null,\
         \"is_blocking\":false}}]}}]}}",
        app.id_seed
    )
}

/// 405 where another method would do, else 404.
fn no_route(path: &str) -> Response<Body> {
    let allowed = match path {
        "/v1/chat/completions" | "/v1/completions" | "/reset_prefix_cache" => "POST",
        "/health" | "/ping" | "/metrics" | "/v1/models" | "/version" | "/load" => "GET",
        _ => return json(StatusCode::NOT_FOUND, "{\"detail\":\"Not Found\"}"),
    };
    let body = "{\"detail\":\"Method Not Allowed\"}";
    let mut response = json(StatusCode::METHOD_NOT_ALLOWED, body);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}
