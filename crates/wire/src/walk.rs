//! Walks over JSON text that is known to be valid, as fast as its strings can be skipped.
//!
//! serde_json checks every byte, which has been done by the time a prompt is laid out. Here a string
//! is passed over by a search for its quote, and nothing is copied or unescaped. Text that is not
//! valid after all gives fewer items, never a panic.

use crate::json::end_of_string;

/// The values of an array, as received; `None` for anything else.
pub(crate) fn items(array: &str) -> Option<Items<'_>> {
    Some(Items { rest: array.strip_prefix('[')? })
}

/// The entries of an object in their order, keys as they stand between their quotes; `None` for
/// anything else.
pub(crate) fn entries(object: &str) -> Option<Entries<'_>> {
    Some(Entries { rest: object.strip_prefix('{')? })
}

/// See [`items`].
#[derive(Clone, Debug)]
pub(crate) struct Items<'a> {
    rest: &'a str,
}

impl<'a> Items<'a> {
    /// Calls `visit` with each entry of the next item, when that is an object, and so passes over it
    /// without having looked for its end before; returns whether it was one.
    pub(crate) fn next_entries(&mut self, mut visit: impl FnMut(&'a str, &'a str)) -> bool {
        let Some(mut entries) = start(self.rest).and_then(entries) else { return false };
        entries.by_ref().for_each(|(key, value)| visit(key, value));
        let rest = entries.rest.trim_ascii_start();
        self.rest = rest.strip_prefix('}').unwrap_or_default();
        true
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (value, rest) = take_value(self.rest)?;
        self.rest = rest;
        Some(value)
    }
}

/// See [`entries`].
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        let (key, rest) = take_value(self.rest)?;
        let (value, rest) = take_value(rest)?;
        self.rest = rest;
        Some((key.strip_prefix('"')?.strip_suffix('"')?, value))
    }
}

/// Splits off the next value, past what stands between values; `None` at the end of the whole.
pub(crate) fn take_value(text: &str) -> Option<(&str, &str)> {
    let text = start(text)?;
    let end = value_end(text.as_bytes());
    if end == 0 { None } else { Some((text.get(..end)?, text.get(end..)?)) }
}

/// The text from where the next value starts, past what stands between values.
fn start(text: &str) -> Option<&str> {
    let between = |it: &u8| matches!(it, b' ' | b'\n' | b'\r' | b'\t' | b',' | b':');
    let start = text.as_bytes().iter().position(|it| !between(it))?;
    text.get(start..)
}

/// Length of the value with which `text` starts; 0 where none starts.
fn value_end(text: &[u8]) -> usize {
    match text.first() {
        Some(b'"') => end_of_string(text, 1),
        Some(b'{' | b'[') => nest_end(text),
        Some(_) | None => {
            let ends = |it: &u8| matches!(it, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
            text.iter().position(ends).unwrap_or(text.len())
        }
    }
}

/// Length of the array or object with which `text` starts.
fn nest_end(text: &[u8]) -> usize {
    let (mut at, mut depth) = (0_usize, 0_usize);
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
            items.next_entries(|key, value| {
                seen.push(format!("{key}={value}"));
            })
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
