//! A client's connection, given up when the client stops reading, or never begins to write.
//!
//! A stream is held back by its slowest part, so a client that reads nothing holds its replica's
//! memory and a place in the batch for as long as it likes. Slow is fine; not one byte taken for
//! [`Timeouts::client_stall`](crate::config::Timeouts::client_stall) is not.
//!
//! Which protocol a client speaks is told by its first bytes, and until it is known neither protocol's
//! own bound on time is in force. So those bytes have one here.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Sleep,
};

/// Bytes by which HTTP/2 is told from HTTP/1; nothing else is read with so short a buffer.
const GREETING_BYTES: usize = 24;

/// A connection whose first bytes may not take for ever, and whose writes may not stand still.
#[derive(Debug)]
pub(crate) struct ClientIo<T> {
    io: TokioIo<T>,
    greeting: Greeting,
    stall: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

/// The first bytes of a connection.
#[derive(Debug)]
enum Greeting {
    /// They may take so long.
    Within(Duration),
    /// They are waited for.
    Awaited(Pin<Box<Sleep>>),
    /// They have come.
    Over,
}

impl Greeting {
    /// Ready when there has been no greeting in time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Within(within) = self {
            *self = Self::Awaited(Box::pin(tokio::time::sleep(*within)));
        }
        let Self::Awaited(deadline) = self else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        let told = "the client says nothing";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, told)))
    }
}

impl<T> ClientIo<T> {
    /// Gives the connection up when its first bytes take longer than `head`, or a write has waited for
    /// `stall`.
    pub(crate) fn new(io: T, head: Duration, stall: Duration) -> Self {
        Self { io: TokioIo::new(io), greeting: Greeting::Within(head), stall, waiting: None }
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

impl<T: AsyncRead + Unpin> Read for ClientIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if GREETING_BYTES < buffer.remaining() {
            this.greeting = Greeting::Over;
        }
        let read = Pin::new(&mut this.io).poll_read(cx, buffer);
        if read.is_pending() { this.greeting.poll(cx) } else { read }
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
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn write(io: &mut ClientIo<tokio::io::DuplexStream>, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, bytes)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut io = ClientIo::new(near, Duration::from_secs(10), Duration::from_secs(60));
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
}
