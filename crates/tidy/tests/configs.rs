//! Every file below `config/` is YAML, in its own right and not only by its name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use serde_yaml::Value;

#[test]
fn every_configuration_file_is_yaml_with_something_in_it() {
    let mut wrong = Vec::new();
    for path in tidy::files(&tidy::root().join("config"), &["yaml", "yml"]).unwrap() {
        match serde_yaml::from_str::<Value>(&fs::read_to_string(&path).unwrap()) {
            Ok(Value::Mapping(mapping)) if !mapping.is_empty() => {}
            Ok(_) => wrong.push(format!("{}: holds no mapping", path.display())),
            Err(error) => wrong.push(format!("{}: {error}", path.display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
