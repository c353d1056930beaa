//! Reads measured stages from CSV, by the names of the columns.
//!
//! Two kinds of file exist in public. One says everything of a stage, in seconds (`ttft_mean`,
//! `rate_req`, `system_prompt_len` …). The other says what was measured, in milliseconds
//! (`real_ttft_mean` …), and names the workload; its shape then is one of `WORKLOADS`. A file may
//! mix both; units follow the name of the column.

use csv::StringRecord;
use types::quantity::Tokens;

use crate::stage::{Figures, Latency, Limits, Shape, Stage};

/// Why a file of stages cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadStages {
    /// It is not CSV.
    #[error("line {line}: {source}; correct the line")]
    Csv {
        /// Line, from 1.
        line: u64,
        /// What the parser found.
        source: csv::Error,
    },
    /// A column that is needed is absent or empty.
    #[error("line {line}: no value in column {column}; {cure}")]
    Missing {
        /// Line, from 1.
        line: u64,
        /// The column.
        column: String,
        /// What to do.
        cure: String,
    },
    /// A value is not what its column holds.
    #[error("line {line}: column {column} is {value:?}; needs a number above 0")]
    Value {
        /// Line, from 1.
        line: u64,
        /// The column.
        column: String,
        /// The value.
        value: String,
    },
    /// Percentiles do not ascend.
    #[error("line {line}: the percentiles of {latency} descend; correct the row")]
    Descending {
        /// Line, from 1.
        line: u64,
        /// TTFT, TPOT or E2E.
        latency: &'static str,
    },
    /// Nothing to fit to.
    #[error("holds no stage; needs at least one row below the header")]
    Empty,
}

/// The shape of a workload that files know by name.
struct Named {
    name: &'static str,
    groups: u32,
    prompts_per_group: u32,
    system: u32,
    question: u32,
    output: u32,
    /// Of stage 0, 1 …
    rates_per_s: &'static [f64],
    duration_s: f64,
}

/// The shared-prefix workloads of inference-sim's studies (numbers extracted from
/// inference-sim/training). The rates of `general-lite` are not published: their ratio follows from
/// the studies' own averages over both stages, their height from stages of the same model whose
/// rate is known.
const WORKLOADS: [Named; 5] = [
    Named {
        name: "codegen",
        groups: 11,
        prompts_per_group: 4,
        system: 100,
        question: 466,
        output: 247,
        rates_per_s: &[5.0, 10.0],
        duration_s: 600.0,
    },
    Named {
        name: "roleplay",
        groups: 10,
        prompts_per_group: 5,
        system: 150,
        question: 600,
        output: 251,
        rates_per_s: &[6.0],
        duration_s: 1200.0,
    },
    Named {
        name: "general",
        groups: 9,
        prompts_per_group: 5,
        system: 100,
        question: 447,
        output: 248,
        rates_per_s: &[8.0, 20.0],
        duration_s: 600.0,
    },
    Named {
        name: "general-lite",
        groups: 9,
        prompts_per_group: 5,
        system: 100,
        question: 447,
        output: 248,
        rates_per_s: &[2.5, 6.0],
        duration_s: 600.0,
    },
    Named {
        name: "reasoning",
        groups: 23,
        prompts_per_group: 1,
        system: 100,
        question: 934,
        output: 1448,
        rates_per_s: &[4.0],
        duration_s: 1200.0,
    },
];

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageFile {
    /// The stages, in the order of the rows.
    pub stages: Vec<Stage>,
    /// Rows that are averages over stages, which no one load brings about.
    pub averages: usize,
    /// Rows of a workload whose shape is neither in the row nor known.
    pub unknown: Vec<String>,
}

