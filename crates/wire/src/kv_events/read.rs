//! Reads batches, in either encoding.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{Batch, EngineHash, Event, Extra, Removed, Stored};

/// The fields of all kinds of event, by the names that maps give them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Hashes,
    Parent,
    Tokens,
    Block,
    AdapterId,
    Medium,
    Adapter,
    Extra,
    Salt,
    Group,
    Attention,
    Window,
    Unknown,
}

/// The order in which arrays have the fields of `BlockStored`.
const STORED: [Field; 11] = [
    Field::Hashes,
    Field::Parent,
    Field::Tokens,
    Field::Block,
    Field::AdapterId,
    Field::Medium,
    Field::Adapter,
    Field::Extra,
    Field::Group,
    Field::Attention,
    Field::Window,
];

/// The same of `BlockRemoved`.
const REMOVED: [Field; 3] = [Field::Hashes, Field::Medium, Field::Group];

impl Field {
    fn named(name: &str) -> Self {
        match name {
            "block_hashes" => Self::Hashes,
            "parent_block_hash" => Self::Parent,
            "token_ids" => Self::Tokens,
            "block_size" => Self::Block,
            "lora_id" => Self::AdapterId,
            "medium" => Self::Medium,
            "lora_name" => Self::Adapter,
            "extra_keys" => Self::Extra,
            "cache_salt" => Self::Salt,
            "group_idx" => Self::Group,
            "kv_cache_spec_kind" => Self::Attention,
            "kv_cache_spec_sliding_window" => Self::Window,
            _ => Self::Unknown,
        }
    }
}

/// The kinds of event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stored,
    Removed,
    Cleared,
    Unknown,
}

impl Kind {
    fn named(name: &str) -> Self {
        match name {
            "BlockStored" => Self::Stored,
            "BlockRemoved" => Self::Removed,
            "AllBlocksCleared" => Self::Cleared,
            _ => Self::Unknown,
        }
    }

    /// The order in which arrays have the fields.
    const fn order(self) -> &'static [Field] {
        match self {
            Self::Stored => &STORED,
            Self::Removed => &REMOVED,
            Self::Cleared | Self::Unknown => &[],
        }
    }
}

/// What has been read of an event of whatever kind.
#[derive(Default)]
struct Fields {
    stored: Stored,
    has_hashes: bool,
}

impl Fields {
    fn event<E: Error>(self, kind: Kind) -> Result<Event, E> {
        let Self { stored, has_hashes } = self;
        match kind {
            Kind::Cleared => Ok(Event::Cleared),
            Kind::Unknown => Ok(Event::Unknown),
            Kind::Stored | Kind::Removed if !has_hashes => Err(E::missing_field("block_hashes")),
            Kind::Stored if stored.block == 0 => Err(E::missing_field("block_size")),
            Kind::Stored => Ok(Event::Stored(stored)),
            Kind::Removed => {
                let Stored { hashes, medium, group, .. } = stored;
                Ok(Event::Removed(Removed { hashes, medium, group }))
            }
        }
    }

    /// Reads the value of `field` with `next`, which may find that there is none.
    fn take<'de, S: Source<'de>>(
        &mut self,
        field: Field,
        source: &mut S,
    ) -> Result<bool, S::Error> {
        let stored = &mut self.stored;
        macro_rules! set {
            ($place:expr) => {
                source.value()?.map(|it| $place = it)
            };
        }
        let taken = match field {
            Field::Hashes => {
                self.has_hashes = true;
                set!(stored.hashes)
            }
            Field::Parent => set!(stored.parent),
            Field::Tokens => set!(stored.tokens),
            Field::Block => set!(stored.block),
            // SGLang says a text here.
            Field::AdapterId => source.value()?.map(|it: Loose| stored.adapter_id = it.into()),
            Field::Medium => set!(stored.medium),
            Field::Adapter => set!(stored.adapter),
            Field::Extra => source.value()?.map(|it: Option<Vec<Loose>>| {
                stored.extra = it.unwrap_or_default().into_iter().map(keys).collect();
            }),
            Field::Salt => set!(stored.salt),
            Field::Group => set!(stored.group),
            Field::Attention => set!(stored.attention),
            Field::Window => set!(stored.window),
            Field::Unknown => source.value::<IgnoredAny>()?.map(|_| ()),
        };
        Ok(taken.is_some())
    }
}

/// Where values come from: the rest of an array, or an entry of a map.
trait Source<'de> {
    type Error: Error;
    fn value<T: Deserialize<'de>>(&mut self) -> Result<Option<T>, Self::Error>;
}

struct Items<A>(A);
struct Value<A>(A);

