//! `sluice simulate --recording`: asks a flight recording what was decided, and what another
//! policy would have chosen.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Context as _, bail};
use policy::{
    config::{Routing, StrategyName},
    recording::{Difference, Entry, FORMAT, Header, Replay, Tally},
};
use report::table;
use serde_json::json;
use types::request::RequestId;

use crate::explain::{self, Told};

/// One row of the result.
struct Row {
    policy: String,
    replay: Replay,
}

/// Replays the recording `file` as it was, and under each of `policies`.
///
/// # Errors
///
/// When the file can't be read or is no recording, or when its own decisions do not come out again.
#[expect(clippy::print_stdout, reason = "the result is for the terminal")]
pub(crate) fn review(file: &Path, policies: &[StrategyName], json: bool) -> anyhow::Result<()> {
    let (header, rows, is_whole) = replay(file, policies, None)?;
    let Some((again, _)) = rows.split_first() else { return Ok(()) };
    let tally = again.replay.tally();
    if json {
        let runs: Vec<_> = rows.iter().map(|it| described(&it.policy, it.replay.tally())).collect();
        let reproduced = tally.first_difference.is_none();
        let told = json!({ "recording": file, "version": header.version, "whole": is_whole,
            "decisions": tally.recorded, "reproduced": reproduced, "runs": runs });
        println!("{told:#}");
    } else {
        let name = file.display();
        println!("{name}: {} decisions of version {}", tally.recorded, header.version);
        println!("{}", table_of(&rows));
        if !is_whole {
            println!(
                "The last line is cut off and left out: whoever wrote it did not end in order."
            );
        }
        println!(
            "What happened to the requests stays as recorded: a row says where a policy would have \
             sent them\nand what it believed to be cached there, not how long they would have taken."
        );
    }
    match tally.first_difference {
        None => Ok(()),
        Some(difference) => bail!(told(&difference, &header)),
    }
}

/// Replays the recording `file` in the same way and explains what is decided on request `number`.
///
/// # Errors
///
/// When the file can't be read or is no recording, or has no such request.
pub(crate) fn explain(
    file: &Path,
    policies: &[StrategyName],
    number: u64,
    json: bool,
) -> anyhow::Result<()> {
    let (_, rows, _) = replay(file, policies, Some(RequestId(number)))?;
    let told = rows.into_iter().map(|Row { policy, replay }| {
        let mut explanations: Vec<_> = replay.explanations().newest().cloned().collect();
        explanations.reverse();
        Told { policy, explanations }
    });
    explain::show(&file.display().to_string(), number, told.collect(), json)
}

fn replay(
    file: &Path,
    policies: &[StrategyName],
    explained: Option<RequestId>,
) -> anyhow::Result<(Header, Vec<Row>, bool)> {
    let name = file.display();
    let open = File::open(file).with_context(|| format!("cannot open the recording {name}"))?;
    let mut lines = BufReader::new(open);
    let mut line = String::new();
    let mut read = |line: &mut String| {
        line.clear();
        lines.read_line(line).with_context(|| format!("cannot read the recording {name}"))
    };
    read(&mut line)?;
    let header: Header = serde_json::from_str(&line).with_context(|| {
        format!(
            "{name} is no recording: line 1 is not the head that `sluice serve --record` writes"
        )
    })?;
    if header.sluice_recording != FORMAT {
        let format = header.sluice_recording;
        bail!(
            "{name} has format {format}, this version reads {FORMAT}: use the version that wrote it"
        );
    }
    let as_recorded = header.config.routing.strategy;
    let again =
        Row { policy: format!("{as_recorded}, as recorded"), replay: Replay::again(&header) };
    let instead = policies.iter().map(|it| {
        let replay = Replay::instead(&header, Routing::new(*it));
        Row { policy: it.to_string(), replay }
    });
    let mut rows: Vec<_> = [again].into_iter().chain(instead).collect();
    if let Some(request) = explained {
        let explaining =
            |Row { policy, replay }| Row { policy, replay: replay.explaining(request) };
        rows = rows.into_iter().map(explaining).collect();
    }
    for number in 2_u64.. {
        if read(&mut line)? == 0 {
            break;
        }
        let entry: Entry = match serde_json::from_str(&line) {
            Ok(entry) => entry,
            Err(_) if !line.ends_with('\n') => return Ok((header, rows, false)),
            Err(error) => bail!("{name}, line {number}: {error}; delete the lines from there on"),
        };
        rows.iter_mut().for_each(|it| it.replay.feed(&entry));
    }
    Ok((header, rows, true))
}

fn described(policy: &str, tally: &Tally) -> serde_json::Value {
    json!({
        "policy": policy,
        "decisions": tally.decided,
        "same_replica": tally.agreement(),
        "expected_hit_rate": tally.expected_hit_rate(),
        "busiest_replica": tally.busiest(),
        "fallback": tally.fallback,
        "rejected": tally.rejected,
    })
}

fn table_of(rows: &[Row]) -> String {
    let header = ["policy", "same replica", "expected hits", "busiest", "fallback", "rejected"];
    let row = |Row { policy, replay }: &Row| {
        let tally = replay.tally();
        let percent = |share| table::percent(Some(share));
        [
            policy.clone(),
            percent(tally.agreement()),
            percent(tally.expected_hit_rate()),
            percent(tally.busiest()),
            tally.fallback.to_string(),
            tally.rejected.to_string(),
        ]
    };
    table::plain(header, rows.iter().map(row))
}

fn told(difference: &Difference, header: &Header) -> String {
    let Difference { at, recorded, now } = difference;
    let own = env!("CARGO_PKG_VERSION");
    let advice = if header.version == own {
        "the file was changed, or this is a fault of Sluice".to_owned()
    } else {
        format!("version {} wrote it and this is {own}: use that version", header.version)
    };
    format!(
        "the decision at {at} does not come out as it was recorded ({advice}): \
         recorded {recorded:?}, now {now:?}"
    )
}
