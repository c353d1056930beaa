//! Renders a chat as an engine does: by the model's own template.
//!
//! Templates are written for Python's Jinja and for what `transformers` adds to it. What they use of
//! either is provided here; a template that wants more fails to render, and the request is then treated
//! as one without a tokenizer.
//!
//! What a client sends keeps its order on the way: of two objects with the same entries, engines render the
//! one that was sent.

use std::{io, time::Duration};

use jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use minijinja::{
    Environment, Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};
use serde::{Deserialize, Serialize as _};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// A chat template can't be used.
#[derive(Debug, thiserror::Error)]
#[error("not a chat template: {0}")]
pub struct BadTemplate(#[from] Error);

/// A model's chat template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    /// Whether it walks over the parts of a message itself.
    walks_parts: bool,
}

/// What of `tokenizer_config.json` is read.
#[derive(Debug, Default, Deserialize)]
pub struct TokenizerConfig {
    #[serde(default)]
    chat_template: Option<Templates>,
    #[serde(default)]
    bos_token: Option<Token>,
    #[serde(default)]
    eos_token: Option<Token>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

impl TokenizerConfig {
    /// The chat template that it has, if any.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        match self.chat_template.as_ref()? {
            Templates::One(template) => Some(template),
            Templates::Named(all) => {
                let default = all.iter().find(|it| it.name == "default");
                Some(&default?.template)
            }
        }
    }
}

impl Template {
    /// Reads a template; `config` says how a text begins and ends.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn new(source: &str, config: &TokenizerConfig) -> Result<Self, BadTemplate> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |what: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, what))
        });
        for (name, token) in [("bos_token", &config.bos_token), ("eos_token", &config.eos_token)] {
            environment.add_global(name, token.as_ref().map_or("", Token::text));
        }
        environment.add_template_owned("chat", source.to_owned())?;
        let quoted = ["in message['content']", "in message[\"content\"]", "in message.content"];
        let walks_parts = quoted.iter().any(|it| source.contains(it));
        Ok(Self { environment, walks_parts })
    }

    /// The prompt that a chat's body asks for, rendered at `now`, counted from 1970; `None` where that can't be
    /// said: it has media, brings a template of its own, or the template does not render.
    ///
    /// A template that writes the date is taken to be rendered in UTC, as in a container.
    #[must_use]
    pub fn render(&self, body: &Value, now: Duration) -> Option<String> {
        if field(body, "chat_template").is_some() {
            return None;
        }
        let messages = items(&field(body, "messages")?)?;
        let messages: Option<Vec<Value>> = messages.iter().map(|it| self.message(it)).collect();
        let flag = |name: &str, default| {
            field(body, name).and_then(|it| bool::try_from(it).ok()).unwrap_or(default)
        };
        if flag("continue_final_message", false) {
            return None;
        }
        let tools = field(body, "tools").map_or(Value::from(()), |it| match items(&it) {
            Some(tools) => tools.iter().map(tool).collect(),
            None => it,
        });
        let mut context = vec![(Value::from("strftime_now"), strftime_at(now))];
        context.extend(
            field(body, "chat_template_kwargs").and_then(|it| entries(&it)).into_iter().flatten(),
        );
        context.extend([
            (Value::from("messages"), messages?.into_iter().collect()),
            (Value::from("add_generation_prompt"), flag("add_generation_prompt", true).into()),
            (Value::from("tools"), tools),
            (Value::from("documents"), field(body, "documents").unwrap_or(Value::from(()))),
        ]);
        let template = self.environment.get_template("chat").ok()?;
        template.render(context.into_iter().collect::<Value>()).ok()
    }

    /// A message as engines hand it to the template.
    fn message(&self, message: &Value) -> Option<Value> {
        let mut changed = entries(message)?;
        for (name, value) in &mut changed {
            match name.as_str() {
                Some("content") => {
                    let Some(parts) = items(value) else { continue };
                    let texts: Option<Vec<Value>> =
                        parts.iter().map(|it| field(it, "text")).collect();
                    let texts = texts?;
                    let texts: Option<Vec<&str>> = texts.iter().map(Value::as_str).collect();
                    let texts = texts?.join("\n");
                    if !self.walks_parts {
                        *value = texts.into();
                    }
                }
                Some("tool_calls") => {
                    if let Some(calls) = items(value) {
                        *value = calls.iter().map(call).collect();
                    }
                }
                _ => {}
            }
        }
        Some(changed.into_iter().collect())
    }
}

