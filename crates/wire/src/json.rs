//! Walks over JSON text without building a tree.
//!
//! serde_json skips what is not asked for without recursion, so nesting of any depth costs no
//! stack; what is asked for comes back as the received text.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The text between the quotes of a JSON string, escapes as received; `None` for other values.
pub(crate) fn quoted(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

/// The value of a JSON string; `None` for other values and for lone surrogates.
pub(crate) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = quoted(raw)?;
    if memchr::memchr(b'\\', text.as_bytes()).is_none() {
        return Some(Cow::Borrowed(text));
    }
    serde_json::from_str(raw.get()).ok().map(Cow::Owned)
}

/// Whether the value's text starts with `first`: `[` for an array, `{` for an object.
pub(crate) fn starts_with(raw: &RawValue, first: u8) -> bool {
    raw.get().as_bytes().first() == Some(&first)
}

/// Calls `visit` with each item of an array, as far as the items are of type `T`.
pub(crate) fn for_each_item<'a, T: Deserialize<'a>>(raw: &'a RawValue, visit: impl FnMut(T)) {
    struct Items<T, F>(F, PhantomData<T>);

    impl<'de, T: Deserialize<'de>, F: FnMut(T)> Visitor<'de> for Items<T, F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
            while let Some(item) = items.next_element()? {
                (self.0)(item);
            }
            Ok(())
        }
    }

    let mut json = serde_json::Deserializer::from_str(raw.get());
    // What is of another type ends the walk: the engine answers for it.
    let _ = json.deserialize_seq(Items(visit, PhantomData));
}

/// Calls `visit` with each key of an object, unescaped, and its value.
pub(crate) fn for_each_entry<'a>(raw: &'a RawValue, visit: impl FnMut(&str, &'a RawValue)) {
    struct Entries<F>(F);

    impl<'de, F: FnMut(&str, &'de RawValue)> Visitor<'de> for Entries<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some(key) = map.next_key::<Key<'de>>()? {
                let value = map.next_value()?;
                (self.0)(&key.0, value);
            }
            Ok(())
        }
    }

    let mut json = serde_json::Deserializer::from_str(raw.get());
    // A key with a lone surrogate ends the walk: the engine answers for it.
    let _ = json.deserialize_map(Entries(visit));
}

/// An object's key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }

        json.deserialize_str(Text)
    }
}

/// Passes on the value's text in pieces, without the white space between its tokens.
pub(crate) fn compact(raw: &RawValue, emit: &mut dyn FnMut(&[u8])) {
    let mut rest = raw.get().as_bytes();
    let mut at = 0;
    while let Some(&byte) = rest.get(at) {
        if byte == b'"' {
            at = end_of_string(rest, at.saturating_add(1));
        } else if byte.is_ascii_whitespace() {
            let (run, tail) = rest.split_at(at);
            emit(run);
            rest = tail.trim_ascii_start();
            at = 0;
        } else {
            at = at.saturating_add(1);
        }
    }
    emit(rest);
}

/// Where the string whose content starts at `from` has ended.
fn end_of_string(text: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(found) = text
        .get(at..)
        .and_then(|it| memchr::memchr2(b'"', b'\\', it))
        .map(|it| it.saturating_add(at))
    {
        if text.get(found) == Some(&b'"') {
            return found.saturating_add(1);
        }
        at = found.saturating_add(2);
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    fn compacted(text: &str) -> String {
        let mut out = Vec::new();
        compact(raw(text), &mut |piece| out.extend_from_slice(piece));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn white_space_goes_between_tokens_and_stays_in_strings() {
        assert_eq!(
            compacted("{ \"a b\" : [ 1 , \"c \\\" d\" ,\n\ttrue ] }"),
            r#"{"a b":[1,"c \" d",true]}"#
        );
        assert_eq!(compacted(r#""a b""#), r#""a b""#);
        assert_eq!(compacted("[]"), "[]");
    }

    #[test]
    fn a_string_is_borrowed_until_it_has_escapes() {
        assert!(matches!(string(raw(r#""plain""#)), Some(Cow::Borrowed("plain"))));
        assert_eq!(string(raw(r#""\u0061\n""#)).unwrap(), "a\n");
        assert_eq!(string(raw(r#""\ud800""#)), None);
        assert_eq!(string(raw("7")), None);
    }

    #[test]
    fn entries_come_in_the_order_of_the_text_with_keys_unescaped() {
        let mut seen = Vec::new();
        for_each_entry(raw(r#"{"b":1,"\u0061":[2]}"#), |key, value| {
            seen.push(format!("{key}={}", value.get()));
        });
        assert_eq!(seen, ["b=1", "a=[2]"]);
    }

    proptest! {
        #[test]
        fn only_the_white_space_between_tokens_goes(
            texts in prop::collection::vec("[a \\t\\\\\"{]{0,9}", 0..5),
            gap in "[ \n\t]{0,3}",
        ) {
            let texts: Vec<String> =
                texts.iter().map(|text| serde_json::to_string(text).unwrap()).collect();
            let gapped = texts.join(&format!("{gap},{gap}"));
            prop_assert_eq!(
                compacted(&format!("[{gap}{gapped}{gap}]")),
                format!("[{}]", texts.join(","))
            );
        }
    }
}
