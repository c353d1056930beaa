//! The headers that Sluice reads, writes and takes off.
//!
//! [`session`] finds which conversation a request belongs to. Header names that Sluice answers
//! with are constants here, so that the router, the tests and the documentation share one list.

use std::time::{Duration, UNIX_EPOCH};

use http::{
    HeaderMap, HeaderValue, Version,
    header::{self, HeaderName},
    uri::Authority,
};

pub mod session;
#[cfg(test)]
mod tests;

/// Names a session outright; goes before every other source.
pub const SESSION_ID: HeaderName = HeaderName::from_static("x-sluice-session-id");
/// `off` keeps the request out of session affinity.
pub const SESSION_AFFINITY: HeaderName = HeaderName::from_static("x-sluice-session-affinity");
/// TTFT bound in milliseconds, canonical name first.
pub const SLO_TTFT_MS: [HeaderName; 3] = [
    HeaderName::from_static("x-sluice-slo-ttft-ms"),
    HeaderName::from_static("x-llm-d-slo-ttft-ms"),
    HeaderName::from_static("x-slo-ttft-ms"),
];
/// TPOT bound in milliseconds, canonical name first.
pub const SLO_TPOT_MS: [HeaderName; 3] = [
    HeaderName::from_static("x-sluice-slo-tpot-ms"),
    HeaderName::from_static("x-llm-d-slo-tpot-ms"),
    HeaderName::from_static("x-slo-tpot-ms"),
];
/// SLO class by name.
pub const SLO_CLASS: HeaderName = HeaderName::from_static("x-sluice-slo-class");
/// `system`, `interactive`, `default` or `batch`.
pub const PRIORITY: HeaderName = HeaderName::from_static("x-sluice-priority");
/// How often the client has sent the request before; set by the SDKs of OpenAI and Anthropic.
pub const RETRY_COUNT: [HeaderName; 1] = [HeaderName::from_static("x-stainless-retry-count")];
/// The client's own deadline in milliseconds.
pub const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-sluice-timeout-ms");

/// Identifies the request, on the way in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Name of the replica that answered.
pub const REPLICA: HeaderName = HeaderName::from_static("x-sluice-replica");
/// Strategy that chose it.
pub const POLICY: HeaderName = HeaderName::from_static("x-sluice-policy");
/// Why it: `session`, `prefix`, `load`, `fallback` or `retry`.
pub const DECISION: HeaderName = HeaderName::from_static("x-sluice-decision");
/// Tokens expected in the cache, a slash, tokens of the prompt.
pub const PREFIX_HIT: HeaderName = HeaderName::from_static("x-sluice-prefix-hit");
/// Milliseconds spent waiting for a replica.
pub const QUEUE_MS: HeaderName = HeaderName::from_static("x-sluice-queue-ms");
/// Replicas tried.
pub const ATTEMPTS: HeaderName = HeaderName::from_static("x-sluice-attempts");
/// Where the time went.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Why a request was refused.
pub const DROPPED_REASON: HeaderName = HeaderName::from_static("x-sluice-dropped-reason");
/// When to come again, in milliseconds; `retry-after` says it in seconds.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// How every header begins that only some programs know: one look tells nearly all others from what is looked for below.
const EXTENSION: &str = "x-";

/// How the headers begin that are Sluice's alone.
const OWN_PREFIX: &str = "x-sluice-";

/// How the headers begin that say how a request wants to be served.
const WISH_PREFIXES: [&str; 3] = [OWN_PREFIX, "x-llm-d-", "x-slo-"];

/// Every header that Sluice may add to an answer.
pub const EMITTED: [HeaderName; 11] = [
    REQUEST_ID,
    REPLICA,
    POLICY,
    DECISION,
    PREFIX_HIT,
    QUEUE_MS,
    ATTEMPTS,
    SERVER_TIMING,
    DROPPED_REASON,
    header::RETRY_AFTER,
    RETRY_AFTER_MS,
];