/// Reads the stages of `text`.
///
/// # Errors
/// The first row that makes no sense.
pub fn read(text: &str) -> Result<StageFile, BadStages> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|source| BadStages::Csv { line: 1, source })?.clone();
    let mut file = StageFile::default();
    for (index, values) in (2..).zip(reader.records()) {
        let values = values.map_err(|source| BadStages::Csv { line: index, source })?;
        let line = values.position().map_or(index, csv::Position::line);
        let row = Row { header: &header, values, line };
        if row.text("stage") == Some("-1") {
            file.averages = file.averages.saturating_add(1);
            continue;
        }
        match row.stage()? {
            Ok(stage) => file.stages.push(stage),
            Err(workload) => file.unknown.push(workload),
        }
    }
    if file.stages.is_empty() && file.unknown.is_empty() {
        return Err(BadStages::Empty);
    }
    Ok(file)
}

struct Row<'a> {
    header: &'a StringRecord,
    values: StringRecord,
    line: u64,
}

impl Row<'_> {
    fn text(&self, column: &str) -> Option<&str> {
        let place = self.header.iter().position(|it| it == column)?;
        self.values.get(place).filter(|it| !it.is_empty())
    }

    fn needed(&self, column: &str) -> Result<&str, BadStages> {
        self.text(column).ok_or_else(|| self.missing(column, "fill it in"))
    }

    fn missing(&self, column: &str, cure: &str) -> BadStages {
        BadStages::Missing { line: self.line, column: column.to_owned(), cure: cure.to_owned() }
    }

    /// A number above zero; none where the cell is absent or empty.
    fn number(&self, column: &str) -> Result<Option<f64>, BadStages> {
        let Some(text) = self.text(column) else { return Ok(None) };
        let bad = || BadStages::Value {
            line: self.line,
            column: column.to_owned(),
            value: text.to_owned(),
        };
        let number: f64 = text.parse().map_err(|_| bad())?;
        if number.is_finite() && number > 0.0 { Ok(Some(number)) } else { Err(bad()) }
    }

    fn count(&self, column: &str) -> Result<Option<u32>, BadStages> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let whole = |it: f64| it.round().clamp(1.0, 4e9) as u32;
        Ok(self.number(column)?.map(whole))
    }

    /// The stage of this row, or the name of a workload that nobody described.
    fn stage(&self) -> Result<Result<Stage, String>, BadStages> {
        let workload = self.needed("workload")?;
        let measured = self.figures()?;
        let Some(mut shape) = self.shape(workload)? else { return Ok(Err(workload.to_owned())) };
        let measured = settle(&mut shape, measured);
        let model = self.needed("model")?;
        let gpu = self.text("hardware").unwrap_or("H100");
        let stage = self.text("stage").unwrap_or("0");
        let limits = Limits {
            max_num_seqs: Some(self.count("max_num_seqs")?.unwrap_or(128)),
            max_num_batched_tokens: self.count("max_num_batched_tokens")?,
        };
        Ok(Ok(Stage {
            name: format!("{workload} {stage}"),
            model: model.to_owned(),
            gpu: gpu.to_owned(),
            tp: self.count("tp")?.unwrap_or(1),
            shape,
            limits,
            measured,
        }))
    }

    fn shape(&self, workload: &str) -> Result<Option<Shape>, BadStages> {
        let named = WORKLOADS.iter().find(|it| it.name == workload);
        let stage: usize = self.text("stage").and_then(|it| it.parse().ok()).unwrap_or(0);
        let named_rate = named.and_then(|it| it.rates_per_s.get(stage).copied());
        let Some(rate_per_s) = self.number("rate_req")?.or(named_rate) else { return Ok(None) };
        let value = |column, known: Option<u32>| {
            self.count(column)?.or(known).ok_or_else(|| {
                self.missing(column, "add the column, or name a workload whose shape is known")
            })
        };
        let system = value("system_prompt_len", named.map(|it| it.system))?;
        let question = value("question_len", named.map(|it| it.question))?;
        let whole = self.count("prompt_len_mean")?;
        Ok(Some(Shape {
            groups: value("num_sys_prompts", named.map(|it| it.groups))?,
            prompts_per_group: value("users_per_prompt", named.map(|it| it.prompts_per_group))?,
            system: Tokens(system),
            prompt: Tokens(whole.unwrap_or(system.saturating_add(question))),
            output: Tokens(value("output_len", named.map(|it| it.output))?),
            rate_per_s,
            duration_s: self.number("duration")?.or(named.map(|it| it.duration_s)).unwrap_or(600.0),
        }))
    }

    fn figures(&self) -> Result<Figures, BadStages> {
        let ttft = self.latency("ttft", "TTFT")?;
        let mut tpot = self.latency("tpot", "TPOT")?;
        let itl = self.latency("itl", "ITL")?;
        // Some files call a request's own mean gap ITL.
        tpot.mean = tpot.mean.or(itl.mean);
        let e2e = self.latency("e2e", "E2E")?;
        for (latency, column) in [(ttft, "ttft_mean"), (tpot, "tpot_mean"), (e2e, "e2e_mean")] {
            if latency.mean.is_none() {
                return Err(self.missing(column, "a stage needs its mean TTFT, TPOT and E2E"));
            }
        }
        let answered = self.number("n_ok")?;
        let failed: Option<f64> = self.text("n_fail").and_then(|it| it.parse().ok());
        let failed_share = answered.zip(failed).map_or(0.0, |(ok, failed)| failed / (ok + failed));
        Ok(Figures { ttft, tpot, e2e, itl, failed_share })
    }

    /// Seconds from `NAME_…`, milliseconds from `real_NAME_…`.
    fn latency(&self, name: &str, title: &'static str) -> Result<Latency, BadStages> {
        let value = |suffixes: &[&str]| -> Result<Option<f64>, BadStages> {
            for suffix in suffixes {
                if let Some(seconds) = self.number(&format!("{name}_{suffix}"))? {
                    return Ok(Some(seconds));
                }
                if let Some(millis) = self.number(&format!("real_{name}_{suffix}"))? {
                    return Ok(Some(millis * 1e-3));
                }
            }
            Ok(None)
        };
        let latency = Latency {
            mean: value(&["mean"])?,
            p50: value(&["median", "p50"])?,
            p90: value(&["p90"])?,
            p99: value(&["p99"])?,
        };
        let percentiles: Vec<f64> =
            [latency.p50, latency.p90, latency.p99].into_iter().flatten().collect();
        if percentiles.is_sorted() {
            Ok(latency)
        } else {
            Err(BadStages::Descending { line: self.line, latency: title })
        }
    }
}

