//! A replica that keeps its connections, and answers each POST as a test says.

use std::future::Future;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What is done about one request: whether its connection is kept.
pub enum Then {
    Keep,
    Close,
}

/// Starts one; `serve` gets the body of each POST, in whatever order they come. All else is answered with 200.
pub async fn replica<F>(
    serve: impl Fn(TcpStream, Vec<u8>) -> F + Clone + Send + Sync + 'static,
) -> String
where
    F: Future<Output = (TcpStream, Then)> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let serve = serve.clone();
            tokio::spawn(async move { keep(socket, serve).await });
        }
    });
    url
}

async fn keep<F>(mut socket: TcpStream, serve: impl Fn(TcpStream, Vec<u8>) -> F)
where
    F: Future<Output = (TcpStream, Then)>,
{
    socket.set_nodelay(true).unwrap();
    let mut bytes = Vec::new();
    while let Some((is_post, body)) = message(&mut socket, &mut bytes).await {
        if !is_post {
            if socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
            continue;
        }
        let then;
        (socket, then) = serve(socket, body).await;
        if matches!(then, Then::Close) {
            return;
        }
    }
}

/// The next request or answer with a length: whether it is a POST, or an answer of 200, and its body. What comes
/// after it stays in `bytes`. Nothing where the connection ends.
pub async fn message(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(bool, Vec<u8>)> {
    loop {
        if let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length =
                head.lines().find_map(|it| it.strip_prefix("content-length: ")?.parse().ok());
            let all = end + 4 + length.unwrap_or(0);
            if all <= bytes.len() {
                let body = bytes[end + 4..all].to_vec();
                bytes.drain(..all);
                return Some((head.starts_with("post ") || head.starts_with("http/1.1 200"), body));
            }
        }
        if socket.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// What an honest replica says, whose answer is `body`.
pub fn answer(body: &[u8]) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let head = format!("{head}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
