//! What clients see that keep their connections while the router ends, and ask nobody whether it does. Named in
//! docs/reliability.md by the id D1.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use common::{CHAT, Stage, chat, config, raw, received, stage_with, until};
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use policy::config::StrategyName::RoundRobin;
use router::config::Drain;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

/// A router that serves for so long after it was told to end, and then waits for answers for as long as they take.
async fn stage(lame_duck: Duration) -> Stage {
    let mut config = config(RoundRobin);
    config.drain = Drain { lame_duck, timeout: LONG };
    stage_with(config, 1).await
}

/// Longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(60);

async fn ending(stage: &Stage) {
    stage.stop.cancel();
    until("it is not ready", async || stage.admin(Method::GET, "/readyz", "").await.status == 503)
        .await;
}

fn question(output: u32, stream: bool) -> Request<Full<Bytes>> {
    let body = Full::from(chat("hi", output, stream).to_string());
    Request::post(format!("http://r{CHAT}")).header("host", "r").body(body).unwrap()
}

/// An HTTP/2 client, and what becomes of its connection.
async fn h2(
    to: SocketAddr,
) -> (http2::SendRequest<Full<Bytes>>, JoinHandle<Result<(), hyper::Error>>) {
    let io = TokioIo::new(TcpStream::connect(to).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn says_close(answer: &Response<Incoming>) -> bool {
    answer.headers().get("connection").is_some_and(|it| it == "close")
}

#[tokio::test]
async fn d1_clients_that_keep_their_connections_are_told_to_leave_and_lose_nothing() {
    let stage = stage(LONG).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let io = TokioIo::new(TcpStream::connect(stage.data).await.unwrap());
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        clients.push(tokio::spawn(async move {
            for served in 1_u32.. {
                let answer = sender.send_request(question(1, served.is_multiple_of(2))).await;
                let answer = answer.expect("it was sent over a connection that was open");
                assert_eq!(answer.status(), 200);
                let is_last = says_close(&answer);
                assert!(!received(answer).await.body.contains("\"error\""));
                if is_last {
                    return served;
                }
                // A request goes out only where no end has come.
                if sender.ready().await.is_err() {
                    return 0;
                }
            }
            0
        }));
    }
    until("all are served", async || {
        60 <= stage.metric("sluice_requests_total{outcome=\"complete\"}").await
    })
    .await;
    stage.stop.cancel();
    for client in clients {
        let served = tokio::time::timeout(Duration::from_secs(20), client).await.unwrap().unwrap();
        assert_ne!(served, 0, "its connection was closed without a word");
    }
}

#[tokio::test]
async fn d1_a_stream_that_has_begun_is_no_last_answer_and_the_next_is() {
    let stage = stage(LONG).await;
    let io = TokioIo::new(TcpStream::connect(stage.data).await.unwrap());
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let open = sender.send_request(question(100, true)).await.unwrap();
    ending(&stage).await;
    assert!(!says_close(&open));
    assert!(received(open).await.body.ends_with("data: [DONE]\n\n"));
    sender.ready().await.unwrap();
    let last = sender.send_request(question(1, true)).await.unwrap();
    assert!(says_close(&last));
    assert!(received(last).await.body.ends_with("data: [DONE]\n\n"));
    connection.await.unwrap().unwrap();
    let unknown = raw::send(stage.data, "GET /nowhere HTTP/1.1\r\nhost: r\r\n\r\n").await;
    let unknown = raw::rest(unknown).await.to_lowercase();
    assert!(unknown.contains("404") && unknown.contains("connection: close"), "{unknown}");
}

#[tokio::test]
async fn d1_http2_connections_are_told_to_go_away_and_their_streams_end() {
    let stage = stage(LONG).await;
    let (mut sender, connection) = h2(stage.data).await;
    let (idle, unused) = h2(stage.data).await;
    let open = sender.send_request(question(150, true)).await.unwrap();
    ending(&stage).await;
    assert!(received(open).await.body.ends_with("data: [DONE]\n\n"));
    connection.await.unwrap().expect("it ends as connections should");
    unused.await.unwrap().unwrap();
    assert!(sender.is_closed() && idle.is_closed());
}

#[tokio::test]
async fn d1_an_http2_connection_that_comes_late_is_served_first_and_then_told() {
    let stage = stage(LONG).await;
    ending(&stage).await;
    let (mut late, connection) = h2(stage.data).await;
    let answer = received(late.send_request(question(3, true)).await.unwrap()).await;
    assert!(answer.body.ends_with("data: [DONE]\n\n"));
    assert!(answer.headers.get("connection").is_none());
    connection.await.unwrap().unwrap();
}

/// How an HTTP/2 client begins: its greeting, and settings without a word.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Reads frames up to the headers of stream 1; what they hold.
async fn headers(socket: &mut TcpStream) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        // Fails where the connection is not open any more.
        socket.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        socket.read_exact(&mut payload).await.unwrap();
        if head[3] == 1 && head[8] == 1 {
            return payload;
        }
    }
}