impl<'de, A: SeqAccess<'de>> Source<'de> for Items<A> {
    type Error = A::Error;
    fn value<T: Deserialize<'de>>(&mut self) -> Result<Option<T>, A::Error> {
        self.0.next_element()
    }
}

impl<'de, A: MapAccess<'de>> Source<'de> for Value<A> {
    type Error = A::Error;
    fn value<T: Deserialize<'de>>(&mut self) -> Result<Option<T>, A::Error> {
        self.0.next_value().map(Some)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EventVisitor)
    }
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Event;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a KV-cache event, as an array or a map")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Event, A::Error> {
        let mut items = Items(seq);
        let tag: Option<&str> = items.value()?;
        let kind = Kind::named(tag.unwrap_or_default());
        let mut fields = Fields::default();
        for field in kind.order() {
            if !fields.take(*field, &mut items)? {
                break;
            }
        }
        while items.value::<IgnoredAny>()?.is_some() {}
        fields.event(kind)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let (mut kind, mut fields) = (None, Fields::default());
        while let Some(key) = map.next_key::<&str>()? {
            if key == "type" {
                kind = Some(Kind::named(map.next_value()?));
                continue;
            }
            // What an unknown kind of event has under a known name may be anything.
            let field =
                if kind == Some(Kind::Unknown) { Field::Unknown } else { Field::named(key) };
            let mut value = Value(map);
            fields.take(field, &mut value)?;
            map = value.0;
        }
        fields.event(kind.unwrap_or(Kind::Unknown))
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BatchVisitor)
    }
}

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Batch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch of KV-cache events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Batch, A::Error> {
        let missing = |what| A::Error::missing_field(what);
        let at_s = seq.next_element()?.ok_or_else(|| missing("ts"))?;
        let events = seq.next_element()?.ok_or_else(|| missing("events"))?;
        let rank: Option<Option<u32>> = seq.next_element()?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Batch { at_s, events, rank: rank.flatten() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Batch, A::Error> {
        let (mut at_s, mut events, mut rank) = (0.0, None, None);
        while let Some(key) = map.next_key::<&str>()? {
            match key {
                "ts" => at_s = map.next_value()?,
                "events" => events = Some(map.next_value()?),
                "data_parallel_rank" => rank = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let events = events.ok_or_else(|| A::Error::missing_field("events"))?;
        Ok(Batch { at_s, events, rank })
    }
}

/// A value of whatever type, reduced to what is made of it.
enum Loose {
    Number(u64),
    Text(String),
    /// Bytes, as the number that their last eight are, the highest first: what engines publish of
    /// the same hash where they publish numbers.
    Bytes(u64),
    List(Vec<Loose>),
    Nothing,
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Loose, E> {
        Ok(Loose::Number(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Loose, E> {
        Ok(Loose::Number(value.cast_unsigned()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Loose, E> {
        Ok(Loose::Number(value.to_bits()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Loose, E> {
        Ok(Loose::Number(value.into()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Loose, E> {
        Ok(Loose::Text(value.to_owned()))
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Loose, E> {
        let low = value.iter().rev().take(8).rev();
        Ok(Loose::Bytes(low.fold(0, |number, byte| (number << 8) | u64::from(*byte))))
    }

    fn visit_unit<E: Error>(self) -> Result<Loose, E> {
        Ok(Loose::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Loose, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Loose::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::List(Vec::new()))
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

impl<'de> Deserialize<'de> for EngineHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Loose::deserialize(deserializer)? {
            Loose::Number(hash) | Loose::Bytes(hash) => Ok(Self(hash)),
            Loose::Text(_) | Loose::List(_) | Loose::Nothing => {
                Err(D::Error::custom("a block's hash is a number or bytes"))
            }
        }
    }
}

impl From<Loose> for Option<u64> {
    fn from(value: Loose) -> Self {
        match value {
            Loose::Number(number) => Some(number),
            Loose::Text(_) | Loose::Bytes(_) | Loose::List(_) | Loose::Nothing => None,
        }
    }
}

impl From<Loose> for Extra {
    fn from(value: Loose) -> Self {
        match value {
            Loose::Text(text) => Self::Text(text),
            Loose::Number(_) | Loose::Bytes(_) | Loose::List(_) | Loose::Nothing => Self::Other,
        }
    }
}

/// What the hash of one block covers beside its tokens.
fn keys(value: Loose) -> Vec<Extra> {
    match value {
        Loose::List(items) => items.into_iter().map(Extra::from).collect(),
        Loose::Nothing => Vec::new(),
        one @ (Loose::Number(_) | Loose::Text(_) | Loose::Bytes(_)) => vec![one.into()],
    }
}
