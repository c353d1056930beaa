//! Connections against a server that is played byte by byte.

use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

async fn pool() -> (Arc<Pool>, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    (
        Pool::new(Connector::new(Duration::from_secs(1), None), origin, Duration::from_secs(60), 8),
        listener,
    )
}

/// A pool for which what was sent for less than `within` may not have been seen.
async fn pool_that_sends_again(within: Duration) -> (Arc<Pool>, TcpListener) {
    let (mut pool, listener) = pool().await;
    Arc::get_mut(&mut pool).unwrap().closing_seen_within = within;
    (pool, listener)
}

fn request() -> Message {
    Request::post("/v1/completions").body(Bytes::from("ask")).unwrap()
}

/// Reads up to the end of a request; false where the other side has closed.
async fn read_request(socket: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    while !seen.ends_with(b"ask") {
        match socket.read_buf(&mut seen).await {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    let text = String::from_utf8(seen).unwrap().to_ascii_lowercase();
    assert!(text.starts_with("post /v1/completions http/1.1\r\n"), "{text}");
    assert!(text.contains("\r\nhost: 127.0.0.1:"), "{text}");
    true
}

async fn whole(pool: &Arc<Pool>) -> Bytes {
    let response = pool.send(&request(), false).await.unwrap();
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let (pool, listener) = pool().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let nth = count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut asked = 0;
                while read_request(&mut socket).await {
                    asked += 1;
                    let answer: &[u8] = match asked % 3 {
                        0 => b"HTTP/1.1 204 No Content\r\n\r\n",
                        1 => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                        _ => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                    };
                    socket.write_all(answer).await.unwrap();
                    // The first of all is closed after four answers.
                    if nth == 0 && asked == 4 {
                        return;
                    }
                }
            });
        }
    });
    for asked in 1..=9 {
        let answer = whole(&pool).await;
        assert!(answer == "ok" || answer.is_empty(), "{asked}: {answer:?}");
        // Until what was closed is known to be.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(accepted.load(Ordering::Relaxed), 2);
    assert_eq!(pool.idle.lock().len(), 1);
}

#[tokio::test]
async fn pieces_come_as_they_are_sent_and_a_body_that_is_dropped_closes_its_connection() {
    let (pool, listener) = pool().await;
    let (tell, mut told) = tokio::sync::mpsc::channel::<()>(1);
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut socket).await);
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        socket.write_all(head).await.unwrap();
        while told.recv().await.is_some() {
            socket.write_all(b"5\r\npiece\r\n").await.unwrap();
        }
        socket.read(&mut [0]).await.unwrap_or(0)
    });
    let mut body = pool.send(&request(), false).await.unwrap().into_body();
    for _ in 0..100 {
        tell.send(()).await.unwrap();
        let piece = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap();
        assert_eq!(piece.unwrap().unwrap().into_data().unwrap(), "piece");
    }
    drop(tell);
    drop(body);
    assert_eq!(server.await.unwrap(), 0, "the server sees its end");
    assert!(pool.idle.lock().is_empty());
}

#[tokio::test]
async fn a_long_answer_comes_whole() {
    let (pool, listener) = pool().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        while read_request(&mut socket).await {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n";
            socket.write_all(head).await.unwrap();
            socket.write_all(&vec![b'x'; 3_000_000]).await.unwrap();
        }
    });
    for _ in 0..2 {
        assert_eq!(whole(&pool).await.len(), 3_000_000);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_so_is_none() {
    let (pool, listener) = pool().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut socket).await);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        drop(socket);
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut socket).await);
    });
    let broken = pool.send(&request(), false).await.unwrap().into_body().collect().await;
    assert!(broken.is_err());
    assert!(matches!(pool.send(&request(), false).await, Err(SendError::Http1(_))));
    let refused = pool.send(&request(), false).await.unwrap_err();
    assert!(matches!(refused, SendError::Connect(_)));
    assert_eq!(crate::client::failure_of(&refused), crate::health::Failure::Refused);
}

