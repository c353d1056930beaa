//! When a strategy's choice gives way, as it is written: with values, `off`, or not at all.

use std::fmt;

use policy::config::{Saturation, StrategyName};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// When a strategy's choice gives way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Saturating {
    /// As is usual for the strategy; written `null`, or left out.
    #[default]
    Usual,
    /// Never; written `off`.
    Off,
    /// As the values say.
    At(Saturation),
}

impl Saturating {
    /// The rule, where `usual` is that of the strategy.
    #[must_use]
    pub fn or(self, usual: Option<Saturation>) -> Option<Saturation> {
        match self {
            Self::Usual => usual,
            Self::Off => None,
            Self::At(saturation) => Some(saturation),
        }
    }

    /// How the rule in force for `strategy` is written.
    pub(crate) fn shown(strategy: StrategyName, rule: Option<Saturation>) -> Self {
        match rule {
            Some(saturation) => Self::At(saturation),
            None if strategy.has_affinity() => Self::Off,
            None => Self::Usual,
        }
    }

    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        match self {
            Self::Usual | Self::Off => Vec::new(),
            Self::At(saturation) => saturation.problems(),
        }
    }
}

impl From<Saturation> for Saturating {
    fn from(saturation: Saturation) -> Self {
        Self::At(saturation)
    }
}

impl Serialize for Saturating {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Usual => serializer.serialize_none(),
            Self::Off => serializer.serialize_str("off"),
            Self::At(saturation) => saturation.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Saturating {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

/// Reads what was written.
struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = Saturating;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`off`, or values such as {threshold: 1.5, slack: 4, fallback: least-request}")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Saturating, E> {
        Ok(Saturating::Usual)
    }

    fn visit_none<E: de::Error>(self) -> Result<Saturating, E> {
        Ok(Saturating::Usual)
    }

    /// A bare `off` is false to some who write YAML.
    fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<Saturating, E> {
        if is_on {
            return Err(E::invalid_value(de::Unexpected::Bool(true), &self));
        }
        Ok(Saturating::Off)
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Saturating, E> {
        if word != "off" {
            return Err(E::invalid_value(de::Unexpected::Str(word), &self));
        }
        Ok(Saturating::Off)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Saturating, A::Error> {
        Saturation::deserialize(MapAccessDeserializer::new(map)).map(Saturating::At)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_switched_off_left_alone_and_set() {
        let read =
            |text: &str| serde_yaml::from_str::<Saturating>(text).map_err(|it| it.to_string());
        assert_eq!(read("off"), Ok(Saturating::Off));
        assert_eq!(read("false"), Ok(Saturating::Off));
        assert_eq!(read("null"), Ok(Saturating::Usual));
        let set = Saturation { threshold: 2.0, ..Saturation::default() };
        assert_eq!(read("{ threshold: 2 }"), Ok(Saturating::At(set)));
        for wrong in ["on", "true", "7", "{ treshold: 2 }"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let usual = Some(Saturation::default());
        assert_eq!((Saturating::Usual.or(usual), Saturating::Off.or(usual)), (usual, None));
    }

    #[test]
    fn what_is_shown_can_be_set_again() {
        let sticky = StrategyName::Sticky;
        for rule in [None, Some(Saturation::default())] {
            let shown = Saturating::shown(sticky, rule);
            let written = serde_json::to_string(&shown).unwrap();
            let again: Saturating = serde_json::from_str(&written).unwrap();
            assert_eq!(again.or(Some(Saturation::default())), rule, "{written}");
        }
    }
}
