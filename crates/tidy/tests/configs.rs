//! Every file below `config/` is one that a program accepts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use engine::Profile;
use simulator::Scenario;
use workload::Workload;

#[test]
fn every_configuration_file_loads() {
    let config = tidy::root().join("config");
    let mut wrong = Vec::new();
    let files = tidy::files(&config, &["yaml", "yml"]).unwrap();
    assert!(!files.is_empty(), "nothing was found to load");
    for path in files {
        let is_in = |folder: &str| path.parent().is_some_and(|it| it.ends_with(folder));
        let text = fs::read_to_string(&path).unwrap();
        let problems = if is_in("scenarios") {
            match serde_yaml::from_str::<Scenario>(&text) {
                Ok(scenario) => scenario.problems(),
                Err(error) => vec![error.to_string()],
            }
        } else if is_in("profiles") {
            match serde_yaml::from_str::<Profile>(&text) {
                Ok(profile) => profile.validate().err().iter().map(ToString::to_string).collect(),
                Err(error) => vec![error.to_string()],
            }
        } else if is_in("workloads") {
            match serde_yaml::from_str::<Workload>(&text) {
                Ok(workload) => workload.problems(),
                Err(error) => vec![error.to_string()],
            }
        } else {
            router::config::load(&path).err().iter().map(ToString::to_string).collect()
        };
        wrong.extend(problems.into_iter().map(|it| format!("{}: {it}", path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The example shows every field with its default, so that nobody has to look for them in the code.
#[test]
fn the_example_states_every_default() {
    let path = tidy::root().join("config/router.yaml");
    let mut shown = router::config::load(&path).unwrap();
    shown.replicas.clear();
    let shown = serde_yaml::to_string(&shown).unwrap();
    let defaults = serde_yaml::to_string(&router::config::Config::default()).unwrap();
    assert_eq!(shown, defaults);
}

/// Every key that there is stands in the example: with its value, or as a comment where it has none.
#[test]
fn the_example_explains_every_key() {
    let text = fs::read_to_string(tidy::root().join("config/router.yaml")).unwrap();
    let shown: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let defaults = serde_yaml::to_value(router::config::Config::default()).unwrap();
    let mut missing = Vec::new();
    missing_keys(&defaults, Some(&shown), "", &mut missing);
    missing.retain(|path: &String| {
        let name = path.rsplit('.').next().unwrap();
        let is_told =
            |line: &str| line.contains(&format!("{name}:")) || line.contains(&format!(" {name},"));
        !text.lines().any(|it| it.trim_start().starts_with('#') && is_told(it))
    });
    assert!(missing.is_empty(), "config/router.yaml does not show {}", missing.join(", "));
}

fn missing_keys(
    of: &serde_yaml::Value,
    shown: Option<&serde_yaml::Value>,
    path: &str,
    missing: &mut Vec<String>,
) {
    let Some(of) = of.as_mapping() else { return };
    for (name, value) in of {
        let path = format!("{path}.{}", name.as_str().unwrap());
        match shown.and_then(|it| it.get(name)) {
            Some(shown) => missing_keys(value, Some(shown), &path, missing),
            None => missing.push(path),
        }
    }
}