/// Brings TPOT and the length of answers into line with E2E − TTFT, which clients time without
/// counting anything.
///
/// A server that sends two chunks for a token makes a client that counts chunks see half the TPOT;
/// one that counts the words of the answer again with a tokenizer finds a few per cent more or
/// fewer tokens than were generated. Where (E2E − TTFT) / TPOT is a whole multiple of the tokens
/// asked for, TPOT is multiplied; what remains within a tenth is taken as the answer's length.
fn settle(shape: &mut Shape, mut figures: Figures) -> Figures {
    let decode = figures.e2e.mean.zip(figures.ttft.mean).map(|(e2e, ttft)| e2e - ttft);
    let Some((decode, tpot)) = decode.zip(figures.tpot.mean) else { return figures };
    let gaps = f64::from(shape.output.0.saturating_sub(1).max(1));
    let chunks = decode / tpot / gaps;
    let whole = chunks.round();
    if (chunks / whole.max(1.0) - 1.0).abs() > 0.1 {
        return figures;
    }
    let scale = |it: &mut Option<f64>| *it = it.map(|it| it * whole);
    let Latency { mean, p50, p90, p99 } = &mut figures.tpot;
    [mean, p50, p90, p99].into_iter().for_each(scale);
    if whole > 1.0 {
        // Chunks of one token come together, and the gaps between them say nothing.
        figures.itl = Latency { mean: figures.tpot.mean, ..Latency::default() };
    }
    let tokens = decode / (tpot * whole) + 1.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within a tenth")]
    let tokens = tokens.round().max(1.0) as u32;
    shape.output = Tokens(tokens);
    figures
}

#[cfg(test)]
mod tests;
