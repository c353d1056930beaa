//! Finds the fields of a body and checks it on the way, as fast as its strings can be skipped.
//!
//! serde_json looks at every byte of a string by itself. Here the end of a string is searched for, and that
//! nothing in it may not be there is checked for many bytes at once. What is plainly valid is all that is
//! accepted: of the rest, which is rare, serde_json says whether it is valid and what is wrong with it.

use crate::json::SHORT_STRING_BYTES;

/// Deepest nesting that is followed.
const DEPTH_MAX: u32 = 63;

/// Calls `visit` with each key of the object that `text` is and with its value, both as they stand, the key
/// without its quotes. `None` when `text` is not plainly a valid object whose keys have no escapes; some of
/// it may have been visited then.
pub(crate) fn fields<'a>(text: &'a str, mut visit: impl FnMut(&'a str, &'a str)) -> Option<()> {
    let mut scan = Scan { text: text.as_bytes(), at: 0 };
    scan.skip_space();
    scan.take(b'{')?;
    scan.skip_space();
    if scan.peek() == Some(b'}') {
        scan.advance(1);
    } else {
        loop {
            let key_from = scan.at.saturating_add(1);
            scan.take(b'"')?;
            scan.string()?;
            let key = text.get(key_from..scan.at.saturating_sub(1))?;
            if key.contains('\\') {
                return None;
            }
            scan.colon()?;
            let from = scan.at;
            scan.value()?;
            visit(key, text.get(from..scan.at)?);
            scan.skip_space();
            match scan.next()? {
                b',' => scan.skip_space(),
                b'}' => break,
                _ => return None,
            }
        }
    }
    scan.skip_space();
    scan.peek().is_none().then_some(())
}

/// A text and how far it has been read.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

/// The arrays and objects that a place lies in: a bit each, set for objects, the innermost last.
#[derive(Clone, Copy, Default)]
struct Nest {
    is_object: u64,
    depth: u32,
}

impl Nest {
    fn enter(&mut self, is_object: bool) -> Option<()> {
        self.depth = self.depth.checked_add(1).filter(|it| *it <= DEPTH_MAX)?;
        self.is_object = self.is_object << 1 | u64::from(is_object);
        Some(())
    }

    fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.is_object >>= 1;
    }

    const fn is_in_object(self) -> bool {
        self.is_object & 1 == 1
    }
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn advance(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.advance(1);
        Some(byte)
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.next()? == wanted).then_some(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.advance(1);
        }
    }

    /// Passes over what stands between a key and its value.
    fn colon(&mut self) -> Option<()> {
        self.skip_space();
        self.take(b':')?;
        self.skip_space();
        Some(())
    }

    /// Passes over a key of an object and its colon.
    fn key(&mut self) -> Option<()> {
        self.take(b'"')?;
        self.string()?;
        self.colon()
    }

    /// Passes over a value, to the end of which no recursion leads.
    fn value(&mut self) -> Option<()> {
        let mut nest = Nest::default();
        loop {
            match self.next()? {
                b'"' => self.string()?,
                opening @ (b'{' | b'[') => {
                    let is_object = opening == b'{';
                    nest.enter(is_object)?;
                    self.skip_space();
                    // One that is empty is left below.
                    if self.peek() != Some(if is_object { b'}' } else { b']' }) {
                        if is_object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b't' => self.word(b"rue")?,
                b'f' => self.word(b"alse")?,
                b'n' => self.word(b"ull")?,
                first @ (b'-' | b'0'..=b'9') => self.number(first)?,
                _ => return None,
            }
            if self.leave(&mut nest)? {
                return Some(());
            }
        }
    }

    /// Passes over what may stand behind a value, up to the next one; true where there is none because
    /// the outermost has ended.
    fn leave(&mut self, nest: &mut Nest) -> Option<bool> {
        while nest.depth > 0 {
            self.skip_space();
            match (self.next()?, nest.is_in_object()) {
                (b',', is_in_object) => {
                    self.skip_space();
                    if is_in_object {
                        self.key()?;
                    }
                    return Some(false);
                }
                (b'}', true) | (b']', false) => nest.leave(),
                _ => return None,
            }
        }
        Some(true)
    }

    fn word(&mut self, rest: &[u8]) -> Option<()> {
        let end = self.at.saturating_add(rest.len());
        (self.text.get(self.at..end)? == rest).then(|| self.at = end)
    }

    fn number(&mut self, first: u8) -> Option<()> {
        let leading = if first == b'-' { self.next()? } else { first };
        match leading {
            b'0' => {}
            b'1'..=b'9' => self.skip_digits(),
            _ => return None,
        }
        if self.peek() == Some(b'.') {
            self.advance(1);
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.advance(1);
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.advance(1);
            }
            self.digits()?;
        }
        // `01` would otherwise end here, and what follows be looked at as if it were not part of it.
        (!matches!(self.peek(), Some(b'0'..=b'9'))).then_some(())
    }

    fn digits(&mut self) -> Option<()> {
        matches!(self.peek(), Some(b'0'..=b'9')).then(|| self.skip_digits())
    }

    fn skip_digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.advance(1);
        }
    }

    /// Passes over a string whose first quote has been passed.
    fn string(&mut self) -> Option<()> {
        loop {
            let mut plain = 0;
            while plain < SHORT_STRING_BYTES {
                match self.next()? {
                    b'"' => return Some(()),
                    b'\\' => {
                        self.escaped()?;
                        plain = 0;
                    }
                    0..=0x1f => return None,
                    _ => plain = plain.saturating_add(1),
                }
            }
            let rest = self.text.get(self.at..)?;
            let run = rest.get(..memchr::memchr2(b'"', b'\\', rest)?)?;
            // Without an early exit, so that many bytes are looked at at once.
            if run.iter().fold(false, |any, it| any | (*it < b' ')) {
                return None;
            }
            self.advance(run.len());
        }
    }

    /// Passes over what stands behind a backslash.
    fn escaped(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let end = self.at.saturating_add(4);
                let is_hex = self.text.get(self.at..end)?.iter().all(u8::is_ascii_hexdigit);
                is_hex.then(|| self.at = end)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, value::RawValue};

    use super::*;

    fn scanned(text: &str) -> Option<Vec<(&str, &str)>> {
        let mut seen = Vec::new();
        fields(text, |key, value| seen.push((key, value)))?;
        Some(seen)
    }

    #[test]
    fn fields_come_as_they_stand() {
        let text =
            r#" { "a" : [ {"b":"}\"" , "c":[]} , {} ] ,"d":-1.5e+3 , "e":null,"a":"\u00e9"} "#;
        let expected = [
            ("a", r#"[ {"b":"}\"" , "c":[]} , {} ]"#),
            ("d", "-1.5e+3"),
            ("e", "null"),
            ("a", r#""\u00e9""#),
        ];
        assert_eq!(scanned(text).unwrap(), expected);
        assert_eq!(scanned("{}").unwrap(), []);
    }

    #[test]
    fn what_is_not_plainly_valid_is_left_to_serde() {
        let long = "x".repeat(40);
        for text in [
            "",
            "{",
            "[]",
            "7",
            "{}}",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
            r#"{"a":-}"#,
            r#"{"a":1.}"#,
            r#"{"a":1e}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[1}"#,
            r#"{"a":{]}"#,
            r#"{"a":tru}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12g4"}"#,
            "{\"a\":\"\n\"}",
            r#"{"\u0061":1}"#,
            r#"{"a":"b}"#,
            r#"{"a":{"b" 1}}"#,
            r#"{"a" 1}"#,
            "{\"a\":1\u{a0}}",
            &format!("{{\"a\":\"{long}\n{long}\"}}"),
            &format!("{{\"a\":{}1{}}}", "[".repeat(64), "]".repeat(64)),
        ] {
            assert_eq!(scanned(text), None, "{text}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(63), "]".repeat(63));
        assert!(scanned(&deep).is_some());
    }

    /// What serde_json makes of the same text.
    fn with_serde(text: &str) -> Option<Vec<(String, String)>> {
        struct Seen(Vec<(String, String)>);

        impl<'de> serde::Deserialize<'de> for Seen {
            fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
                struct Object;

                impl<'de> serde::de::Visitor<'de> for Object {
                    type Value = Seen;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> Result<Seen, A::Error> {
                        let mut seen = Vec::new();
                        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                            seen.push((key, value.get().to_owned()));
                        }
                        Ok(Seen(seen))
                    }
                }

                json.deserialize_map(Object)
            }
        }

        serde_json::from_str::<Seen>(text).ok().map(|it| it.0)
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a\\t\n\\\\\"{}\\[\\],:\u{e9}]{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("[a-c]{0,2}", inner), 0..5)
                    .prop_map(|it| Value::from(it.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        /// Valid text is seen as serde_json sees it, and text with a byte changed is never seen where
        /// serde_json sees none.
        #[test]
        fn what_is_seen_is_what_serde_sees(
            values in prop::collection::vec(json(), 0..5),
            at in any::<prop::sample::Index>(),
            byte in prop::sample::select(&b"\"\\{}[]:,0a-.e+u\n \x01"[..]),
        ) {
            let object: Map<_, _> =
                values.into_iter().enumerate().map(|(at, it)| (format!("k{at}"), it)).collect();
            let text = Value::from(object).to_string();
            let owned = |it: Vec<(&str, &str)>| -> Vec<(String, String)> {
                it.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
            };
            prop_assert_eq!(scanned(&text).map(owned), with_serde(&text));
            let mut bytes = text.into_bytes();
            let place = at.index(bytes.len());
            bytes[place] = byte;
            if let Ok(text) = String::from_utf8(bytes)
                && let Some(seen) = scanned(&text)
            {
                prop_assert_eq!(Some(owned(seen)), with_serde(&text));
            }
        }
    }
}
