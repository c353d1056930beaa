//! Walks over JSON text without building a tree.
//!
//! serde_json skips what is not asked for without recursion, so nesting of any depth costs no
//! stack; what is asked for comes back as the received text.

use std::{borrow::Cow, fmt, marker::PhantomData, ops::ControlFlow};

use serde::{
    Deserialize,
    de::{Deserializer, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The text between the quotes of a JSON string, escapes as received; `None` for other values.
pub(crate) fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
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

/// Calls `visit` with each item of an array until it breaks off; returns whether every item was of
/// type `T` and visited.
pub(crate) fn for_each_item<'a, T: Deserialize<'a>>(
    array: &'a str,
    visit: impl FnMut(T) -> ControlFlow<()>,
) -> bool {
    struct Items<T, F>(F, PhantomData<T>);

    impl<'de, T, F> Visitor<'de> for Items<T, F>
    where
        T: Deserialize<'de>,
        F: FnMut(T) -> ControlFlow<()>,
    {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
            while let Some(item) = items.next_element()? {
                if (self.0)(item).is_break() {
                    break;
                }
            }
            Ok(())
        }
    }

    let mut json = serde_json::Deserializer::from_str(array);
    json.deserialize_seq(Items(visit, PhantomData)).is_ok()
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

/// Length up to which a string's end is looked for byte by byte.
const SHORT_STRING_BYTES: usize = 16;

/// Where the string whose content starts at `from` has ended.
pub(crate) fn end_of_string(text: &[u8], from: usize) -> usize {
    let mut at = from;
    // Most strings are keys and words, for which setting up a search costs more than looking.
    for byte in text.get(from..).unwrap_or_default().iter().take(SHORT_STRING_BYTES) {
        match byte {
            b'"' => return at.saturating_add(1),
            b'\\' => break,
            _ => at = at.saturating_add(1),
        }
    }
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

    #[test]
    fn a_walk_says_whether_it_saw_every_item() {
        let mut sum = 0;
        let mut walk = |text: &str| {
            for_each_item(text, |item: u32| {
                sum += item;
                if item == 9 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        };
        assert!(
            walk("[1,2]") && walk("[]") && !walk("[1,\"a\",2]") && !walk("[9,2]") && !walk("7")
        );
        assert_eq!(sum, 13);
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