/// A field of an object, where it is there.
fn field(of: &Value, name: &str) -> Option<Value> {
    of.get_attr(name).ok().filter(|it| !it.is_undefined())
}

/// The items of a list; `None` of anything else.
fn items(list: &Value) -> Option<Vec<Value>> {
    (list.kind() == ValueKind::Seq).then(|| list.try_iter().ok()).flatten().map(Iterator::collect)
}

/// The entries of an object, in order; `None` of anything else.
fn entries(object: &Value) -> Option<Vec<(Value, Value)>> {
    if object.kind() != ValueKind::Map {
        return None;
    }
    let names = object.try_iter().ok()?;
    Some(names.map(|name| (name.clone(), object.get_item(&name).unwrap_or_default())).collect())
}

/// The object with what `change` makes of one of its fields.
fn with(object: &Value, name: &str, change: impl Fn(&Value) -> Value) -> Value {
    let Some(mut all) = entries(object) else { return object.clone() };
    for (_, value) in all.iter_mut().filter(|it| it.0.as_str() == Some(name)) {
        *value = change(value);
    }
    all.into_iter().collect()
}

/// A call of a message. Clients send its arguments as a text that holds JSON; templates expect what it holds.
fn call(call: &Value) -> Value {
    with(call, "function", |function| {
        with(function, "arguments", |arguments| {
            let read = arguments.as_str().and_then(|it| serde_json::from_str(it).ok());
            read.unwrap_or_else(|| arguments.clone())
        })
    })
}

/// A tool as vLLM hands it to the template: it reads a tool's own fields into a form and writes them in the form's
/// order, null where one is missing, and then what else there was. Schemas stay as they were sent.
fn tool(tool: &Value) -> Value {
    let null = || Value::from(());
    let Some(function) = field(tool, "function") else { return tool.clone() };
    let names = ["name", "description", "parameters"];
    let function =
        in_form(&function, names.map(|it| (it, field(&function, it).unwrap_or_else(null))));
    let kind = field(tool, "type").unwrap_or_else(|| "function".into());
    in_form(tool, [("type", kind), ("function", function)])
}

/// The object with `first` before, and in place of, its own fields of these names.
fn in_form<const N: usize>(object: &Value, first: [(&str, Value); N]) -> Value {
    let Some(mut rest) = entries(object) else { return object.clone() };
    rest.retain(|it| first.iter().all(|(name, _)| it.0.as_str() != Some(name)));
    first.into_iter().map(|(name, value)| (Value::from(name), value)).chain(rest).collect()
}

/// JSON as Python writes it: a space after each comma and colon, and no escapes for other alphabets.
#[expect(clippy::needless_pass_by_value, reason = "so the library calls a filter")]
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Changes nothing of what is written here.
    let _: Option<bool> = options.get("ensure_ascii")?;
    // Others are not there: what would come of them is not guessed.
    options.assert_all_used()?;
    let mut text = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent);
            let lines = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut text, lines))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, OneLine)),
    };
    let bad = |it: String| Error::new(ErrorKind::BadSerialization, it);
    written.map_err(|it| bad(it.to_string()))?;
    String::from_utf8(text).map(Value::from_safe_string).map_err(|it| bad(it.to_string()))
}

