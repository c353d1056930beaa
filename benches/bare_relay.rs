//! A proxy that only passes on, built on what the router is built on: what axum and hyper cost.
//!
//! `bare-relay LISTEN REPLICA…`, for example `bare-relay 127.0.0.1:21902 127.0.0.1:21111`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, body::Body, extract::State, response::Response};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

struct Relay {
    client: Client<HttpConnector, Full<bytes::Bytes>>,
    replicas: Vec<String>,
    next: AtomicUsize,
}

async fn relay(State(relay): State<Arc<Relay>>, request: Request<Body>) -> Response {
    let turn = relay.next.fetch_add(1, Ordering::Relaxed) % relay.replicas.len().max(1);
    let failed = |_| StatusCode::BAD_GATEWAY;
    let pass = async {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await.map_err(failed)?.to_bytes();
        let replica = relay.replicas.get(turn).ok_or(StatusCode::BAD_GATEWAY)?;
        head.uri = format!("http://{replica}{}", head.uri.path())
            .parse::<Uri>()
            .map_err(|_| StatusCode::BAD_GATEWAY)?;
        head.headers.remove(http::header::HOST);
        let request = Request::from_parts(head, Full::new(body));
        let answer = relay.client.request(request).await.map_err(|_| StatusCode::BAD_GATEWAY)?;
        Ok::<_, StatusCode>(answer.map(Body::new))
    };
    pass.await.unwrap_or_else(|status| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response
    })
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:21902".to_owned());
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let relay_state = Arc::new(Relay {
        client: Client::builder(TokioExecutor::new()).build(connector),
        replicas: arguments.collect(),
        next: AtomicUsize::new(0),
    });
    let listener = tokio::net::TcpListener::bind(listen).await?;
    axum::serve(listener, Router::new().fallback(relay).with_state(relay_state)).await
}