#[tokio::test]
async fn d1_an_http2_client_that_is_slow_to_hear_that_it_is_to_leave_is_served() {
    let stage = stage(LONG).await;
    let mut socket = TcpStream::connect(stage.data).await.unwrap();
    socket.write_all(GREETING).await.unwrap();
    // Until it has been read.
    tokio::time::sleep(Duration::from_millis(50)).await;
    ending(&stage).await;
    // Longer than a connection that asks for nothing has once the port is closed, which it is not.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // Whole headers that end the request: GET http://r/v1/models.
    let request = b"\0\0\x11\x01\x05\0\0\0\x01\x82\x86\x44\x0a/v1/models\x41\x01r";
    socket.write_all(request).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(20), headers(&mut socket)).await.unwrap();
    assert_eq!(answer.first(), Some(&0x88), "its status is 200");
}

#[tokio::test]
async fn d1_what_was_sent_before_the_port_closes_is_answered() {
    let mut stage = stage(Duration::ZERO).await;
    let body = chat("hi", 1, false).to_string();
    let length = body.len();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: {length}\r\n\r\n");
    let mut kept = Vec::new();
    for _ in 0..20 {
        let mut socket = raw::post(stage.data, CHAT, &body).await;
        let mut seen = Vec::new();
        while !seen.ends_with(b"}") {
            socket.read_buf(&mut seen).await.unwrap();
        }
        kept.push(socket);
    }
    for socket in &mut kept {
        socket.write_all((head.clone() + &body).as_bytes()).await.unwrap();
    }
    stage.stop.cancel();
    for socket in kept {
        let answer = raw::rest(socket).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    tokio::time::timeout(Duration::from_secs(5), &mut stage.router).await.unwrap().unwrap();
}

#[tokio::test]
async fn d1_who_has_connected_before_the_port_closes_is_answered() {
    let stage = stage(Duration::ZERO).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(std::net::TcpStream::connect(stage.data).unwrap());
    }
    // Nothing of the router runs until something is waited for: it has not even seen the last of them.
    stage.stop.cancel();
    let body = chat("hi", 1, false).to_string();
    let length = body.len();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: {length}\r\n\r\n");
    for socket in &mut sockets {
        std::io::Write::write_all(socket, (head.clone() + &body).as_bytes()).unwrap();
    }
    for socket in sockets {
        socket.set_nonblocking(true).unwrap();
        let answer = raw::rest(TcpStream::from_std(socket).unwrap()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    }
}

/// Has the router end beside a client that has said so much and keeps its connection; what the client was sent.
async fn ended_beside(bytes: &[u8]) -> Vec<u8> {
    let mut stage = stage(Duration::ZERO).await;
    let mut socket = TcpStream::connect(stage.data).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    // Until it has been read.
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), &mut stage.router).await.unwrap().unwrap();
    let mut seen = Vec::new();
    let _ = socket.read_to_end(&mut seen).await;
    seen
}

#[tokio::test]
async fn d1_who_has_sent_half_a_head_when_the_port_closes_holds_up_nothing() {
    let half = format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\nx-half: ");
    assert_eq!(ended_beside(half.as_bytes()).await, b"");
    // The frames of HTTP/2: nothing that is asked, and headers that are to be continued.
    ended_beside(GREETING).await;
    ended_beside(&[GREETING, b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat()).await;
}

#[tokio::test]
async fn d1_who_sends_the_rest_of_a_head_as_the_port_closes_is_answered() {
    let mut stage = stage(Duration::ZERO).await;
    let body = chat("hi", 1, false).to_string();
    let mut socket = TcpStream::connect(stage.data).await.unwrap();
    let half = format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\n");
    socket.write_all(half.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stage.stop.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let rest = format!("content-length: {}\r\n\r\n{body}", body.len());
    socket.write_all(rest.as_bytes()).await.unwrap();
    let answer = raw::rest(socket).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    tokio::time::timeout(Duration::from_secs(5), &mut stage.router).await.unwrap().unwrap();
}
