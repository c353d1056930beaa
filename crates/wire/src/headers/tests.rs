//! Heads that are taken, refused, stripped and passed on.

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

#[test]
fn nobody_is_told_to_come_again_in_a_billion_years() {
    let most = Duration::from_secs(600);
    for (told, kept) in [
        ("18446744073709551615", "600"),
        ("99999999999999999999999", "600"),
        ("601", "600"),
        ("600", "600"),
        ("7", "7"),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "600"),
        ("Thu, 01 Jan 1970 00:10:01 GMT", "600"),
        ("Thu, 01 Jan 1970 00:10:00 GMT", "Thu, 01 Jan 1970 00:10:00 GMT"),
    ] {
        let mut headers = headers(&[("retry-after", told), ("retry-after-ms", "700000")]);
        bound_retry_after(&mut headers, most, Duration::ZERO);
        assert_eq!(
            (&headers["retry-after"], &headers["retry-after-ms"]),
            (&HeaderValue::from_static(kept), &HeaderValue::from_static("600000"),)
        );
    }
}

#[test]
fn what_nobody_understands_of_when_to_come_again_is_not_passed_on() {
    for told in ["soon", "-1", "1e9", "Fri, 31 Dec 99999 23:59:59 GMT"] {
        let mut headers = headers(&[("retry-after", told)]);
        bound_retry_after(&mut headers, Duration::from_secs(600), Duration::ZERO);
        assert!(headers.is_empty(), "{told}");
    }
}

