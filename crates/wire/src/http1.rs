//! Answers over HTTP/1.1, as who asked for them reads them.
//!
//! [`take_head`] reads the head of an answer, and its [`Framing`] then tells the body's bytes from those that
//! only say where it ends. The framing is read byte by byte and keeps no bytes, so that an answer may be cut
//! anywhere and a connection that waits holds nothing. Where servers disagree on what is meant, the strict
//! reading is taken: who follows on this connection must not be misled about where an answer ends.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};

mod framing;

pub use framing::{Framing, Piece};

/// Most lines of a head.
const HEADERS_MAX: usize = 100;

/// Lines that there is room for beyond those of the head: what the router adds to most answers.
const HEADERS_ADDED: usize = 9;

/// Why bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// They are not HTTP/1.
    #[error("it is not HTTP/1: {0}")]
    Head(httparse::Error),
    /// The status is none.
    #[error("its status is none")]
    Status,
    /// Its length is told twice and differently, or is none.
    #[error("its content-length is none")]
    Length,
    /// It is in chunks, which HTTP/1.0 does not know.
    #[error("it is HTTP/1.0 and has a transfer-encoding")]
    Encoding,
    /// A chunk does not begin or end as it should.
    #[error("its chunks are not")]
    Chunk,
    /// More is said of its chunks than anybody would say.
    #[error("its chunks have too much beside them")]
    Overhead,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// The version that the server speaks.
    pub version: Version,
    /// Its header lines; of lengths there is one at the most, and none where there are chunks.
    pub headers: HeaderMap,
    /// How its body ends.
    pub framing: Framing,
    /// Whether the server will take another request on the same connection.
    pub keeps_connection: bool,
}

/// Takes the head of an answer to a `GET` or `POST` off the front of `bytes`; `None`, and nothing taken, while its
/// end is not there.
///
/// # Errors
///
/// [`BadAnswer`] when what is there can't become one.
pub fn take_head(bytes: &mut BytesMut) -> Result<Option<Head>, BadAnswer> {
    let mut lines = [MaybeUninit::uninit(); HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let read = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        bytes,
        &mut lines,
    );
    let length = match read.map_err(BadAnswer::Head)? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let status = parsed.code.and_then(|it| StatusCode::from_u16(it).ok());
    let status = status.ok_or(BadAnswer::Status)?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    // Where each line lies, so that the values need not be copied once the head is taken.
    let places: Vec<Line> = parsed.headers.iter().map(|it| Line::of(bytes, it)).collect();
    let head = bytes.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(places.len().saturating_add(HEADERS_ADDED));
    for place in places {
        let (name, value) = place.read(&head)?;
        headers.append(name, value);
    }
    // Whoever stands between may have believed the other one, and what follows is then not the next answer
    // (RFC 9112, 6.3).
    let is_framed_twice = headers.contains_key(header::CONTENT_LENGTH)
        && headers.contains_key(header::TRANSFER_ENCODING);
    let framing = framing_of(status, version, &mut headers)?;
    let keeps_connection =
        framing != Framing::UntilClose && !is_framed_twice && keeps(version, &headers);
    Ok(Some(Head { status, version, headers, framing, keeps_connection }))
}

/// Where a line's name and value lie in a head.
struct Line {
    name: (usize, usize),
    value: (usize, usize),
}

impl Line {
    fn of(head: &[u8], line: &httparse::Header<'_>) -> Self {
        let begin = head.as_ptr().addr();
        let place = |part: &[u8]| {
            // One without bytes may lie anywhere.
            if part.is_empty() {
                return (0, 0);
            }
            let from = part.as_ptr().addr().saturating_sub(begin);
            (from, from.saturating_add(part.len()))
        };
        Self { name: place(line.name.as_bytes()), value: place(line.value) }
    }

    fn read(&self, head: &Bytes) -> Result<(HeaderName, HeaderValue), BadAnswer> {
        let name = head.get(self.name.0..self.name.1).map(HeaderName::from_bytes);
        let name = name.and_then(Result::ok).ok_or(BadAnswer::Head(httparse::Error::HeaderName))?;
        let value = head.get(self.value.0..self.value.1).map(|it| head.slice_ref(it));
        let value = value.and_then(|it| HeaderValue::from_maybe_shared(it).ok());
        Ok((name, value.ok_or(BadAnswer::Head(httparse::Error::HeaderValue))?))
    }
}

/// How the body ends (RFC 9112, 6.3).
fn framing_of(
    status: StatusCode,
    version: Version,
    headers: &mut HeaderMap,
) -> Result<Framing, BadAnswer> {
    if let Some(last) = headers.get_all(header::TRANSFER_ENCODING).iter().next_back() {
        if version == Version::HTTP_10 {
            return Err(BadAnswer::Encoding);
        }
        let last = last.as_bytes().rsplit(|it| *it == b',').next().unwrap_or_default();
        let is_chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        // Whoever believed the length would take another place for the end.
        headers.remove(header::CONTENT_LENGTH);
        if !has_body(status) {
            return Ok(Framing::Over);
        }
        return Ok(if is_chunked { Framing::chunked() } else { Framing::UntilClose });
    }
    let length = length(headers)?;
    if !has_body(status) {
        return Ok(Framing::Over);
    }
    Ok(length.map_or(Framing::UntilClose, Framing::length))
}

