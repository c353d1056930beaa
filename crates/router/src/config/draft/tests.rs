//! What is told of a configuration that cannot be read in full.

use super::*;

/// Everything that is told of `text`, a line each.
fn told(text: &str) -> Vec<String> {
    let error = Draft::parse(text).unwrap().checked("test").unwrap_err().to_string();
    let mut lines = error.lines().map(|it| it.trim_start().to_owned());
    assert_eq!(lines.next().unwrap(), "configuration test is invalid:");
    lines.collect()
}

/// Each of `expected` is told in a line of its own, and nothing else is.
#[track_caller]
fn tells(text: &str, expected: &[(&str, &[&str])]) {
    let told = told(text);
    for (place, parts) in expected {
        let line = told.iter().find(|it| it.starts_with(place));
        let line = line.unwrap_or_else(|| panic!("{place} is missing: {told:#?}"));
        for part in *parts {
            assert!(line.contains(part), "{part} is missing: {line}");
        }
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

#[test]
fn keys_values_and_what_they_mean_are_told_together() {
    tells(
        "listen: notaport
polcy: { strategy: sticky }
replicas:
  - { url: 'http://127.0.0.1:9' }
timeouts:
  stall: -5s
  anwser: 10m
drain: { lame_duk: 5s }
attempts_max: 0
policy: { strategy: robin, prefix: { match_min: 7, replicas: 0 } }
health: { probe_failures: many }
",
        &[
            ("listen (line 1): ", &["`notaport`", "write for example 127.0.0.1:8080"]),
            ("polcy (line 2): ", &["`polcy` is no key here", "`policy`"]),
            ("timeouts.stall (line 6): ", &["-5s", "write for example 1m"]),
            ("timeouts.anwser (line 7): ", &["did you mean `answer`"]),
            ("drain.lame_duk (line 8): ", &["did you mean `lame_duck`"]),
            ("policy.strategy (line 10): ", &["`robin`", "round-robin"]),
            ("policy.prefix.replicas (line 10): ", &["`0`", "nonzero"]),
            ("health.probe_failures (line 11): ", &["`many` is not a whole number"]),
            ("attempts_max: ", &["more than zero"]),
            ("policy.prefix.match_min: ", &["0 to 1"]),
        ],
    );
}

#[test]
fn elements_of_lists_keep_their_numbers() {
    tells(
        "replicas:
  - { name: a }
  - { url: 'ftp://b:1' }
  - { nam: c, url: 'http://c:1', kv_ranks: 0 }
  - 5
  - { url: 'http://d:1', cache: some }
  - { url: 'ftp://e:1' }
",
        &[
            ("replicas[0] (line 2): ", &["missing field `url`"]),
            ("replicas[1].url: ", &["ftp://b:1"]),
            ("replicas[2].nam (line 4): ", &["`nam`", "`name`"]),
            ("replicas[2].kv_ranks (line 4): ", &["`0`"]),
            ("replicas[3] (line 5): ", &["must hold keys, and is a single value"]),
            ("replicas[4].cache (line 6): ", &["`some`", "64 tokens"]),
            ("replicas[5].url: ", &["ftp://e:1"]),
        ],
    );
}

#[test]
fn what_could_not_be_read_is_not_missing_too() {
    tells("replicas: 5\n", &[("replicas (line 1): ", &["must be a list, and is a single value"])]);
    tells(
        "replicas: [{ ulr: 'http://a:1' }]\n",
        &[
            ("replicas[0].ulr (line 1): ", &["did you mean `url`"]),
            ("replicas[0] (line 1): ", &["missing field `url`"]),
        ],
    );
}

#[test]
fn a_secret_in_the_wrong_place_is_not_said() {
    let text = "replicas: [{ url: 'http://a:1' }]
admin: { key: sk-hidden }
tenants: [{ name: a, keys: sk-hidden }, { name: b, keys: [sk-hidden] }]
";
    let told = told(text).join("\n");
    for place in ["admin.key (line 2)", "tenants[0].keys", "tenants[1].keys[0]"] {
        assert!(told.contains(place), "{place} is missing: {told}");
    }
    assert!(!told.contains("sk-hidden"), "{told}");
}

#[test]
fn nothing_is_said_of_what_is_written_where_a_secret_belongs() {
    let text = "hash_seed: hunter2
admin: { key: { hunter2: , env: [hunter2] } }
peers: { key: { file: { hunter2: 5 } }, urls: ['http://u:hunter2@a:1', 'u:hunter2@b'] }
tenants: [{ name: a, keys: [{ hunter2 }, { sha256: hunter2 }, { env: sk-hunter2 }] }]
replicas: [{ url: 'http://u:hunter2@a:1' }, { url: 'http://u:hunter2@a:1' }]
";
    let told = told(text).join("\n");
    for place in [
        "hash_seed (line 1)",
        "admin.key (line 2)",
        "peers.key.file (line 3)",
        "peers.urls[0]",
        "tenants[0].keys[0] (line 4)",
        "tenants[0].keys[1]",
        "tenants[0].keys[2]",
        "replicas[0].url",
        "replicas[1].url",
    ] {
        assert!(told.contains(place), "{place} is missing: {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn names_may_be_numbers_while_other_things_are_mended() {
    let text = "replicas: [{ url: 'http://a:1', name: 5 }]\npolcy: {}\n";
    tells(text, &[("polcy (line 2): ", &["`policy`"])]);
}

#[test]
fn a_mistake_has_no_end_but_the_telling_has() {
    let text: String = (0..500).map(|it| format!("key{it}: 1\n")).collect();
    let told = told(&text);
    assert_eq!(told.len(), MISTAKES_MAX + 1);
    assert!(told.last().unwrap().contains("there is more"), "{:?}", told.last());
}

#[test]
fn what_is_no_mapping_is_an_error_of_its_own() {
    for text in ["5", "[a]", "a: [", "a: b: c"] {
        assert!(Draft::parse(text).is_err(), "{text}");
    }
}
