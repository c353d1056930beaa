//! A configuration as it was read, with everything in it that could not be.
//!
//! What is read stops at its first mistake. So the place of that mistake is noted and taken out of a
//! copy, and the rest is read again, until nothing is in the way: then every key that nobody knows and
//! every value of the wrong kind is known, and the checks of values see all that is left. Which keys
//! there are and what they hold is said by the types alone.

use serde_path_to_error::Segment;
use serde_yaml::Value;

use self::place::{Place, Step};
use super::{Config, ConfigError, Problems};

mod line;
mod place;
mod wording;

/// Mistakes after which no more are looked for.
const MISTAKES_MAX: usize = 100;

/// A configuration that was read, to be completed and then [checked](Self::checked). What could not be
/// read has its default in it.
#[derive(Debug, Default)]
pub struct Draft {
    /// The configuration.
    pub config: Config,
    mistakes: Vec<Mistake>,
    /// Elements that were taken out of lists, the first one first: the list, and the place in it.
    taken: Vec<(Place, usize)>,
}

/// A place that could not be read.
#[derive(Debug)]
struct Mistake {
    place: Place,
    line: Option<usize>,
    told: String,
}

impl From<Config> for Draft {
    fn from(config: Config) -> Self {
        Self { config, ..Self::default() }
    }
}

impl Draft {
    /// Reads `text`.
    ///
    /// # Errors
    ///
    /// When it is not YAML, or not a mapping. Other mistakes are told by [`checked`](Self::checked).
    pub fn parse(text: &str) -> Result<Self, serde_yaml::Error> {
        match serde_yaml::from_str::<Config>(text) {
            Ok(config) => Ok(config.into()),
            Err(first) => {
                let whole: Value = serde_yaml::from_str(text)?;
                Self::without_mistakes(text, whole).ok_or(first)
            }
        }
    }

    /// What can be read of `rest`, which is `text`; none where nothing can.
    fn without_mistakes(text: &str, mut rest: Value) -> Option<Self> {
        let mut draft = Self::default();
        let defaults = serde_yaml::to_value(&draft.config).ok()?;
        while draft.mistakes.len() < MISTAKES_MAX {
            // As text, for there `5` is a name where a name is asked for.
            let again = serde_yaml::to_string(&rest).ok()?;
            let reader = serde_yaml::Deserializer::from_str(&again);
            let error = match serde_path_to_error::deserialize(reader) {
                Ok(config) => return Some(Self { config, ..draft }),
                Err(error) => error,
            };
            let steps = error.path().iter().map_while(|it| match it {
                Segment::Seq { index } => Some(Step::At(*index)),
                Segment::Map { key } => Some(Step::Key(key.clone())),
                Segment::Enum { .. } | Segment::Unknown => None,
            });
            let read = Place(steps.collect());
            let (place, value) = read.take_from(&mut rest)?;
            let told = wording::of(&error.into_inner(), &read, &value, place.find(&defaults));
            let at = draft.as_written(place.clone());
            let line = line::of(text, &at);
            draft.mistakes.push(Mistake { line, place: at.without_secret(), told });
            if let Some((list, at)) = place.in_list() {
                draft.taken.push((list, at));
            }
        }
        draft.mistakes.push(Mistake {
            place: Place::default(),
            line: None,
            told: "there is more; mend these first".to_owned(),
        });
        Some(draft)
    }

    /// Where the file has what is at `place` now that elements were taken out of lists.
    fn as_written(&self, place: Place) -> Place {
        self.taken
            .iter()
            .rev()
            .fold(place, |place, (list, at)| place.with_element_put_back(list, *at))
    }

    /// The configuration, if it can be used; `origin` says where it came from.
    ///
    /// # Errors
    ///
    /// Lists everything that could not be read, and everything that is wrong with the values of the rest.
    pub fn checked(self, origin: &str) -> Result<Config, ConfigError> {
        if self.mistakes.is_empty() {
            return self.config.checked(origin);
        }
        let mut problems: Vec<String> = self.mistakes.iter().map(Mistake::to_string).collect();
        for problem in self.config.problems() {
            let (place, told) = problem.split_once(": ").unwrap_or(("", &problem));
            let place = self.as_written(Place::named(place));
            // What could not be read is not missing too.
            if !self.mistakes.iter().any(|it| it.place.is_around_or_in(&place)) {
                problems.push(format!("{place}: {told}"));
            }
        }
        Err(ConfigError::Invalid { origin: origin.to_owned(), problems: Problems(problems) })
    }
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { place, line, told } = self;
        if place.0.is_empty() {
            return f.write_str(told);
        }
        match line {
            Some(line) => write!(f, "{place} (line {line}): {told}"),
            None => write!(f, "{place}: {told}"),
        }
    }
}

#[cfg(test)]
mod tests;