#[test]
fn when_to_come_again_is_a_number_or_a_date() {
    let told = |pairs: &[_]| retry_after(&headers(pairs), Duration::from_secs(90));
    assert_eq!(told(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
    assert_eq!(
        told(&[("retry-after", "7"), ("retry-after-ms", "6500")]),
        Some(Duration::from_millis(6_500))
    );
    let date = |text| told(&[("retry-after", text)]);
    assert_eq!(date("Thu, 01 Jan 1970 00:02:00 GMT"), Some(Duration::from_secs(30)));
    assert_eq!(date("Thu, 01 Jan 1970 00:01:00 GMT"), Some(Duration::ZERO), "it is over");
    assert_eq!(date("soon"), None);
}

#[test]
fn hop_by_hop_headers_and_those_that_connection_names_come_off() {
    let mut headers = headers(&[
        ("connection", "close, X-Mine ,, \"bad"),
        ("connection", "x-other"),
        ("x-mine", "1"),
        ("x-other", "2"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "trailers"),
        ("content-type", "application/json"),
    ]);
    let mut expected = HeaderMap::new();
    expected.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    strip_hop_by_hop(&mut headers);
    assert_eq!(headers, expected);
    for said in ["close", "Keep-Alive"] {
        let mut headers = HeaderMap::from_iter([(header::CONNECTION, said.parse().unwrap())]);
        headers.insert(
            said.to_ascii_lowercase().parse::<HeaderName>().unwrap(),
            said.parse().unwrap(),
        );
        strip_hop_by_hop(&mut headers);
        assert!(headers.is_empty(), "{said} names itself");
    }
}

#[test]
fn what_only_sluice_says_comes_off_and_when_to_come_again_stays() {
    let mut headers: HeaderMap =
        EMITTED.into_iter().map(|it| (it, HeaderValue::from_static("1"))).collect();
    headers.insert("x-sluice-made-up", HeaderValue::from_static("1"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    strip_own(&mut headers);
    let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-type", "retry-after", "retry-after-ms"]);
}

#[test]
fn what_tells_a_router_what_to_do_comes_off_and_what_names_the_request_stays() {
    let mut headers = headers(&[
        ("x-sluice-priority", "system"),
        ("x-sluice-made-up", "1"),
        ("x-llm-d-slo-ttft-ms", "1"),
        ("x-llm-d-inference-fairness-id", "a"),
        ("x-slo-tpot-ms", "1"),
        ("x-tenant-id", "other"),
        ("x-session-id", "s"),
        ("x-request-id", "r"),
        ("traceparent", "00-0-0-00"),
        ("content-type", "application/json"),
    ]);
    strip_control(&mut headers);
    let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-type", "traceparent", "x-request-id", "x-session-id"]);
}

#[test]
fn what_is_framed_ambiguously_is_told() {
    let problem = |version, pairs: &[(&'static str, &str)]| {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        framing_problem(version, &map)
    };
    let host = ("host", "a");
    let (length, chunked) = (("content-length", "5"), ("transfer-encoding", "Chunked"));
    for good in [&[host][..], &[host, length], &[host, chunked]] {
        assert_eq!(problem(Version::HTTP_11, good), None, "{good:?}");
    }
    assert_eq!(problem(Version::HTTP_10, &[length]), None);
    assert_eq!(problem(Version::HTTP_2, &[length]), None);
    for good in ["", "a:80", "a:", "a:65535", "a_b.c", "a_b.c:80", "[::1]", "[::1]:80", "127.0.0.1"]
    {
        assert_eq!(problem(Version::HTTP_11, &[("host", good)]), None, "{good}");
    }
    for bad in [
        "a b", "a/c", "u@a", "a?b", "a#b", "a b/c@d", "[::1", ":80", "a:b", "a:+80", "a:65536",
        "a:80:80", "a_b.c:d", "[::1]:x", "[::1]80",
    ] {
        assert!(problem(Version::HTTP_11, &[("host", bad)]).is_some(), "{bad}");
    }
    for bad in [
        &[][..],
        &[host, host],
        &[host, length, chunked],
        &[host, length, length],
        &[host, ("content-length", "5, 5")],
        &[host, ("content-length", "+5")],
        &[host, ("transfer-encoding", "gzip, chunked")],
        &[host, chunked, chunked],
    ] {
        assert!(problem(Version::HTTP_11, bad).is_some(), "{bad:?}");
    }
    assert!(problem(Version::HTTP_10, &[host, chunked]).is_some());
}

#[test]
fn a_request_id_that_is_long_or_odd_is_not_taken_over() {
    let longest = "a".repeat(128);
    for (id, fits) in [
        ("chatcmpl-1.a:B_", true),
        (longest.as_str(), true),
        ("", false),
        ("a b", false),
        ("a\u{e9}", false),
        (&"a".repeat(129), false),
    ] {
        assert_eq!(request_id(&headers(&[("x-request-id", id)])).is_some(), fits, "{id:?}");
    }
    assert_eq!(request_id(&HeaderMap::new()), None);
}

#[test]
fn all_that_is_looked_for_by_how_it_begins_is_an_extension() {
    let mut prefixes = CONTROL_PREFIXES.iter().chain(&WISH_PREFIXES);
    assert!(prefixes.all(|it| it.starts_with(EXTENSION)));
}

#[test]
fn whoever_wants_anything_is_found() {
    let wishes = [TIMEOUT_MS, PRIORITY, SLO_CLASS];
    for name in wishes.into_iter().chain(SLO_TTFT_MS).chain(SLO_TPOT_MS) {
        let wants = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("1"))]);
        assert!(wants_anything(&wants), "{name}");
    }
    assert!(!wants_anything(&headers(&[("content-type", "a"), ("x-stainless-lang", "js")])));
}

#[test]
fn the_canonical_name_goes_before_its_aliases() {
    let both = headers(&[("x-slo-ttft-ms", "1"), ("x-sluice-slo-ttft-ms", "2")]);
    assert_eq!(whole_number(&both, &SLO_TTFT_MS), Some(2));
    assert_eq!(whole_number(&headers(&[("x-slo-ttft-ms", " 7 ")]), &SLO_TTFT_MS), Some(7));
    assert_eq!(whole_number(&headers(&[("x-slo-ttft-ms", "-1")]), &SLO_TTFT_MS), None);
}
