//! The line of a place: the text is read as far as there, and what reads it fails then.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::place::{Place, Step};

/// The line of `text` that `place` is on, from 1 on; of a key, its own line.
pub(super) fn of(text: &str, place: &Place) -> Option<usize> {
    let error = Way(&place.0).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    Some(error.location()?.line())
}

/// Reads as far as a place.
struct Way<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for Way<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Without a method for what it finds, it fails where that is; so it does at the end of the way.
impl<'de> Visitor<'de> for Way<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the way to a place")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(key), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("here"));
        };
        while let Some(is_it) = map.next_key_seed(Key { key, is_last: rest.is_empty() })? {
            if is_it {
                return map.next_value_seed(Way(rest));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::custom("not here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Step::At(at), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("here"));
        };
        for _ in 0..*at {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Way(rest))?;
        Err(A::Error::custom("not here"))
    }
}

/// Whether a key is the one that is looked for; the last one is where the reading ends.
struct Key<'a> {
    key: &'a str,
    is_last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        if text == self.key && self.is_last {
            return Err(E::custom("here"));
        }
        Ok(text == self.key)
    }
}
