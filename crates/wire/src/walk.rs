//! Walks over JSON text that is known to be valid, as fast as its strings can be skipped.
//!
//! serde_json checks every byte, which has been done by the time a prompt is laid out. Here a string
//! is passed over by a search for its quote, and nothing is copied or unescaped. Text that is not
//! valid after all gives fewer items, never a panic.

use crate::json::{end_of_string, quoted, starts_with};

/// The values of an array, as received; `None` for anything else.
pub(crate) fn items(array: &str) -> Option<Items<'_>> {
    starts_with(array, b'[').then_some(Items(Walk { text: array, at: 1 }))
}

/// The entries of an object in their order, keys as they stand between their quotes; `None` for
/// anything else.
pub(crate) fn entries(object: &str) -> Option<Entries<'_>> {
    starts_with(object, b'{').then_some(Entries(Walk { text: object, at: 1 }))
}

/// See [`items`].
#[derive(Clone, Debug)]
pub(crate) struct Items<'a>(Walk<'a>);

impl<'a> Items<'a> {
    /// Whether the next item is an object.
    #[inline]
    pub(crate) fn is_at_object(&mut self) -> bool {
        self.0.start() == Some(b'{')
    }

    /// Calls `visit` with each entry of the next item, which is an object, and so passes over it
    /// without having looked for its end before.
    pub(crate) fn next_entries(&mut self, mut visit: impl FnMut(&'a str, &'a str)) {
        let is_object = self.is_at_object();
        debug_assert!(is_object, "only an object has entries");
        let mut entries = Entries(Walk { at: self.0.at.saturating_add(1), ..self.0 });
        entries.by_ref().for_each(|(key, value)| visit(key, value));
        let is_at_its_end = entries.0.start() == Some(b'}');
        let after = entries.0.at.saturating_add(1);
        self.0.at = if is_at_its_end { after } else { self.0.text.len() };
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0.next()
    }
}

/// See [`entries`].
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a>(Walk<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        let key = quoted(self.0.next()?)?;
        Some((key, self.0.next()?))
    }
}

/// A text and how far it has been passed over.
#[derive(Clone, Copy, Debug)]
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    /// Passes over what stands between values; the first byte of the next one, or of what closes the whole.
    #[inline]
    fn start(&mut self) -> Option<u8> {
        loop {
            match *self.text.as_bytes().get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' | b',' | b':' => self.at = self.at.saturating_add(1),
                first => return Some(first),
            }
        }
    }

    /// The next value; `None` at the end of the whole.
    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        let (first, from) = (self.start()?, self.at);
        self.at = value_end(self.text.as_bytes(), first, from);
        // What closes the whole has no length.
        self.text.get(from..self.at).filter(|it| !it.is_empty())
    }
}

/// Splits off the next value, past what stands between values; `None` at the end of the whole.
pub(crate) fn take_value(text: &str) -> Option<(&str, &str)> {
    let mut walk = Walk { text, at: 0 };
    let value = walk.next()?;
    Some((value, text.get(walk.at..)?))
}

/// Where the value ends that starts at `from` with `first`; at `from` where none starts.
#[inline]
fn value_end(text: &[u8], first: u8, from: usize) -> usize {
    match first {
        b'"' => end_of_string(text, from.saturating_add(1)),
        b'{' | b'[' => nest_end(text, from),
        _ => {
            let mut at = from;
            while let Some(byte) = text.get(at)
                && !matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t')
            {
                at = at.saturating_add(1);
            }
            at
        }
    }
}

/// Where the array or object ends that starts at `from`.
fn nest_end(text: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0_usize);
    while let Some(byte) = text.get(at) {
        at = at.saturating_add(1);
        match byte {
            b'"' => at = end_of_string(text, at),
            b'{' | b'[' => depth = depth.saturating_add(1),
            b'}' | b']' if depth == 1 => return at,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_come_as_they_stand() {
        let seen: Vec<_> = items(r#"[1, "a,]\"" ,[ 2,{"b":"]"}], {} ,null]"#).unwrap().collect();
        assert_eq!(seen, ["1", r#""a,]\"""#, r#"[ 2,{"b":"]"}]"#, "{}", "null"]);
        let seen: Vec<_> = entries(r#"{ "a" : [1] ,"b\"":"x","c":-2}"#).unwrap().collect();
        assert_eq!(seen, [("a", "[1]"), (r#"b\""#, r#""x""#), ("c", "-2")]);
        assert_eq!(items("[ ]").unwrap().count() + entries("{}").unwrap().count(), 0);
        assert!(items("{}").is_none() && entries("[]").is_none() && items("7").is_none());
    }

    #[test]
    fn an_item_that_is_an_object_is_entered_and_left_at_its_end() {
        let mut items = items(r#"[ { "a" : "}" , "b":[{}] } , {} ,7,{"c":1}]"#).unwrap();
        let mut seen = Vec::new();
        let mut enter = |items: &mut Items<'_>| {
            let is_object = items.is_at_object();
            if is_object {
                items.next_entries(|key, value| seen.push(format!("{key}={value}")));
            }
            is_object
        };
        assert!(enter(&mut items) && enter(&mut items) && !enter(&mut items));
        assert_eq!(items.next(), Some("7"));
        assert!(enter(&mut items) && !enter(&mut items));
        assert_eq!(items.next(), None);
        assert_eq!(seen, ["a=\"}\"", "b=[{}]", "c=1"]);
    }

    proptest! {
        /// It finds what serde_json finds.
        #[test]
        fn valid_text_is_walked_as_serde_walks_it(
            texts in prop::collection::vec("[a \\t\\\\\"{}\\[\\],:\u{e9}]{0,9}", 0..6),
            gap in "[ \n\t]{0,3}",
        ) {
            let values: Vec<String> = texts
                .iter()
                .map(|it| serde_json::to_string(&vec![it.clone(), it.clone()]).unwrap())
                .collect();
            let array = format!("[{gap}{}{gap}]", values.join(&format!("{gap},{gap}")));
            let seen: Vec<_> = items(&array).unwrap().collect();
            prop_assert_eq!(&seen, &values);
            let keys: Vec<String> =
                texts.iter().map(|it| serde_json::to_string(it).unwrap()).collect();
            let pairs: Vec<String> =
                keys.iter().zip(&values).map(|(k, v)| format!("{k}{gap}:{gap}{v}")).collect();
            let object = format!("{{{gap}{}}}", pairs.join(","));
            let seen: Vec<_> = entries(&object).unwrap().map(|(k, v)| format!("\"{k}\"{v}")).collect();
            let expected: Vec<_> = keys.iter().zip(&values).map(|(k, v)| format!("{k}{v}")).collect();
            prop_assert_eq!(seen, expected);
        }

        /// Whatever it is given, it ends.
        #[test]
        fn garbage_ends(text in "[\\[{][a\\[\\]{}\",:\\\\ ]{0,40}") {
            let items = items(&text).map_or(0, Iterator::count);
            let entries = entries(&text).map_or(0, Iterator::count);
            prop_assert!(items + entries <= text.len());
        }
    }
}