/// One line with a space after each comma and colon.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// The function that writes the date and time of `now` in a form of Python's `strftime`.
fn strftime_at(now: Duration) -> Value {
    Value::from_function(move |form: String| -> Result<String, Error> {
        let bad = |it: jiff::Error| Error::new(ErrorKind::InvalidOperation, it.to_string());
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let now = Timestamp::from_second(seconds).map_err(bad)?;
        strtime::format(&form, &now.to_zoned(TimeZone::UTC)).map_err(bad)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::TEMPLATE;

    /// 2026-11-27, a quarter past one in the afternoon.
    const NOW: Duration = Duration::from_secs(1_795_785_300);

    fn rendered(source: &str, body: &serde_json::Value) -> Option<String> {
        sent(source, &body.to_string())
    }

    fn sent(source: &str, body: &str) -> Option<String> {
        let config = serde_json::from_value(json!({"bos_token": {"content": "<s>"}})).unwrap();
        let body = serde_json::from_str(body).unwrap();
        Template::new(source, &config).unwrap().render(&body, NOW)
    }

    #[test]
    fn a_chat_is_rendered_as_transformers_does() {
        let body = json!({"messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        ]});
        let expected = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n\
            <|im_start|>assistant\n";
        assert_eq!(rendered(TEMPLATE, &body).as_deref(), Some(expected));
    }

    #[test]
    fn what_templates_use_of_python_is_there() {
        let source = "{{- bos_token }}{% set ns = namespace(n=0) %}
            {%- for m in messages %}{% set ns.n = ns.n + 1 %}{{ m.content.strip().split('|')[0] }}{% endfor %}
            {%- if documents %}{{ documents | tojson }}{% endif %}{{ ns.n }}{{ extra }}";
        let body = json!({
            "messages": [{"role": "user", "content": "  hi|there "}],
            "documents": [{"name": [1, "é", 1.5, null, {}, []]}],
            "chat_template_kwargs": {"extra": "!"},
        });
        let expected = "<s>hi[{\"name\": [1, \"é\", 1.5, null, {}, []]}]1!";
        assert_eq!(rendered(source, &body).as_deref(), Some(expected));
    }

    #[test]
    fn tools_and_arguments_are_written_in_the_order_that_engines_write_them() {
        let source = "{{ tools | tojson }}{{ tools[0].function.parameters | tojson(indent=2) }}
{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}";
        let call = r#"{"function": {"name": "f", "arguments": "{\"to\": 1, \"at\": {\"z\": 2, \"b\": []}}"}}"#;
        let schema =
            r#"{"type": "object", "properties": {"to": {}, "at": {}}, "required": ["to"]}"#;
        let function = format!(r#"{{"strict": true, "parameters": {schema}, "name": "f"}}"#);
        let body = format!(
            r#"{{"messages": [{{"role": "assistant", "tool_calls": [{call}]}}],
            "tools": [{{"function": {function}}}]}}"#
        );
        let expected = format!(
            r#"[{{"type": "function", "function": {{"name": "f", "description": null, "parameters": {schema}, "strict": true}}}}]{{
  "type": "object",
  "properties": {{
    "to": {{}},
    "at": {{}}
  }},
  "required": [
    "to"
  ]
}}
{{"to": 1, "at": {{"z": 2, "b": []}}}}"#
        );
        assert_eq!(sent(source, &body), Some(expected));
        let body = json!({"messages": []});
        assert_eq!(rendered("{{ [1] | tojson(sort_keys=true) }}", &body), None, "not provided");
    }

    #[test]
    fn the_date_is_that_of_the_clock_that_is_passed_in() {
        // As in templates of Llama 3.2 and of Granite.
        let guarded = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}";
        let within =
            "{% macro day() %}{{ strftime_now('%B %d, %Y %H:%M') }}{% endmacro %}{{ day() }}";
        let body = json!({"messages": []});
        assert_eq!(rendered(guarded, &body).as_deref(), Some("27 Nov 2026"));
        assert_eq!(rendered(within, &body).as_deref(), Some("November 27, 2026 13:15"));
    }

    #[test]
    fn arguments_of_calls_are_read_before_they_are_written() {
        let source = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}\
            {% endfor %}{% endfor %}";
        let call = json!({"function": {"name": "f", "arguments": "{\"a\":1}"}});
        let body = json!({"messages": [{"role": "assistant", "tool_calls": [call]}]});
        assert_eq!(rendered(source, &body).as_deref(), Some("{\"a\": 1}"));
    }

    #[test]
    fn what_cannot_be_said_is_not_guessed() {
        let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
        for body in [
            json!({"messages": [{"role": "user", "content": image}]}),
            json!({"messages": [{"role": "user", "content": "a"}], "chat_template": "x"}),
            json!({"messages": 7}),
            json!({}),
        ] {
            assert_eq!(rendered(TEMPLATE, &body), None, "{body}");
        }
        let body = json!({"messages": []});
        assert_eq!(rendered("{{ raise_exception('no') }}", &body), None);
    }
}
