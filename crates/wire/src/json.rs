//! Walks over JSON text without building a tree.
//!
//! serde_json skips what is not asked for without recursion, so nesting of any depth costs no
//! stack; what is asked for comes back as the received text.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{Deserializer, Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The text between the quotes of a JSON string, escapes as received; `None` for other values.
pub(crate) fn quoted(text: &str) -> Option<&str> {
    match text.as_bytes() {
        [b'"', within @ .., b'"'] => text.get(1..within.len().saturating_add(1)),
        _ => None,
    }
}

/// The value of a JSON string; `None` for other values and for lone surrogates.
pub(crate) fn string(value: &str) -> Option<Cow<'_, str>> {
    let text = quoted(value)?;
    if memchr::memchr(b'\\', text.as_bytes()).is_none() {
        return Some(Cow::Borrowed(text));
    }
    serde_json::from_str(value).ok().map(Cow::Owned)
}

/// Whether the value's text starts with `first`: `[` for an array, `{` for an object.
pub(crate) fn starts_with(value: &str, first: u8) -> bool {
    value.as_bytes().first() == Some(&first)
}

/// The entries of an object; `None` for other values and for objects that are too large.
pub(crate) fn entries(value: &str) -> Option<Entries<'_>> {
    serde_json::from_str(value).ok()
}

/// The entries of a small object in their order, keys unescaped.
pub(crate) struct Entries<'a>(Vec<(Key<'a>, &'a RawValue)>);

impl<'a> Entries<'a> {
    /// Most entries that are read; an object of more is refused, so that no body can ask for many
    /// times its own memory.
    const MAX: usize = 64;

    /// The value of the last entry called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().filter(|(key, _)| *key == name).map(|(_, value)| value).last()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(key, value)| (&*key.0, value.get()))
    }
}

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of at most {} entries", Entries::MAX)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() == Entries::MAX {
                        return Err(A::Error::invalid_length(entries.len(), &self));
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        json.deserialize_map(Object)
    }
}

/// An object's key, borrowed where it has no escapes.
pub(crate) struct Key<'a>(Cow<'a, str>);

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
pub(crate) fn compact(value: &str, emit: &mut dyn FnMut(&[u8])) {
    let mut rest = value.as_bytes();
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

/// Bytes without an escape from which on a string's end is searched for: most strings are keys and words, some are full of
/// escapes, and for both setting up a search costs more than looking at each byte.
pub(crate) const SHORT_STRING_BYTES: usize = 16;

/// Where the string whose content starts at `from` has ended.
pub(crate) fn end_of_string(text: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        let mut plain = 0;
        while plain < SHORT_STRING_BYTES {
            match text.get(at) {
                None => return text.len(),
                Some(b'"') => return at.saturating_add(1),
                Some(b'\\') => (at, plain) = (at.saturating_add(2), 0),
                Some(_) => (at, plain) = (at.saturating_add(1), plain.saturating_add(1)),
            }
        }
        let rest = text.get(at..).unwrap_or_default();
        let Some(found) = memchr::memchr2(b'"', b'\\', rest) else { return text.len() };
        at = at.saturating_add(found);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compacted(text: &str) -> String {
        let mut out = Vec::new();
        compact(text, &mut |piece| out.extend_from_slice(piece));
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
        assert!(matches!(string(r#""plain""#), Some(Cow::Borrowed("plain"))));
        assert_eq!(string(r#""\u0061\n""#).unwrap(), "a\n");
        assert_eq!(string(r#""\ud800""#), None);
        assert_eq!(string("7"), None);
    }

    #[test]
    fn entries_come_in_the_order_of_the_text_with_keys_unescaped() {
        let entries: Entries<'_> = serde_json::from_str(r#"{"b":1,"\u0061":[2]}"#).unwrap();
        let seen: Vec<String> = entries.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(seen, ["b=1", "a=[2]"]);
        assert_eq!(entries.get("a").unwrap(), "[2]");
    }

    #[test]
    fn an_object_of_many_entries_is_refused() {
        let object = |entries: usize| {
            let entries: Vec<String> = (0..entries).map(|it| format!("\"{it}\":0")).collect();
            format!("{{{}}}", entries.join(","))
        };
        assert!(serde_json::from_str::<Entries<'_>>(&object(64)).is_ok());
        assert!(serde_json::from_str::<Entries<'_>>(&object(65)).is_err());
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
