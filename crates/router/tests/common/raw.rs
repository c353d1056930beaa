//! A replica of a few lines, for what no emulated one does or tells.

use std::future::Future;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Runs a replica that is well, lists no models, and has `serve` answer each POST, which it gets
/// as it came. Every connection serves one request. Returns the replica's URL.
pub async fn replica<F>(serve: impl Fn(TcpStream, String) -> F + Clone + Send + 'static) -> String
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let serve = serve.clone();
            tokio::spawn(async move {
                let Some(request) = receive(&mut socket).await else { return };
                if request.starts_with("POST ") {
                    serve(socket, request).await;
                } else {
                    let well = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    // The router may have given up on its probe.
                    let _ = socket.write_all(well).await;
                }
            });
        }
    });
    url
}

/// One request, head and body; nothing when the connection ends before that.
pub async fn receive(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse().unwrap())
            });
            if length.unwrap_or(0) <= body.len() {
                return Some(text.into_owned());
            }
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Sends a POST over a connection of its own, which the caller may drop at any time.
pub async fn post(to: std::net::SocketAddr, path: &str, body: &str) -> TcpStream {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: r\r\ncontent-length: {length}\r\n\r\n");
    send(to, &(head + body)).await
}

/// Sends `bytes` over a connection of its own.
pub async fn send(to: std::net::SocketAddr, bytes: &str) -> TcpStream {
    let mut socket = TcpStream::connect(to).await.unwrap();
    socket.write_all(bytes.as_bytes()).await.unwrap();
    socket
}

/// What comes until the other side closes.
pub async fn rest(mut socket: TcpStream) -> String {
    let mut bytes = Vec::new();
    let reading = socket.read_to_end(&mut bytes);
    tokio::time::timeout(super::PATIENCE, reading).await.unwrap().unwrap();
    String::from_utf8(bytes).unwrap()
}
