//! What is said of a place that cannot be read: the culprit and the cure.
//!
//! The value is not said where keys or a list should be: it may be a secret that was written in place of
//! where it is. Nor is anything that was written where a secret belongs.

use serde_yaml::Value;

use super::place::{Place, scalar};

/// Letters to which one may be wrong, missing, too many or in its neighbour's place, for a slip.
const LETTERS_TO_A_SLIP: usize = 3;

/// What is wrong with `value` at `place`, which could not be read for `error`; `default` is what would be
/// there.
pub(super) fn of(
    error: &serde_yaml::Error,
    place: &Place,
    value: &Value,
    default: Option<&Value>,
) -> String {
    let told = without_place(error, place);
    let is_secret = place.is_secret();
    if let Some(rest) = told.strip_prefix("unknown field `") {
        return unknown_key(rest, is_secret);
    }
    if let Some(rest) = told.strip_prefix("unknown variant `") {
        let (culprit, names) = named(rest);
        return format!(
            "`{culprit}` is not known here{}; write {}",
            slip(culprit, &names),
            names.join(", ")
        );
    }
    let example =
        default.and_then(scalar).map_or_else(String::new, |it| format!("; write for example {it}"));
    let culprit = scalar(value).filter(|_| !is_secret).map(|it| it.escape_debug().to_string());
    let Some((_, expected)) =
        told.strip_prefix("invalid ").and_then(|it| it.rsplit_once(", expected "))
    else {
        return match culprit {
            None if is_secret => format!("what is there can't be read{example}"),
            Some(culprit) if !told.contains(&culprit) => format!("`{culprit}`: {told}{example}"),
            Some(_) | None => format!("{told}{example}"),
        };
    };
    if expected.starts_with("struct ") || expected == "a map" {
        return format!("must hold keys, and is {}", kind(value));
    }
    if expected == "a sequence" {
        return format!("must be a list, and is {}", kind(value));
    }
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        other => other,
    };
    let culprit = culprit.map_or_else(|| kind(value).to_owned(), |it| format!("`{it}`"));
    format!("{culprit} is not {expected}{example}")
}

/// The error without the place, which is said before it, and without the line, which is that of a copy.
fn without_place(error: &serde_yaml::Error, place: &Place) -> String {
    let told = error.to_string();
    let line = error
        .location()
        .map_or_else(String::new, |it| format!(" at line {} column {}", it.line(), it.column()));
    let told = told.strip_suffix(&line).unwrap_or(&told);
    let around = (1..=place.0.len()).rev().filter_map(|length| place.0.get(..length));
    let mut prefixes = around.map(|it| format!("{}: ", Place(it.to_vec())));
    let bare = prefixes.find_map(|it| told.strip_prefix(&it)).unwrap_or(told);
    bare.to_owned()
}

fn unknown_key(rest: &str, is_secret: bool) -> String {
    let (culprit, names) = named(rest);
    if is_secret {
        return format!("holds what is no key here; those are {}", names.join(", "));
    }
    match slip(culprit, &names) {
        slip if !slip.is_empty() => format!("`{culprit}` is no key here{slip}"),
        _ if names.is_empty() => format!("`{culprit}` is no key here; leave it out"),
        _ => format!("`{culprit}` is no key here; those are {}", names.join(", ")),
    }
}

/// The culprit and the names that are known, of which only the rest of a message tells: `` x`, expected one
/// of `a`, `b` ``.
fn named(rest: &str) -> (&str, Vec<&str>) {
    let (culprit, expected) = rest.split_once("`, ").unwrap_or((rest, ""));
    (culprit, expected.split('`').skip(1).step_by(2).collect())
}

/// The name that was meant, if one is near.
fn slip(culprit: &str, names: &[&str]) -> String {
    let slips_max = culprit.chars().count() / LETTERS_TO_A_SLIP;
    let slips = names.iter().map(|it| (strsim::damerau_levenshtein(culprit, it), it));
    let nearest = slips.min_by_key(|it| it.0).filter(|it| it.0 <= slips_max);
    nearest.map_or_else(String::new, |it| format!(", did you mean `{}`?", it.1))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) | Value::Number(_) | Value::String(_) => "a single value",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) | Value::Tagged(_) => "a group of keys",
    }
}
