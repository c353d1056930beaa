//! What a configuration may say, and what it is told when it says something else.

use std::{path::Path, time::Duration};

use policy::config::StrategyName;

use super::*;

fn parsed(text: &str) -> Config {
    serde_yaml::from_str(text).unwrap()
}

fn problems(text: &str) -> String {
    parsed(text).checked("test").unwrap_err().to_string()
}

/// What is told of a configuration that has a replica and says `text`; nothing where all is well.
pub(super) fn told(text: &str) -> String {
    let config = parsed(&format!("replicas: [{{ url: 'http://a:1' }}]\n{text}"));
    config.checked("test").err().map(|it| it.to_string()).unwrap_or_default()
}

#[test]
fn one_replica_is_enough() {
    let config = parsed("replicas: [{ url: 'http://10.0.0.1:8000' }]").checked("test").unwrap();
    assert_eq!(config.replicas[0].name(), "10.0.0.1:8000");
    assert_eq!(config.policy.strategy, StrategyName::LeastLatency);
}

#[test]
fn quantities_carry_their_units() {
    let config = parsed(
        "
policy:
  strategy: sticky
  prefix: { block: 32 tokens, index_bytes_max: 8MiB }
  session: { ttl: 10m }
  saturation: { threshold: 1.25, slack: 2, fallback: power-of-two }
limits: { body_bytes_max: 1MiB }
timeouts: { stall: 1m 30s }
",
    );
    let dispatcher = config.dispatcher(1);
    assert_eq!(dispatcher.prefix.block.0, 32);
    assert_eq!(dispatcher.prefix.index_bytes_max, 8 << 20);
    assert_eq!(dispatcher.session.ttl, Duration::from_secs(600));
    assert_eq!(dispatcher.routing.saturation.unwrap().slack, 2);
    assert_eq!(config.timeouts.stall, Duration::from_secs(90));
}

#[test]
fn what_names_nobody_or_two_is_reported() {
    let hash = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
    let error = problems(&format!(
        "
replicas: [{{ url: 'http://10.0.0.1:8000', pool: short, cache: 0 tokens }}]
pools: {{ short: {{ prompt_max: 8000 tokens }}, long: {{}} }}
tenants: [{{ name: a, keys: [{{ sha256: {hash} }}] }}, {{ name: b, keys: [{{ sha256: {} }}] }}]
priority: {{ tenants: {{ a: system, c: system }} }}
",
        hash.to_uppercase()
    ));
    for part in [
        "replicas[0].cache: must be more than zero",
        "pools.long: no replica is in it",
        "tenants[1].keys: one of them is there before",
        "priority.tenants: `c` is no tenant's name",
    ] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    assert!(!error.contains("`a` is no tenant"), "{error}");
    let unknown =
        "replicas: [{ url: 'http://10.0.0.1:8000' }]\npriority: { tenants: { c: batch } }";
    assert!(problems(unknown).contains("`c` is no tenant's name"));
    assert!(parsed(&format!("{unknown}\ntenant_header: x-tenant")).checked("test").is_ok());
}

#[test]
fn a_misspelled_key_is_named() {
    let error = serde_yaml::from_str::<Config>("polices: {}").unwrap_err().to_string();
    assert!(error.contains("polices"), "{error}");
}

#[test]
fn an_unknown_strategy_is_told_the_known_ones() {
    let error = serde_yaml::from_str::<Config>("policy: { strategy: robin }").unwrap_err();
    assert!(error.to_string().contains("round-robin"), "{error}");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let error = problems(
        "
replicas: [{ url: 'ftp://a:1' }, { url: 'http://b:1' }, { url: 'http://b:1/' }]
admin: { listen: '0.0.0.0:9090' }
policy:
  session: { keys: ['cookie:sid'] }
  saturation: { threshold: 0.2 }
  prefix: { match_min: 7, block: 0 }
attempts_max: 0
drain: { lame_duck: 0s }
",
    );
    for culprit in [
        "replicas[0].url",
        "replicas[2].url",
        "admin.listen",
        "policy.session.keys[0]",
        "policy.saturation.threshold",
        "policy.prefix.match_min",
        "policy.prefix.block",
        "attempts_max",
    ] {
        assert!(error.contains(culprit), "{culprit} is missing from: {error}");
    }
    assert!(!error.contains("lame_duck"), "zero is a choice there: {error}");
}

#[test]
fn memory_that_no_machine_gives_is_told_before_it_is_asked_for() {
    let told = problems(
        "
replicas: [{ url: 'http://a:1' }]
policy: { prefix: { index_bytes_max: 4096000GiB, held_bytes_max: 4096000GiB } }
",
    );
    for name in ["index_bytes_max", "held_bytes_max"] {
        let culprit = format!("policy.prefix.{name}: this machine does not give");
        assert!(told.contains(&culprit), "{told}");
    }
}

#[test]
fn a_replicas_name_fits_into_a_path() {
    for name in ["a/b", "a?b", "a#b", "a%2fb"] {
        let told = problems(&format!("replicas: [{{ name: '{name}', url: 'http://a:1' }}]"));
        assert!(told.contains("replicas[0].name"), "{told}");
    }
    parsed("replicas: [{ name: 'a:1.b_c', url: 'http://a:1' }]").checked("test").unwrap();
}

#[cfg(not(feature = "tokenizer"))]
#[test]
fn tokenizers_are_refused_by_a_program_without_them() {
    let text = "replicas: [{ url: 'http://a:1' }]\ntokenizers: { m: models/m }";
    let told = problems(text);
    assert!(told.contains("tokenizers: this program was built without tokenizers"), "{told}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Path::new("no/such/router.yaml")).unwrap_err().to_string();
    assert!(error.contains("no/such/router.yaml"), "{error}");
}

#[test]
fn what_is_printed_reads_back() {
    let config = parsed("replicas: [{ name: a, url: 'http://a:1' }]\nhash_seed: 5");
    let text = serde_yaml::to_string(&config).unwrap();
    assert!(!text.contains("hash_seed"), "the seed is a secret: {text}");
    let again = serde_yaml::to_string(&parsed(&text)).unwrap();
    assert_eq!(text, again);
}

#[test]
fn what_is_said_of_events_must_go_together() {
    let problems = |replica: &str, more: &str| {
        let text = format!("replicas: [{{ url: \"http://a:1\", {replica} }}]\n{more}");
        let config: Config = serde_yaml::from_str(&text).unwrap();
        match config.checked("given") {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    for (replica, more, told) in [
        ("kv_events: \"tcp://a:1\", kv_replay: \"tcp://a:2\", kv_ranks: 2", "", ""),
        ("kv_events: \"http://a:1\"", "", "write tcp://HOST:PORT"),
        ("kv_replay: \"tcp://a:2\"", "", "say where the events are"),
        ("kv_events: \"tcp://a:1\", kv_ranks: 2", "", "needs kv_replay"),
        ("kv_events: \"tcp://a:1\"", "tenant_header: x-t", "shared_by_tenants"),
        (
            "kv_events: \"tcp://a:1\"",
            "tenant_header: x-t\npolicy: { prefix: { shared_by_tenants: true } }",
            "",
        ),
    ] {
        let problems = problems(replica, more);
        let is_told = if told.is_empty() { problems.is_empty() } else { problems.contains(told) };
        assert!(is_told, "{replica}: {problems}");
    }
}
