//! Errors in the words of vLLM.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

/// An error that a client gets as an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
}

impl ApiError {
    /// A value that makes no sense, although its type is right.
    pub(crate) fn bad_request(message: impl Into<String>, param: Option<&str>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
            kind: "BadRequestError",
            param: param.map(str::to_owned),
        }
    }

    /// As [`bad_request`](Self::bad_request), naming the parameter and its value in the message.
    pub(crate) fn bad_value(message: &str, param: &str, value: impl std::fmt::Display) -> Self {
        Self::bad_request(format!("{message} (parameter={param}, value={value})"), Some(param))
    }

    /// A body that does not fit the schema: `kind`, `problem` and `input` are pydantic's words.
    pub(crate) fn validation(kind: &str, loc: &str, problem: &str, input: &str) -> Self {
        let detail = format!(
            "{{'type': '{kind}', 'loc': 'body.{loc}', 'msg': '{problem}', 'input': {input}}}"
        );
        Self::schema(&detail, loc)
    }

    /// A body that is not JSON from byte `offset` on.
    pub(crate) fn not_json(offset: usize, problem: &str) -> Self {
        let detail = format!(
            "{{'type': 'json_invalid', 'loc': 'body.{offset}', 'msg': 'JSON decode error', \
             'input': '<dict of 0 items>', 'ctx': {{'error': '{problem}'}}}}"
        );
        Self::schema(&detail, &offset.to_string())
    }

    fn schema(detail: &str, loc: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: format!("1 validation error:\n  {detail}"),
            kind: "Bad Request",
            param: Some(format!("body.{loc}")),
        }
    }

    pub(crate) fn unknown_model(asked: &str, served: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            message: format!("The model `{asked}` does not exist. Valid aliases: {served}."),
            kind: "NotFoundError",
            param: Some("model".to_owned()),
        }
    }

    /// What the API server says once its engine is dead.
    pub(crate) fn engine_dead() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: "EngineCore encountered an issue. See stack trace (above) for the root cause."
                .to_owned(),
            kind: "InternalServerError",
            param: None,
        }
    }

    /// An error of any status that a fault asks for.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let message = match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                "The engine is currently busy and cannot accept new requests. Please try again \
                 later or on a different instance."
            }
            _ => status.canonical_reason().unwrap_or("Error"),
        };
        Self {
            status,
            message: message.to_owned(),
            kind: status.canonical_reason().unwrap_or("Error"),
            param: None,
        }
    }

    /// The body of the answer.
    pub(crate) fn body(&self) -> Bytes {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Detail<'a>,
        }
        #[derive(Serialize)]
        struct Detail<'a> {
            message: &'a str,
            r#type: &'a str,
            param: Option<&'a str>,
            code: u16,
        }
        let error = Detail {
            message: &self.message,
            r#type: self.kind,
            param: self.param.as_deref(),
            code: self.status.as_u16(),
        };
        serde_json::to_vec(&Body { error }).unwrap_or_default().into()
    }
}

/// A value as pydantic shows it in a validation error.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{text}'"),
        Value::Array(items) => format!("'<list of {} items>'", items.len()),
        Value::Object(fields) => format!("'<dict of {} items>'", fields.len()),
    }
}