fn has_body(status: StatusCode) -> bool {
    !(status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED)
}

/// The length that all lines agree on, of which one is left.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, BadAnswer> {
    let mut length = None;
    let mut told = 0;
    let lines = headers.get_all(header::CONTENT_LENGTH);
    for value in lines.iter().flat_map(|it| it.as_bytes().split(|it| *it == b',')) {
        told += 1;
        let value = value.trim_ascii();
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let value = std::str::from_utf8(value).ok().filter(|_| is_number);
        let value: u64 = value.and_then(|it| it.parse().ok()).ok_or(BadAnswer::Length)?;
        if length.is_some_and(|it| it != value) {
            return Err(BadAnswer::Length);
        }
        length = Some(value);
    }
    if let Some(length) = length.filter(|_| 1 < told) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(length)
}

fn keeps(version: Version, headers: &HeaderMap) -> bool {
    let says = |word: &[u8]| {
        let lines = headers.get_all(header::CONNECTION).iter();
        let mut words = lines.flat_map(|it| it.as_bytes().split(|it| *it == b','));
        words.any(|it| it.trim_ascii().eq_ignore_ascii_case(word))
    };
    if version == Version::HTTP_10 { says(b"keep-alive") } else { !says(b"close") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<Head>, BadAnswer> {
        take_head(&mut BytesMut::from(text))
    }

    fn framing(lines: &str) -> Result<Framing, BadAnswer> {
        head(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n")).map(|it| it.unwrap().framing)
    }

    #[test]
    fn a_head_is_taken_once_it_is_there_and_nothing_behind_it() {
        let text = "HTTP/1.1 201 Created\r\ncontent-length: 5\r\nX-A:  b \r\nx-a: c\r\n\r\nhello";
        let end = text.len() - 5;
        for cut in 0..end {
            let mut bytes = BytesMut::from(text.get(..cut).unwrap());
            assert!(take_head(&mut bytes).unwrap().is_none());
            assert_eq!(bytes.len(), cut);
        }
        let mut bytes = BytesMut::from(text);
        let head = take_head(&mut bytes).unwrap().unwrap();
        assert_eq!((head.status.as_u16(), head.framing), (201, Framing::length(5)));
        let values: Vec<_> = head.headers.get_all("x-a").iter().collect();
        assert_eq!(values, ["b", "c"]);
        assert_eq!(bytes, "hello");
    }

    #[test]
    fn a_body_ends_where_the_standard_says() {
        for (lines, expected) in [
            ("content-length: 7", Framing::length(7)),
            ("content-length: 0", Framing::Over),
            ("content-length: 7\r\ncontent-length: 7", Framing::length(7)),
            ("content-length: 7, 7", Framing::length(7)),
            ("transfer-encoding: chunked", Framing::chunked()),
            ("transfer-encoding: gzip, Chunked", Framing::chunked()),
            ("transfer-encoding: gzip\r\ntransfer-encoding: chunked", Framing::chunked()),
            ("content-length: 7\r\ntransfer-encoding: chunked", Framing::chunked()),
            ("transfer-encoding: chunked, gzip", Framing::UntilClose),
            ("x: y", Framing::UntilClose),
        ] {
            assert_eq!(framing(lines), Ok(expected), "{lines}");
        }
        for lines in [
            "content-length: 7\r\ncontent-length: 8",
            "content-length: 7, 8",
            "content-length: +7",
            "content-length: -1",
            "content-length:",
            "content-length: 7 7",
            "content-length: 99999999999999999999",
        ] {
            assert_eq!(framing(lines), Err(BadAnswer::Length), "{lines}");
        }
        for status in ["100 Continue", "204 No Content", "304 Not Modified"] {
            let text = format!("HTTP/1.1 {status}\r\ncontent-length: 7\r\n\r\n");
            assert_eq!(head(&text).unwrap().unwrap().framing, Framing::Over);
        }
    }

    #[test]
    fn lengths_that_would_mislead_do_not_go_on() {
        let both = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(!head(both).unwrap().unwrap().headers.contains_key(header::CONTENT_LENGTH));
        let twice = "HTTP/1.1 200 OK\r\ncontent-length: 7, 7\r\ncontent-length: 7\r\n\r\n";
        let headers = head(twice).unwrap().unwrap().headers;
        let lengths: Vec<_> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
        assert_eq!(lengths, ["7"]);
    }

    #[test]
    fn a_connection_is_kept_where_the_server_says_so() {
        for (text, keeps) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x, Close\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n", true),
        ] {
            assert_eq!(head(text).unwrap().unwrap().keeps_connection, keeps, "{text}");
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let encoded = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(head(encoded).unwrap_err(), BadAnswer::Encoding);
        for text in [
            "\x16\x03\x01 this is not HTTP\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 099 No\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\0\r\n\r\n",
        ] {
            assert!(head(text).is_err(), "{text}");
        }
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        assert!(head(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).is_err());
    }
}