/// Whether a header concerns one connection and ends there (RFC 9110, section 7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "close"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Longest request id that is taken over, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Takes off what concerns one connection: the fixed list and what `connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Nearly all say nothing, or no more than whether the connection stays.
    let mut said = headers.get_all(header::CONNECTION).iter();
    let names_others = match (said.next(), said.next()) {
        (None, _) => false,
        (Some(one), None) => {
            ![&b"keep-alive"[..], b"close"].iter().any(|it| one.as_bytes().eq_ignore_ascii_case(it))
        }
        (Some(_), Some(_)) => true,
    };
    if names_others {
        strip_named(headers);
    }
    strip(headers, is_hop_by_hop);
}

/// Takes off what `connection` names.
fn strip_named(headers: &mut HeaderMap) {
    let named = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // What most connections say names no header that would not come off anyway.
        .filter(|token| !token.eq_ignore_ascii_case("keep-alive") && !token.is_empty())
        .filter_map(|token| token.parse().ok());
    let named: Vec<HeaderName> = named.collect();
    for name in named {
        headers.remove(name);
    }
}

/// Takes off what only Sluice may say: every header that it adds to answers, and whatever else begins as
/// its own do. When to come again stays: a replica that is full says so too.
pub fn strip_own(headers: &mut HeaderMap) {
    strip(headers, |name| {
        let name = name.as_str();
        name.starts_with(OWN_PREFIX) || matches!(name, "x-request-id" | "server-timing")
    });
}

/// Takes off every header of which `is_doomed`. There are few, if any, so none is kept to be removed later.
fn strip(headers: &mut HeaderMap, is_doomed: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|it| is_doomed(it)).cloned() {
        headers.remove(name);
    }
}

/// What names of headers begin with that tell a router what to do, ours and those of others.
const CONTROL_PREFIXES: [&str; 6] =
    ["x-sluice-", "x-llm-d-", "x-slo-", "x-gateway-inference-", "x-smg-", "x-tenant-id"];

/// Takes off what tells a router what to do and is none of a replica's business: an engine, or another
/// router behind this one, might do what a client may not ask for.
pub fn strip_control(headers: &mut HeaderMap) {
    strip(headers, |name| begins_with_any(name, &CONTROL_PREFIXES));
}

/// What is ambiguous about how a request is framed or addressed, if anything. Whoever reads it after
/// us might take its end for another place, and the rest for a request of its own.
#[must_use]
pub fn framing_problem(version: Version, headers: &HeaderMap) -> Option<&'static str> {
    // In one walk: heads are short, and a look for each name costs more than to pass them all.
    let (mut length, mut encoding, mut host) = (Lines::none(), Lines::none(), Lines::none());
    for (name, value) in headers {
        let lines = if name == header::CONTENT_LENGTH {
            &mut length
        } else if name == header::TRANSFER_ENCODING {
            &mut encoding
        } else if name == header::HOST {
            &mut host
        } else {
            continue;
        };
        lines.add(value);
    }
    if let Some(last) = encoding.last {
        if length.count > 0 {
            return Some("both content-length and transfer-encoding are there: send one");
        }
        if version < Version::HTTP_11 {
            return Some("transfer-encoding needs HTTP/1.1");
        }
        if encoding.count > 1 || !last.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Some("transfer-encoding must be `chunked` and nothing else");
        }
    }
    if length.count > 1 || length.last.is_some_and(|it| !is_length(it)) {
        return Some("content-length must be one whole number");
    }
    if host.count > 1 || (host.count == 0 && version == Version::HTTP_11) {
        return Some("host must be there once");
    }
    if host.last.is_some_and(|it| !is_host(it)) {
        return Some("host must be HOST or HOST:PORT");
    }
    None
}

/// The lines of a head that have one name.
struct Lines<'a> {
    count: usize,
    last: Option<&'a HeaderValue>,
}

impl<'a> Lines<'a> {
    const fn none() -> Self {
        Self { count: 0, last: None }
    }

    fn add(&mut self, value: &'a HeaderValue) {
        (self.count, self.last) = (self.count.saturating_add(1), Some(value));
    }
}

/// Whether `value` names a host, or none as HTTP allows (RFC 9112, 3.2).
fn is_host(value: &HeaderValue) -> bool {
    let host = value.as_bytes();
    // Nothing is amiss with letters and digits, and the parser copies what it looks at.
    let is_plain = |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-');
    // Colons before a bracket are those of an address, and nothing but a port may follow it.
    let last = host.iter().rposition(|it| matches!(it, b':' | b']'));
    let (name, port) = match last.and_then(|at| host.split_at_checked(at)) {
        None | Some((_, b"]")) => (host, &b""[..]),
        Some(parts) => parts,
    };
    let is_good = if name.iter().all(is_plain) {
        !name.is_empty()
    } else {
        !name.contains(&b'@') && Authority::try_from(host).is_ok()
    };
    host.is_empty() || (is_good && is_port(port))
}

