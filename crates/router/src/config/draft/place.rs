//! Places in a configuration: `replicas[0].url`.

use std::fmt;

use serde_yaml::Value;

/// One step to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Into the value of a key.
    Key(String),
    /// Into an element of a list.
    At(usize),
}

/// The steps that lead to a place from the top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place(pub(super) Vec<Step>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(number, step)| match step {
            Step::At(at) => write!(f, "[{at}]"),
            Step::Key(key) if number == 0 => write!(f, "{}", key.escape_debug()),
            Step::Key(key) => write!(f, ".{}", key.escape_debug()),
        })
    }
}

impl Step {
    /// What the step leads to in `node`.
    fn find<'a>(&self, node: &'a Value) -> Option<&'a Value> {
        match self {
            Self::At(at) => node.as_sequence()?.get(*at),
            Self::Key(key) => {
                node.as_mapping()?.iter().find(|it| is_called(it.0, key)).map(|it| it.1)
            }
        }
    }

    fn find_mut<'a>(&self, node: &'a mut Value) -> Option<&'a mut Value> {
        match self {
            Self::At(at) => node.as_sequence_mut()?.get_mut(*at),
            Self::Key(key) => {
                node.as_mapping_mut()?.iter_mut().find(|it| is_called(it.0, key)).map(|it| it.1)
            }
        }
    }

    /// Takes what the step leads to out of `node`.
    fn take_from(&self, node: &mut Value) -> Option<Value> {
        match self {
            Self::At(at) => {
                let list = node.as_sequence_mut()?;
                (*at < list.len()).then(|| list.remove(*at))
            }
            Self::Key(key) => {
                let mapping = node.as_mapping_mut()?;
                let written = mapping.keys().find(|it| is_called(it, key)).cloned()?;
                mapping.shift_remove(&written)
            }
        }
    }
}

/// Whether `written` is the key that is read as `key`, as `5` is read as a name.
fn is_called(written: &Value, key: &str) -> bool {
    scalar(written).is_some_and(|it| it == key)
}

/// A single value as text, if `value` is one.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(it) => Some(it.to_string()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

impl Place {
    /// The place that a problem names. A key with a dot in it becomes two, which print as one.
    pub(super) fn named(text: &str) -> Self {
        let mut steps = Vec::new();
        for part in text.split('.').filter(|it| !it.is_empty()) {
            let mut pieces = part.split('[');
            steps.extend(pieces.next().map(|it| Step::Key(it.to_owned())));
            let index = |it: &str| it.strip_suffix(']').and_then(|it| it.parse().ok());
            steps.extend(pieces.filter_map(index).map(Step::At));
        }
        Self(steps)
    }

    /// What is there in `root`.
    pub(super) fn find<'a>(&self, root: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(root, |node, step| step.find(node))
    }

    /// Takes what is there out of `root`, or the nearest around it that can be taken, and says where that
    /// was; none where that is all.
    pub(super) fn take_from(&self, root: &mut Value) -> Option<(Self, Value)> {
        fn taken(node: &mut Value, steps: &[Step], way: &mut Vec<Step>) -> Option<Value> {
            let (first, rest) = steps.split_first()?;
            way.push(first.clone());
            if let Some(child) = first.find_mut(node) {
                let below = taken(child, rest, way);
                return below.or_else(|| first.take_from(node));
            }
            way.pop();
            None
        }
        let mut way = Vec::new();
        let value = taken(root, &self.0, &mut way)?;
        Some((Self(way), value))
    }

    /// Whether a secret, or what says where one is, belongs here or around here.
    pub(super) fn is_secret(&self) -> bool {
        let key = |at: usize| match self.0.get(at) {
            Some(Step::Key(key)) => key.as_str(),
            Some(Step::At(_)) | None => "",
        };
        match key(0) {
            "hash_seed" => true,
            "admin" | "peers" => key(1) == "key",
            "tenants" => key(2) == "keys",
            _ => false,
        }
    }

    /// The place as it may be said: no key that was made of a secret.
    pub(super) fn without_secret(mut self) -> Self {
        const SAID: [&str; 6] = ["hash_seed", "key", "keys", "sha256", "env", "file"];
        let is_secret = self.is_secret();
        self.0.pop_if(
            |last| matches!(last, Step::Key(key) if is_secret && !SAID.contains(&key.as_str())),
        );
        self
    }

    /// The list that it is an element of, and its place there.
    pub(super) fn in_list(&self) -> Option<(Self, usize)> {
        match self.0.split_last()? {
            (Step::At(at), list) => Some((Self(list.to_vec()), *at)),
            (Step::Key(_), _) => None,
        }
    }

    /// The same where an element is put back into `list` at `at`.
    pub(super) fn with_element_put_back(mut self, list: &Self, at: usize) -> Self {
        if self.0.starts_with(&list.0)
            && let Some(Step::At(own)) = self.0.get_mut(list.0.len())
            && *own >= at
        {
            *own = own.saturating_add(1);
        }
        self
    }

    /// Whether one of the two is in the other.
    pub(super) fn is_around_or_in(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0) || other.0.starts_with(&self.0)
    }
}
