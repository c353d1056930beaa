//! Reads what a simulation needs: scenarios, profiles and traces.

use std::{fs, io, path::Path};

use anyhow::{Context as _, bail};
use engine::Profile;
use router::config::{ConfigError, Problems};
use simulator::Scenario;
use workload::Workload;

use super::What;

/// Reads and checks the scenario, with what the command line changes.
///
/// # Errors
/// A file that cannot be read or parsed, or everything wrong with its values.
pub(crate) fn scenario(what: &What) -> Result<Scenario, ConfigError> {
    let file = what.scenario.clone().unwrap_or_default();
    let path = file.display().to_string();
    let text = fs::read_to_string(&file)
        .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    let mut scenario: Scenario = serde_yaml::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.clone(), source })?;
    if what.traced.trace.is_some() {
        let own = match &scenario.workload {
            Workload::Trace(own) => Some(own.clone()),
            Workload::SupportChat(_)
            | Workload::Independent(_)
            | Workload::Documents(_)
            | Workload::Mix(_) => {
                scenario.load.rates_per_s.clear();
                scenario.load.duration = None;
                None
            }
        };
        scenario.workload =
            what.traced.over(own.as_ref()).map_or(scenario.workload, Workload::Trace);
    }
    if !what.rate.is_empty() {
        scenario.load.rates_per_s.clone_from(&what.rate);
    }
    let problems = scenario.problems();
    if problems.is_empty() {
        return Ok(scenario);
    }
    Err(ConfigError::Invalid { origin: path, problems: Problems(problems) })
}

/// The profile called `name`: a built-in one, or the one that a YAML or JSON file holds.
///
/// # Errors
/// A name that is neither, or a file that holds no profile an engine can run with.
pub(crate) fn profile(name: &str) -> anyhow::Result<Profile> {
    let unknown = match Profile::named(name) {
        Ok(profile) => return Ok(profile),
        Err(unknown) => unknown,
    };
    if !Path::new(name).exists() {
        bail!("{unknown}, or name a file that holds one");
    }
    let text = fs::read_to_string(name).with_context(|| format!("cannot read profile {name}"))?;
    let profile: Profile =
        serde_yaml::from_str(&text).with_context(|| format!("cannot parse profile {name}"))?;
    profile.validate()?;
    Ok(profile)
}

/// The text of a trace; one whose name ends in `.zst` or `.gz` is unpacked.
pub(crate) fn trace(file: &str) -> io::Result<String> {
    let packed = || Ok::<_, io::Error>(io::BufReader::new(fs::File::open(file)?));
    let mut text = String::new();
    let damaged = |error: io::Error| {
        let told = format!("it is damaged or not whole ({error}); fetch or pack it again");
        io::Error::new(error.kind(), told)
    };
    if file.ends_with(".zst") {
        let unpacked = ruzstd::decoding::StreamingDecoder::new(packed()?);
        let mut unpacked = unpacked.map_err(io::Error::other).map_err(damaged)?;
        io::Read::read_to_string(&mut unpacked, &mut text).map_err(damaged)?;
    } else if file.ends_with(".gz") {
        let mut unpacked = flate2::bufread::MultiGzDecoder::new(packed()?);
        io::Read::read_to_string(&mut unpacked, &mut text).map_err(damaged)?;
    } else {
        let told =
            "it is no text in UTF-8; convert it, or pack it under a name that ends in .zst or .gz";
        text = fs::read_to_string(file).map_err(|error| {
            let is_text = error.kind() != io::ErrorKind::InvalidData;
            if is_text { error } else { io::Error::new(error.kind(), told) }
        })?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_packed_trace_is_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.csv.gz");
        let file = fs::File::create(&path).unwrap();
        let mut packing = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packing.write_all(b"TIMESTAMP,").unwrap();
        packing.finish().unwrap();
        assert_eq!(trace(path.to_str().unwrap()).unwrap(), "TIMESTAMP,");
        assert!(trace("gone.gz").is_err());
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        let error = trace(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("not whole"), "{error}");
    }
}
