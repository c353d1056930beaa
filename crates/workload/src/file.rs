//! The workload file: one key that names the kind of traffic, and its shape below.
//!
//! ```yaml
//! support-chat:
//!   tenants: 40
//!   prefix_tokens: 6000
//! ```

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    arrival::Arrival,
    bundled,
    documents::Documents,
    independent::Independent,
    mix::Mix,
    schedule::Load,
    support_chat::SupportChat,
    trace::{BadLine, Recorded, Skipped, Trace},
};

/// What kind of traffic, and its shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "File", into = "File")]
pub enum Workload {
    /// Conversations of many tenants.
    SupportChat(SupportChat),
    /// Requests that share nothing.
    Independent(Independent),
    /// Questions about documents.
    Documents(Documents),
    /// Several kinds at once.
    Mix(Mix),
    /// Recorded requests.
    Trace(Trace),
}

/// The requests of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Planned {
    /// Requests, by time.
    pub arrivals: Vec<Arrival>,
    /// What a trace held and the run leaves out.
    pub skipped: Skipped,
    /// The run's length, where that ended the plan; absent where a trace ended before.
    pub until: Option<Duration>,
}

/// Why a workload gives no requests.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// Values that make no sense, all of them.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The trace could not be read.
    #[error("cannot read the trace {file}: {source}{}", cure(source))]
    Unreadable {
        /// The file as the user named it.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the trace is wrong.
    #[error(transparent)]
    BadLine(#[from] BadLine),
    /// Nothing is left to send.
    #[error("{name} gives no request at all ({skipped}); lengthen the run or raise the rate")]
    Empty {
        /// The workload's name.
        name: String,
        /// What was left out.
        skipped: Skipped,
    },
}

/// What helps where a trace cannot be read; what is told of a file that is there is the reader's.
fn cure(source: &io::Error) -> String {
    if source.kind() == io::ErrorKind::NotFound {
        format!("; pass the path of a file that exists, or {}", bundled::MOONCAKE_SLICE_NAME)
    } else {
        String::new()
    }
}

impl Workload {
    /// The workload's name in results.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::SupportChat(_) => "support-chat",
            Self::Independent(_) => "independent",
            Self::Documents(_) => "documents",
            Self::Mix(_) => "mix",
            Self::Trace(trace) => trace.file.rsplit(['/', '\\']).next().unwrap_or(&trace.file),
        }
    }

    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        match self {
            Self::SupportChat(chat) => chat.problems(),
            Self::Independent(independent) => independent.problems(),
            Self::Documents(documents) => documents.problems(),
            Self::Mix(mix) => mix.problems(),
            Self::Trace(trace) => trace.problems(),
        }
    }

    /// Plans the requests of a run, by time; `read` fetches the text of a trace that is a file.
    ///
    /// # Errors
    /// Values that make no sense, a trace that cannot be read, or a plan without any request.
    pub fn plan(
        &self,
        load: &Load,
        read: impl FnOnce(&str) -> io::Result<String>,
    ) -> Result<Planned, WorkloadError> {
        let mut problems = self.problems();
        problems.extend(load.problems());
        if !problems.is_empty() {
            return Err(WorkloadError::Invalid(problems));
        }
        let planned = match self {
            Self::SupportChat(chat) => {
                let duration = self.generated_duration(load)?;
                Planned::generated(chat.arrivals(&load.schedule, duration, load.seed), duration)
            }
            Self::Independent(independent) => {
                let duration = self.generated_duration(load)?;
                Planned::generated(
                    independent.arrivals(&load.schedule, duration, load.seed),
                    duration,
                )
            }
            Self::Documents(documents) => {
                let duration = self.generated_duration(load)?;
                Planned::generated(
                    documents.arrivals(&load.schedule, duration, load.seed),
                    duration,
                )
            }
            Self::Mix(mix) => {
                let duration = self.generated_duration(load)?;
                Planned::generated(mix.arrivals(&load.schedule, duration, load.seed), duration)
            }
            Self::Trace(trace) => plan_trace(trace, load, read)?,
        };
        if planned.arrivals.is_empty() {
            let name = self.name().to_owned();
            return Err(WorkloadError::Empty { name, skipped: planned.skipped });
        }
        Ok(planned)
    }

    /// How long a generated workload runs, where the load says all it must.
    fn generated_duration(&self, load: &Load) -> Result<Duration, WorkloadError> {
        let invalid = |problem| Err(WorkloadError::Invalid(vec![problem]));
        let name = self.name();
        if load.schedule.is_recorded() {
            return invalid(format!("{name} has no recorded times to follow; give a rate"));
        }
        match load.duration {
            Some(duration) => Ok(duration),
            None => invalid(format!("{name} has no end of its own; give a duration")),
        }
    }
}

fn plan_trace(
    trace: &Trace,
    load: &Load,
    read: impl FnOnce(&str) -> io::Result<String>,
) -> Result<Planned, WorkloadError> {
    let recorded = if trace.file == bundled::MOONCAKE_SLICE_NAME {
        Recorded::read(trace, bundled::MOONCAKE_SLICE)?
    } else {
        let text = read(&trace.file)
            .map_err(|source| WorkloadError::Unreadable { file: trace.file.clone(), source })?;
        Recorded::read(trace, &text)?
    };
    if recorded.is_untimed && load.schedule.is_recorded() {
        let problem = format!("{} does not tell when requests come; give a rate", trace.file);
        return Err(WorkloadError::Invalid(vec![problem]));
    }
    let (arrivals, is_cut) = recorded.arrivals(load);
    let until = load.duration.filter(|_| is_cut);
    Ok(Planned { arrivals, skipped: recorded.skipped, until })
}

impl Planned {
    /// What a generator without an end of its own made of a run of that length.
    fn generated(arrivals: Vec<Arrival>, duration: Duration) -> Self {
        Self { arrivals, skipped: Skipped::default(), until: Some(duration) }
    }
}

/// The file as it is written: serde's own notation for enums differs between JSON and YAML, a map
/// with one key reads alike in both.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    support_chat: Option<SupportChat>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    independent: Option<Independent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    documents: Option<Documents>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mix: Option<Mix>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<Trace>,
}

impl TryFrom<File> for Workload {
    type Error = &'static str;

    fn try_from(file: File) -> Result<Self, Self::Error> {
        let kinds = [
            file.support_chat.map(Self::SupportChat),
            file.independent.map(Self::Independent),
            file.documents.map(Self::Documents),
            file.mix.map(Self::Mix),
            file.trace.map(Self::Trace),
        ];
        let mut kinds = kinds.into_iter().flatten();
        match (kinds.next(), kinds.next()) {
            (Some(kind), None) => Ok(kind),
            (None, _) | (_, Some(_)) => Err(
                "a workload has exactly one of the keys support-chat, independent, documents, mix \
                 and trace",
            ),
        }
    }
}

impl From<Workload> for File {
    fn from(workload: Workload) -> Self {
        match workload {
            Workload::SupportChat(chat) => Self { support_chat: Some(chat), ..Self::default() },
            Workload::Independent(it) => Self { independent: Some(it), ..Self::default() },
            Workload::Documents(it) => Self { documents: Some(it), ..Self::default() },
            Workload::Mix(mix) => Self { mix: Some(mix), ..Self::default() },
            Workload::Trace(trace) => Self { trace: Some(trace), ..Self::default() },
        }
    }
}

#[cfg(test)]
mod tests;
