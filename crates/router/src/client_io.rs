//! A client's connection, given up when the client stops reading, or never begins to write.
//!
//! A stream is held back by its slowest part, so a client that reads nothing holds its replica's
//! memory and a place in the batch for as long as it likes. Slow is fine; not one byte taken for
//! [`Timeouts::client_stall`](crate::config::Timeouts::client_stall) is not.
//!
//! Which protocol a client speaks is told by its first bytes, and until it is known neither protocol's
//! own bound on time is in force. So those bytes have one here. All that has come with them is handed on
//! at once: were it only as much as tells the protocols apart, what reads requests would want twice the room for
//! the rest, for as long as the connection lives.

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// What a client says first that speaks HTTP/2, and one that speaks HTTP/1 never says.
const HTTP2_GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most that is read before it is known what a client speaks.
const GREETING_BYTES_MAX: usize = 8 << 10;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// A connection whose first bytes have come, and whose writes may not stand still.
#[derive(Debug)]
pub(crate) struct ClientIo<T> {
    io: TokioIo<T>,
    /// What has come and was not read yet.
    greeting: Vec<u8>,
    stall: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<T> ClientIo<T> {
    /// A connection that is given up when a write has waited for `stall`.
    fn new(io: T, stall: Duration) -> Self {
        Self { io: TokioIo::new(io), greeting: Vec::new(), stall, waiting: None }
    }

    /// Passes on what a write came to, unless it has waited for too long.
    fn bound<R>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let stall = self.stall;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(waiting.as_mut().poll(cx));
        let told = "the client takes no more bytes";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, told)))
    }
}

impl<T: AsyncRead + Unpin> ClientIo<T> {
    /// Waits until the client on `io` has said which protocol it speaks, but no longer than for `within`. Given up
    /// later when a write has waited for `stall`.
    ///
    /// # Errors
    ///
    /// When the client closes the connection first, or says nothing in time.
    pub(crate) async fn greeted(
        io: T,
        within: Duration,
        stall: Duration,
    ) -> io::Result<(Self, Protocol)> {
        let mut this = Self::new(io, stall);
        let protocol = tokio::time::timeout(within, poll_fn(|cx| this.poll_greeting(cx))).await??;
        Ok((this, protocol))
    }

    fn poll_greeting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Protocol>> {
        loop {
            let known = self.greeting.len().min(HTTP2_GREETING.len());
            if !HTTP2_GREETING.starts_with(self.greeting.get(..known).unwrap_or_default()) {
                return Poll::Ready(Ok(Protocol::Http1));
            }
            if known == HTTP2_GREETING.len() {
                return Poll::Ready(Ok(Protocol::Http2));
            }
            // On the stack: who says nothing holds no room.
            let mut room = [0; GREETING_BYTES_MAX];
            let mut room = ReadBuf::new(&mut room);
            ready!(Pin::new(self.io.inner_mut()).poll_read(cx, &mut room))?;
            if room.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.greeting.extend_from_slice(room.filled());
        }
    }
}

impl<T: AsyncRead + Unpin> Read for ClientIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.greeting.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let rest = this.greeting.split_off(this.greeting.len().min(buffer.remaining()));
        buffer.put_slice(&this.greeting);
        this.greeting = rest;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Write for ClientIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.bound(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, pieces);
        this.bound(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn write(io: &mut ClientIo<tokio::io::DuplexStream>, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, bytes)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut io = ClientIo::new(near, Duration::from_secs(60));
        let reading = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                far.read_u8().await.unwrap();
            }
            far
        });
        assert_eq!(write(&mut io, b"1234").await.unwrap(), 4);
        for _ in 0..5 {
            assert_eq!(write(&mut io, b"5").await.unwrap(), 1);
        }
        let _far = reading.await.unwrap();
        let error = write(&mut io, b"6").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// What a client's first bytes come to that come so many at a time.
    async fn greeted(bytes: &'static [u8], size: usize) -> io::Result<(Protocol, Vec<u8>)> {
        let (near, mut far) = tokio::io::duplex(64);
        tokio::spawn(async move {
            for part in bytes.chunks(size) {
                far.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            // It goes on listening.
            std::future::pending::<()>().await;
        });
        let within = Duration::from_secs(10);
        let (mut io, protocol) = ClientIo::greeted(near, within, within).await?;
        let mut read = Vec::new();
        while read.len() < bytes.len() {
            let mut room = [0; 5];
            let mut room = hyper::rt::ReadBuf::new(&mut room);
            poll_fn(|cx| Pin::new(&mut io).poll_read(cx, room.unfilled())).await?;
            read.extend_from_slice(room.filled());
        }
        Ok((protocol, read))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_known_by_its_first_bytes_and_none_of_them_is_lost() {
        let http2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let http1: &[u8] = b"PRICE /v1/models HTTP/1.1\r\nhost: r\r\n\r\n";
        for size in [1, 2, 7, 24, 64] {
            assert_eq!(greeted(http2, size).await.unwrap(), (Protocol::Http2, http2.to_vec()));
            assert_eq!(greeted(http1, size).await.unwrap(), (Protocol::Http1, http1.to_vec()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_or_half_is_given_up() {
        for bytes in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM"] {
            let began = tokio::time::Instant::now();
            let error = greeted(bytes, 64).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(began.elapsed().as_secs(), 10);
        }
    }
}
