//! What is sent and when, as the command line says it.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use replay::output;
use workload::{Load, Pacing, Rates, Schedule, Workload, bundled, trace::Trace};

use crate::{simulate::load, traced::Traced, typed};

/// What is sent and when.
#[derive(Debug, clap::Args)]
pub(super) struct Traffic {
    #[command(flatten)]
    traced: Traced,
    /// Description of the traffic, in YAML; the bundled slice of a trace when neither this nor a trace is
    /// given.
    #[arg(long, value_name = "FILE", conflicts_with = "trace")]
    workload: Option<PathBuf>,
    /// Requests per second; without it a trace keeps its own timestamps.
    #[arg(long, value_name = "R", value_parser = typed::rate, allow_negative_numbers = true)]
    rate: Option<f64>,
    /// Rates to send one after another, in requests per second and separated by commas: each is a run of
    /// its own that begins when the one before has drained.
    #[arg(long, value_name = "RATES", value_delimiter = ',', value_parser = typed::rate)]
    #[arg(allow_negative_numbers = true, conflicts_with_all = ["rate", "ramp_from", "rate_series"])]
    sweep: Vec<f64>,
    /// How requests are spaced around a rate: at random, evenly, or by a gamma distribution.
    #[arg(long, value_name = "KIND", default_value = "poisson")]
    #[arg(value_parser = ["poisson", "constant", "gamma"])]
    arrivals: String,
    /// Shape of the gamma distribution: below 1 in bursts, above 1 steadier than at random.
    #[arg(long, value_name = "B", default_value = "1", value_parser = typed::factor)]
    burstiness: f64,
    /// Rate to start from; it changes evenly to --rate.
    #[arg(long, value_name = "R", requires = "rate", value_parser = typed::amount)]
    ramp_from: Option<f64>,
    /// How long that takes; the whole duration when absent.
    #[arg(long, value_name = "TIME", requires = "ramp_from", value_parser = typed::some_time)]
    ramp: Option<Duration>,
    /// Rates over time, in a file: lines of `seconds,rate`, or AIPerf's JSON. With --rate, the
    /// curve's peak is that.
    #[arg(long, value_name = "FILE", conflicts_with = "ramp_from")]
    rate_series: Option<String>,
    /// How many times faster than recorded a trace is sent, or a series of rates goes by.
    #[arg(long, value_name = "X", default_value = "1", value_parser = typed::factor)]
    speedup: f64,
    /// How long requests are sent; a trace otherwise goes to its end.
    #[arg(long, value_name = "TIME", value_parser = typed::some_time)]
    pub(super) duration: Option<Duration>,
    /// What every random draw follows from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

impl Traffic {
    pub(super) fn workload(&self) -> anyhow::Result<Workload> {
        let Some(path) = &self.workload else {
            let bundled = || Trace::new(bundled::MOONCAKE_SLICE_NAME.to_owned());
            return Ok(Workload::Trace(self.traced.over(None).unwrap_or_else(bundled)));
        };
        self.traced.refuse_without_trace()?;
        let name = path.display();
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the workload {name}; pass a file that exists"))?;
        serde_yaml::from_str(&text).with_context(|| format!("cannot parse the workload {name}"))
    }

    /// The loads to send, one after another, each with the rate that tells it from the others of a sweep.
    /// A sweep's have a seed each, so that prompts of one are not in the caches for the next.
    pub(super) fn loads(&self) -> anyhow::Result<Vec<(Option<f64>, Load)>> {
        let load = |rate, number| {
            let schedule = self.schedule(rate)?;
            let seed = self.seed.saturating_add(number);
            anyhow::Ok(Load { schedule, duration: self.duration, seed })
        };
        if self.sweep.is_empty() {
            return Ok(vec![(None, load(self.rate, 0)?)]);
        }
        let mut rates = self.sweep.clone();
        rates.sort_unstable_by(f64::total_cmp);
        rates.dedup();
        (0..).zip(rates).map(|(number, it)| Ok((Some(it), load(Some(it), number)?))).collect()
    }

    /// Refuses what would be ignored.
    fn refuse_idle(&self, rate: Option<f64>) -> anyhow::Result<()> {
        if rate.is_none() && self.rate_series.is_none() && self.arrivals != "poisson" {
            bail!(
                "--arrivals {} says how requests are spaced around a rate, and a trace's own times have \
                 none; pass --rate R",
                self.arrivals
            );
        }
        if self.arrivals != "gamma" && self.burstiness.to_bits() != 1.0_f64.to_bits() {
            bail!("--burstiness is the gamma distribution's; pass --arrivals gamma with it");
        }
        Ok(())
    }