/// Whether a host may end so: with nothing, with a colon, or with a colon and the number of a port.
fn is_port(end: &[u8]) -> bool {
    let Some(port) = end.strip_prefix(b":") else { return end.is_empty() };
    let number = str::from_utf8(port).ok().and_then(|it| it.parse::<u16>().ok());
    port.is_empty() || (port.iter().all(u8::is_ascii_digit) && number.is_some())
}

fn is_length(value: &HeaderValue) -> bool {
    !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit)
}

/// The client's request id, when it is fit to be logged and passed on: 1 to 128 of
/// `[A-Za-z0-9._:-]`. Engines repeat it in every chunk, so a longer one would multiply.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let value = headers.get(REQUEST_ID)?;
    let fits = (1..=REQUEST_ID_BYTES_MAX).contains(&value.len())
        && value.as_bytes().iter().all(|it| it.is_ascii_alphanumeric() || b"._:-".contains(it));
    fits.then_some(value)
}

/// How long the sender of an answer wants to be left alone at `now`, when it says so: in milliseconds, in
/// seconds or by a date. `now` is the time since the beginning of 1970.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Duration) -> Option<Duration> {
    let told = |name| headers.get(name).and_then(|it| wait(it, now));
    let wait = |it: Wait, one: fn(u64) -> Duration| match it {
        Wait::Number(number) => one(number),
        Wait::Until(left) => left,
    };
    told(&RETRY_AFTER_MS)
        .map(|it| wait(it, Duration::from_millis))
        .or_else(|| told(&header::RETRY_AFTER).map(|it| wait(it, Duration::from_secs)))
}

/// What a header says of when to come again.
enum Wait {
    /// So many seconds or milliseconds.
    Number(u64),
    /// At a date, until which so much is left.
    Until(Duration),
}

fn wait(value: &HeaderValue, now: Duration) -> Option<Wait> {
    let text = value.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit()) {
        // One that does not fit into 64 bits is a number too.
        return Some(Wait::Number(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(Wait::Until(date.duration_since(UNIX_EPOCH + now).unwrap_or_default()))
}

/// Whether a request says by any header how it wants to be served: its promise, its priority, its patience.
/// Most do not, and one walk over their headers is cheaper than a search for each of those.
#[must_use]
pub fn wants_anything(headers: &HeaderMap) -> bool {
    headers.keys().any(|it| begins_with_any(it, &WISH_PREFIXES))
}

/// Whether `name` begins with one of `prefixes`, each of which begins with [`EXTENSION`].
fn begins_with_any(name: &HeaderName, prefixes: &[&str]) -> bool {
    let name = name.as_str();
    name.starts_with(EXTENSION) && prefixes.iter().any(|it| name.starts_with(it))
}

/// Has what says when to come again say no more than `most` from `now` on, which
/// is the time since the beginning of 1970; what nobody understands comes off.
pub fn bound_retry_after(headers: &mut HeaderMap, most: Duration, now: Duration) {
    let most_ms = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    for (name, longest) in [(header::RETRY_AFTER, most.as_secs()), (RETRY_AFTER_MS, most_ms)] {
        let Some(value) = headers.get(&name) else { continue };
        match wait(value, now) {
            Some(Wait::Number(number)) if number <= longest => {}
            Some(Wait::Until(left)) if left <= most => {}
            Some(Wait::Number(_) | Wait::Until(_)) => {
                headers.insert(name, HeaderValue::from(longest));
            }
            None => {
                headers.remove(name);
            }
        }
    }
}

/// The first of `names` that holds a whole number, such as [`SLO_TTFT_MS`].
#[must_use]
pub fn whole_number(headers: &HeaderMap, names: &[HeaderName]) -> Option<u64> {
    names.iter().find_map(|name| headers.get(name)?.to_str().ok()?.trim().parse().ok())
}
