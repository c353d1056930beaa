//! Requests as bytes, over connections of their own.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Opens a connection.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect(address);
    let socket = tokio::time::timeout(CONNECT_MAX, connecting).await??;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A request that asks for the connection to be closed after its answer.
pub(crate) fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// Asks over a connection of its own and returns all that comes, head and framing included.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<String> {
    let mut socket = connect(address).await?;
    socket.write_all(request(method, path, body).as_bytes()).await?;
    rest(&mut socket).await
}

/// All that comes until the connection closes.
pub(crate) async fn rest(socket: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    let read = socket.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // What came before a reset is an answer all the same.
    if text.is_empty() { read.map(|_| text) } else { Ok(text) }
}

/// The status of an answer.
pub(crate) fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}