/// A server that reads the second request of every connection and closes without a word.
async fn who_answers_once(listener: TcpListener, asked: Arc<AtomicUsize>) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            assert!(read_request(&mut socket).await);
            asked.fetch_add(1, Ordering::Relaxed);
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            if read_request(&mut socket).await {
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

#[tokio::test]
async fn a_connection_that_was_closing_when_it_was_sent_on_costs_no_request() {
    let (pool, listener) = pool_that_sends_again(Duration::from_secs(60)).await;
    let asked = Arc::new(AtomicUsize::new(0));
    tokio::spawn(who_answers_once(listener, Arc::clone(&asked)));
    // Two kept ones: where one was closing, the other is not tried either.
    let ask = request();
    let both = tokio::join!(pool.send(&ask, false), pool.send(&ask, false));
    for response in [both.0, both.1] {
        assert_eq!(response.unwrap().into_body().collect().await.unwrap().to_bytes(), "ok");
    }
    assert_eq!(pool.idle.lock().len(), 2);
    assert_eq!(whole(&pool).await, "ok");
    assert_eq!(asked.load(Ordering::Relaxed), 4, "asked again once, on a connection of its own");
    assert_eq!(pool.resent(), 1);
}

#[tokio::test]
async fn a_request_that_a_replica_had_for_long_is_not_sent_to_it_again() {
    // However soon it breaks, that is too late.
    let (pool, listener) = pool_that_sends_again(Duration::ZERO).await;
    let asked = Arc::new(AtomicUsize::new(0));
    tokio::spawn(who_answers_once(listener, Arc::clone(&asked)));
    assert_eq!(whole(&pool).await, "ok");
    assert!(matches!(pool.send(&request(), false).await, Err(SendError::Http1(_))));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(pool.resent(), 0);
}

#[tokio::test]
async fn a_request_that_a_replica_took_and_died_is_not_sent_again() {
    let (pool, listener) = pool_that_sends_again(Duration::from_secs(60)).await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut socket).await);
        // Nobody else can connect.
        drop(listener);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        assert!(read_request(&mut socket).await);
    });
    assert_eq!(whole(&pool).await, "ok");
    assert!(matches!(pool.send(&request(), false).await, Err(SendError::Http1(_))));
    assert_eq!(pool.resent(), 0);
}

/// Requests at once, each on a connection of its own, and how many the server's queue holds: more than are under way
/// when the whole process was held up for a while, and far less than all.
const BURST: usize = 1_000;
const QUEUE: u32 = 256;

#[tokio::test]
async fn a_burst_of_requests_does_not_overrun_the_queue_of_a_busy_server() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(QUEUE).unwrap();
    let origin = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    // What the queue drops comes again after a second.
    let connector = Connector::new(Duration::from_millis(900), None);
    let pool = Pool::new(connector, origin, Duration::from_secs(60), BURST);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(read_request(&mut socket).await);
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
            socket.write_all(answer).await.unwrap();
        }
    });
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..BURST {
        let pool = Arc::clone(&pool);
        asked.spawn(async move { whole(&pool).await });
    }
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap(), "ok");
    }
}

#[tokio::test]
async fn what_is_not_used_any_more_is_closed() {
    let (pool, listener) = pool().await;
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut socket).await);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        socket.read(&mut [0]).await.unwrap()
    });
    assert_eq!(whole(&pool).await, "ok");
    pool.tidy();
    assert_eq!(pool.idle.lock().len(), 1);
    pool.idle.lock().iter_mut().for_each(|it| it.0 -= Duration::from_secs(61));
    pool.tidy();
    assert_eq!(pool.idle.lock().len(), 0);
    assert_eq!(server.await.unwrap(), 0, "the server sees its end");
}

/// An answer that a server sends without reading the request to its end, then closes.
#[tokio::test]
async fn an_answer_that_comes_before_the_request_is_sent_is_an_answer() {
    let (pool, listener) = pool().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 64]).await.unwrap();
        socket.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let long = Request::post("/").body(Bytes::from(vec![b'x'; 32 << 20])).unwrap();
    let response = pool.send(&long, false).await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "no");
    assert!(pool.idle.lock().is_empty(), "nobody knows where its next request would begin");
}

#[tokio::test]
async fn what_comes_before_an_answer_or_behind_it_is_none_of_it() {
    let (pool, listener) = pool().await;
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(read_request(&mut socket).await);
            let early =
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n".repeat(1_000);
            let late = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
            let answer = format!("{early}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{late}");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    for _ in 0..3 {
        assert_eq!(whole(&pool).await, "ok");
        assert!(pool.idle.lock().is_empty());
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up() {
    let (pool, listener) = pool().await;
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut socket).await);
        socket.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
        while socket.write_all(&[b'y'; 4_096]).await.is_ok() {}
    });
    let failed = pool.send(&request(), false).await.unwrap_err();
    assert!(matches!(failed, SendError::Http1(Failed::HeadTooLong)), "{failed:?}");
}

#[tokio::test]
async fn a_request_is_framed_by_what_is_sent() {
    let (pool, listener) = pool().await;
    let seen = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"ask") {
            assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0);
        }
        socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8(seen).unwrap()
    });
    let forged = Request::post("/a?b=c")
        .header("content-length", "9")
        .header("transfer-encoding", "chunked");
    pool.send(&forged.body(Bytes::from("ask")).unwrap(), false).await.unwrap();
    let host = &pool.host;
    let expected = format!("POST /a?b=c HTTP/1.1\r\nhost: {host}\r\ncontent-length: 3\r\n\r\nask");
    assert_eq!(seen.await.unwrap(), expected);
}
