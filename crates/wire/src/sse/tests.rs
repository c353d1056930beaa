//! Tests of the scanner against the standard's own words and against any cutting of the stream.

use proptest::prelude::*;

use super::{Event, KEPT_BYTES_MAX, Scanner};

/// An event kept: its name, its data, whether it was cut.
type Kept = (Option<String>, Vec<u8>, bool);

fn kept(event: Event<'_>) -> Kept {
    (event.name.map(str::to_owned), event.data.to_vec(), event.cut)
}

fn scan(chunks: &[&[u8]]) -> Vec<Kept> {
    let mut scanner = Scanner::new();
    let mut events = Vec::new();
    for chunk in chunks {
        scanner.push(chunk, |event| events.push(kept(event)));
    }
    events
}

/// The standard read word by word, over a whole stream.
fn reference(stream: &[u8]) -> Vec<Kept> {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let (mut events, mut name, mut data) = (Vec::new(), String::new(), Option::<String>::None);
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();
    for line in lines {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => {
                let name = std::mem::take(&mut name);
                if let Some(data) = data.take() {
                    events.push(((!name.is_empty()).then_some(name), data.into_bytes(), false));
                }
            }
            "data" => data = Some(data.map_or(value.to_owned(), |old| format!("{old}\n{value}"))),
            "event" => name = value.to_owned(),
            _ => {}
        }
    }
    events
}

proptest! {
    /// However it is cut, no byte behind the last event is looked at.
    #[test]
    fn nothing_behind_the_last_event_is_looked_at(
        ends in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        cuts in prop::collection::btree_set(0_usize..64, 0..6),
    ) {
        let stream = format!("data: 1{ends}{ends}: b{ends}{ends}data: [DONE]{ends}{ends}");
        let length = stream.len();
        let stream = stream + "data: 2\n\nmore";
        let mut scanner = Scanner::new();
        let (mut seen, mut looked_at, mut from) = (Vec::new(), 0, 0);
        for to in cuts.into_iter().filter(|it| *it < stream.len()).chain([stream.len()]) {
            let chunk = &stream.as_bytes()[from..to];
            let looked = scanner.push_until(chunk, |event| {
                seen.push(event.data.to_vec());
                event.data == b"[DONE]"
            });
            (looked_at, from) = (looked_at + looked, to);
            if looked < chunk.len() || seen.len() == 2 {
                break;
            }
        }
        prop_assert_eq!(seen, [b"1".to_vec(), b"[DONE]".to_vec()]);
        // Whether a line ends in one or two bytes may not be known yet.
        prop_assert!(looked_at == length || looked_at + 1 == length && ends == "\r\n");
    }
}

#[test]
fn an_event_within_a_chunk_is_handed_out_borrowed() {
    let chunk = b"event: ping\ndata: {\"a\":1}\n\ndata: [DONE]\n\n".as_slice();
    let range = chunk.as_ptr_range();
    let mut names = Vec::new();
    Scanner::new().push(chunk, |event| {
        assert!(range.contains(&event.data.as_ptr()));
        names.push(event.name.map(str::to_owned));
    });
    assert_eq!(names, [Some("ping".to_owned()), None]);
}

#[test]
fn comments_and_events_without_data_are_none() {
    assert_eq!(
        scan(&[b": ping\n\nevent: x\n\nid: 7\nretry: 1\n\n:\n\ndata\n\n"]),
        [(None, Vec::new(), false)]
    );
}

#[test]
fn data_lines_are_joined_and_one_space_is_dropped() {
    let events = scan(&[b"data:a\ndata:  b\ndata: \nevent: x\ndata: c\n\n"]);
    assert_eq!(events, [(Some("x".to_owned()), b"a\n b\n\nc".to_vec(), false)]);
}

#[test]
fn an_event_is_handed_out_as_soon_as_its_end_is_there() {
    for stream in ["data: a\n\n", "data: a\r\r", "data: a\r\n\r", "data: a\n\r"] {
        assert_eq!(scan(&[stream.as_bytes()]).len(), 1, "{stream:?}");
        assert_eq!(scan(&[stream.as_bytes(), b"\ndata: b\n\n"]).len(), 2, "{stream:?}");
    }
}

#[test]
fn an_event_that_the_stream_breaks_off_is_none() {
    assert_eq!(scan(&[b"data: a\n", b"data: b"]), []);
}

#[test]
fn of_a_huge_event_the_start_is_kept_and_the_next_is_whole() {
    let mut scanner = Scanner::new();
    let mut events = Vec::new();
    let mut push = |bytes: &[u8]| {
        scanner.push(bytes, |event| events.push(kept(event)));
        assert!(scanner.kept.capacity() <= 2 * KEPT_BYTES_MAX);
    };
    push(b"event: response.completed\ndata: ");
    for _ in 0..1_000 {
        push(&[b'x'; 1_000]);
    }
    push(b"\ndata: more\n\n: ");
    push(&[b'c'; 100_000]);
    push(b"\n\ndata: next\n\n");
    assert_eq!(events.len(), 2);
    let (name, data, cut) = &events[0];
    assert_eq!(name.as_deref(), Some("response.completed"));
    assert!(*cut && data.len() <= KEPT_BYTES_MAX && data.len() > KEPT_BYTES_MAX - 10);
    assert_eq!(events[1], (None, b"next".to_vec(), false));
}

#[test]
fn a_huge_event_within_one_chunk_needs_no_keeping() {
    let stream = [b"data: ".as_slice(), &[b'x'; 200_000], b"\n\n"].concat();
    let events = scan(&[&stream]);
    assert_eq!((events[0].1.len(), events[0].2), (200_000, false));
}

#[test]
fn a_name_that_is_too_long_or_not_utf8_is_no_name() {
    let long = format!("event: {}\ndata: a\n\n", "x".repeat(129));
    assert_eq!(scan(&[long.as_bytes()])[0].0, None);
    let (head, tail) = long.split_at(20);
    assert_eq!(scan(&[head.as_bytes(), tail.as_bytes()])[0].0, None);
    assert_eq!(scan(&[b"event: \xff\ndata: a\n\n"])[0].0, None);
}

proptest! {
    /// However the stream is cut, the events are those that the standard says.
    #[test]
    fn events_do_not_depend_on_the_chunks(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "data: {\"a\":1}", "data", "data:x", "event: ping", "event:", ": c", "id: 1", "é",
                "\n", "\n", "\r", "\r\n", "\n\n", "\u{feff}", " ", ":",
            ]),
            0..40,
        ),
        cuts in prop::collection::vec(0..400_usize, 0..12),
    ) {
        let stream = pieces.concat().into_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|it| it.min(stream.len())).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|it| &stream[it[0]..it[1]]).collect();
        let expected = reference(&stream);
        prop_assert_eq!(&scan(&chunks), &expected);
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&scan(&bytes), &expected);
    }
}
