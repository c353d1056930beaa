//! Quantities as people write them in a configuration: `64MiB`, `64 tokens`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::quantity::Tokens;

/// A number of bytes, written with an optional unit: `65536`, `64KiB`, `32MiB`, `1GiB`, `10MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

const UNITS: [(&str, usize); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = NumberOrText::deserialize(deserializer)?.into_text();
        let (number, unit) = UNITS
            .into_iter()
            .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?.trim_end(), bytes)))
            .unwrap_or((text.as_str(), 1));
        let bytes = number.parse().ok().and_then(|it: usize| it.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| {
            D::Error::custom(format!("`{text}` is no size: write a whole number and a unit, 64MiB"))
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.into_iter().take(3).rev();
        match whole.into_iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A number of tokens, written `64 tokens` or `64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCount(pub Tokens);

impl<'de> Deserialize<'de> for TokenCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = NumberOrText::deserialize(deserializer)?.into_text();
        let number = text.strip_suffix("tokens").unwrap_or(&text).trim_end();
        number.parse().map(|it| Self(Tokens(it))).map_err(|_| {
            D::Error::custom(format!("`{text}` is no number of tokens: write it as `64 tokens`"))
        })
    }
}

impl Serialize for TokenCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{} tokens", self.0))
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a whole number, with a unit or without")]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl NumberOrText {
    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes, printed) in [
            ("32MiB", 32 << 20, "32MiB"),
            ("\"1 GiB\"", 1 << 30, "1GiB"),
            ("10MB", 10_000_000, "10000000B"),
            ("4096", 4_096, "4KiB"),
            ("0", 0, "0B"),
        ] {
            let size: ByteSize = serde_yaml::from_str(text).unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed));
        }
    }

    #[test]
    fn what_is_no_size_is_told_the_cure() {
        for text in ["1.5MiB", "MiB", "-1", "12 parsecs", "99999999999GiB"] {
            let error = serde_yaml::from_str::<ByteSize>(text).unwrap_err().to_string();
            assert!(error.contains("whole number"), "{text}: {error}");
        }
    }

    #[test]
    fn tokens_may_be_named() {
        for text in ["64", "64 tokens", "64tokens"] {
            assert_eq!(serde_yaml::from_str::<TokenCount>(text).unwrap().0, Tokens(64));
        }
        assert!(serde_yaml::from_str::<TokenCount>("64 blocks").is_err());
    }
}
