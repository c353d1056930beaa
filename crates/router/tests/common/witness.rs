//! A replica that tells what reaches it, and clients that say what they like.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{CHAT, Stage};

/// A replica that keeps connections and every head that it is sent, and answers each with its body.
pub struct Witness {
    pub url: String,
    pub heads: Arc<Mutex<Vec<String>>>,
}

pub async fn witness() -> Witness {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(testify(socket, Arc::clone(&seen)));
        }
    });
    Witness { url, heads }
}

async fn testify(mut socket: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length =
                |line: &str| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok();
            let length: usize = head.lines().find_map(length).unwrap_or(0);
            if length <= rest.len() {
                let body = rest[..length].to_owned();
                if head.starts_with("POST ") {
                    seen.lock().unwrap().push(format!("{head}\r\n\r\n{body}"));
                }
                bytes.drain(..head.len() + 4 + length);
                let answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
        }
        match socket.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// How long a router may say nothing and keep the connection.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// What follows an ambiguous request: one of its own, if the router ends the first where it should
/// not.
fn smuggled() -> String {
    let body = r#"{"model":"evil","messages":[]}"#;
    format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Sends `bytes` and what is smuggled after them, and returns what comes back until the router
/// closes or has answered two requests.
pub async fn provoke(stage: &Stage, bytes: &str) -> String {
    let (answers, is_over) = provoked(stage, bytes).await;
    assert!(is_over, "still waiting: {answers}");
    answers
}

/// The same, and whether it came to that.
pub async fn provoked(stage: &Stage, bytes: &str) -> (String, bool) {
    let mut socket = TcpStream::connect(stage.data).await.unwrap();
    // The router may have closed before it has all of it.
    let _ = socket.write_all(bytes.as_bytes()).await;
    let _ = socket.write_all(smuggled().as_bytes()).await;
    let mut seen = Vec::new();
    let reading = async {
        while String::from_utf8_lossy(&seen).matches("HTTP/1.").count() < 2 {
            match socket.read_buf(&mut seen).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    // One that waits for more of a body gets none.
    let is_over = tokio::time::timeout(SILENCE_MAX, reading).await.is_ok();
    (String::from_utf8_lossy(&seen).into_owned(), is_over)
}
