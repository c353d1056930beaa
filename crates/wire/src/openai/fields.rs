//! The fields of a body that routing reads, found in one walk.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{Deserializer, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::BadRequest;
use crate::{json, scan};

/// Declares the fields that are read, each with its name.
macro_rules! fields {
    ($($field:ident = $name:literal,)*) => {
        #[derive(Clone, Copy)]
        pub(super) enum Field { $($field,)* }

        const FIELDS: usize = [$($name,)*].len();

        impl Field {
            fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$field),)*
                    _ => None,
                }
            }

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$field => $name,)* }
            }
        }
    };
}

fields! {
    Model = "model",
    Stream = "stream",
    StreamOptions = "stream_options",
    MaxCompletionTokens = "max_completion_tokens",
    MaxTokens = "max_tokens",
    MaxOutputTokens = "max_output_tokens",
    CacheSalt = "cache_salt",
    PromptCacheIsolationKey = "prompt_cache_isolation_key",
    ExtraKey = "extra_key",
    LoraPath = "lora_path",
    ServiceTier = "service_tier",
    SessionId = "session_id",
    PromptCacheKey = "prompt_cache_key",
    Conversation = "conversation",
    PreviousResponseId = "previous_response_id",
    SafetyIdentifier = "safety_identifier",
    User = "user",
    Metadata = "metadata",
    Tools = "tools",
    System = "system",
    Messages = "messages",
    Instructions = "instructions",
    Input = "input",
    Prompt = "prompt",
    Query = "query",
    Documents = "documents",
    Text1 = "text_1",
    Text2 = "text_2",
}

/// The fields of a body that are read, as received.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    values: [Option<&'a str>; FIELDS],
    pub(super) duplicate: Option<&'static str>,
}

impl<'a> Fields<'a> {
    /// Reads the fields of `text`.
    ///
    /// # Errors
    ///
    /// When it is not a JSON object.
    pub(super) fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        let mut fields = Self::default();
        let found = scan::fields(text, |name, value| {
            if let Some(field) = Field::from_name(name) {
                fields.put(field, value);
            }
        });
        if found.is_none() {
            return serde_json::from_str(text);
        }
        debug_assert!(
            serde_json::from_str(text).is_ok_and(|it: Self| it == fields),
            "what is found is what serde_json finds"
        );
        Ok(fields)
    }

    /// The field's value; `null` is as good as absent.
    pub(super) fn get(&self, field: Field) -> Option<&'a str> {
        self.values.get(field as usize).copied().flatten().filter(|value| *value != "null")
    }

    pub(super) fn text(&self, field: Field) -> Option<Cow<'a, str>> {
        json::string(self.get(field)?)
    }

    pub(super) fn array(&self, field: Field) -> Result<Option<&'a str>, BadRequest> {
        match self.get(field) {
            Some(raw) if !json::starts_with(raw, b'[') => {
                Err(BadRequest::WrongType { param: field.name(), expected: "an array" })
            }
            value => Ok(value),
        }
    }

    pub(super) fn text_or_array(&self, field: Field) -> Result<Option<&'a str>, BadRequest> {
        match self.get(field) {
            Some(raw) if !json::starts_with(raw, b'[') && !json::starts_with(raw, b'"') => {
                let expected = "a string or an array";
                Err(BadRequest::WrongType { param: field.name(), expected })
            }
            value => Ok(value),
        }
    }

    fn put(&mut self, field: Field, value: &'a str) {
        if let Some(slot) = self.values.get_mut(field as usize)
            && slot.replace(value).is_some()
        {
            self.duplicate = self.duplicate.or(Some(field.name()));
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<Name>()? {
                    match name.0 {
                        Some(field) => fields.put(field, map.next_value::<&RawValue>()?.get()),
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(fields)
            }
        }

        json.deserialize_map(Object)
    }
}

/// A key of the body, if it is one that is read.
struct Name(Option<Field>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(Field::from_name(text)))
            }
        }

        json.deserialize_identifier(Text)
    }
}