    fn schedule(&self, rate: Option<f64>) -> anyhow::Result<Schedule> {
        self.refuse_idle(rate)?;
        let pacing = match self.arrivals.as_str() {
            "constant" => Pacing::Constant,
            "gamma" => Pacing::Gamma { burstiness: self.burstiness },
            _ => Pacing::Poisson,
        };
        if let Some(file) = &self.rate_series {
            return Ok(Schedule::Varying { pacing, rates: self.series(file)? });
        }
        let Some(rate_per_s) = rate else {
            return Ok(Schedule::Trace { speedup: self.speedup });
        };
        if self.speedup.to_bits() != 1.0_f64.to_bits() {
            bail!(
                "--speedup makes a trace's own times go by faster, and a rate replaces them; pass one"
            );
        }
        if let Some(from_per_s) = self.ramp_from {
            let Some(over) = self.ramp.or(self.duration) else {
                bail!("--ramp-from needs to know how long the rate changes; pass --ramp TIME");
            };
            return Ok(Schedule::Varying {
                pacing,
                rates: Rates::ramp(from_per_s, rate_per_s, over),
            });
        }
        Ok(match pacing {
            Pacing::Poisson => Schedule::Poisson { rate_per_s },
            Pacing::Constant => Schedule::Constant { rate_per_s },
            Pacing::Gamma { burstiness } => Schedule::Gamma { rate_per_s, burstiness },
        })
    }

    fn series(&self, file: &str) -> anyhow::Result<Rates> {
        let text = load::trace(file)
            .with_context(|| format!("cannot read the rates {file}; pass a file that exists"))?;
        let rates =
            Rates::parse(&text).with_context(|| format!("cannot parse the rates {file}"))?;
        let rates = rates.sped_up(self.speedup);
        Ok(match self.rate {
            Some(peak_per_s) => rates.scaled(peak_per_s / rates.peak_per_s()),
            None => rates,
        })
    }
}

/// The SHA-256 of the workload's trace, if it has one.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn sha256(workload: &Workload) -> anyhow::Result<Option<String>> {
    Ok(match workload {
        Workload::Trace(trace) if trace.file == bundled::MOONCAKE_SLICE_NAME => {
            Some(output::sha256(bundled::MOONCAKE_SLICE.as_bytes()))
        }
        Workload::Trace(Trace { file, .. }) => {
            let bytes = fs::read(file).with_context(|| format!("cannot read the trace {file}"))?;
            Some(output::sha256(&bytes))
        }
        Workload::SupportChat(_)
        | Workload::Independent(_)
        | Workload::Documents(_)
        | Workload::Mix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        traffic: Traffic,
    }

    fn schedule(line: &str) -> anyhow::Result<Schedule> {
        let loads = Line::try_parse_from(line.split(' '))?.traffic.loads()?;
        Ok(loads.into_iter().next().unwrap().1.schedule)
    }

    #[test]
    fn a_sweep_goes_up_and_gives_each_rate_a_seed() {
        let line = "x --sweep 8,2,8,4.5 --seed 7 --arrivals constant";
        let loads = Line::try_parse_from(line.split(' ')).unwrap().traffic.loads().unwrap();
        let told: Vec<_> = loads.iter().map(|(rate, load)| (rate.unwrap(), load.seed)).collect();
        assert_eq!(told, [(2.0, 7), (4.5, 8), (8.0, 9)]);
        assert_eq!(loads[1].1.schedule, Schedule::Constant { rate_per_s: 4.5 });
    }

    #[test]
    fn every_kind_of_schedule_can_be_asked_for() {
        let rate_per_s = 5.0;
        assert_eq!(schedule("x --speedup 2").unwrap(), Schedule::Trace { speedup: 2.0 });
        assert_eq!(schedule("x --rate 5").unwrap(), Schedule::Poisson { rate_per_s });
        assert_eq!(
            schedule("x --rate 5 --arrivals gamma --burstiness 0.5").unwrap(),
            Schedule::Gamma { rate_per_s, burstiness: 0.5 }
        );
        let rates = Rates::ramp(1.0, 5.0, Duration::from_secs(9));
        let ramp = Schedule::Varying { pacing: Pacing::Constant, rates };
        let line = "x --rate 5 --ramp-from 1 --ramp 9s --arrivals constant";
        assert_eq!(schedule(line).unwrap(), ramp);
        assert_eq!(schedule(&line.replace("--ramp 9s", "--duration 9s")).unwrap(), ramp);
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_the_cure() {
        for (line, cure) in [
            ("x --rate 5 --speedup 2", "pass one"),
            ("x --sweep 5,6 --speedup 2", "pass one"),
            ("x --sweep 5,6 --rate 2", "cannot be used with"),
            ("x --rate 5 --ramp-from 1", "pass --ramp TIME"),
            ("x --arrivals constant", "pass --rate R"),
            ("x --rate 5 --burstiness 0.5", "pass --arrivals gamma"),
            ("x --rate 5 --arrivals constant --burstiness 2", "pass --arrivals gamma"),
            ("x --rate-series gone.csv", "pass a file that exists"),
        ] {
            let error = format!("{:#}", schedule(line).unwrap_err());
            assert!(error.contains(cure), "{line}: {error}");
        }
        assert!(schedule("x --ramp-from 1").is_err());
    }

    #[test]
    fn a_series_is_sped_up_and_scaled_to_its_peak() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rates.csv");
        fs::write(&path, "s,rps\n0,10\n60,40\n").unwrap();
        let line = format!("x --rate 8 --speedup 2 --rate-series {}", path.display());
        let Schedule::Varying { rates, .. } = schedule(&line).unwrap() else { panic!("no series") };
        assert_eq!(rates, Rates::ramp(2.0, 8.0, Duration::from_secs(30)));
    }
}
