//! Groups of replicas by the prompts that they are meant for.

use std::collections::{BTreeMap, BTreeSet};

use fleet::replica::ReplicaSpec;
use serde::{Deserialize, Serialize};
use types::units::TokenCount;

/// The pools by name. Where none is listed, all replicas are one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pools(pub BTreeMap<String, Pool>);

/// A pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Longest prompt that its replicas take. Absent: any.
    pub prompt_max: Option<TokenCount>,
}

impl Pools {
    /// The pool of replicas that name none.
    pub const DEFAULT: &str = "default";

    pub(crate) fn default_name() -> String {
        Self::DEFAULT.to_owned()
    }

    /// What is wrong with a replica in the pool `name`, if anything. One that names no pool may be in
    /// one that is not listed, and takes any prompt.
    pub(crate) fn problem(&self, name: &str) -> Option<String> {
        let is_known = name == Self::DEFAULT || self.0.contains_key(name);
        let listed: Vec<&str> = self.0.keys().map(String::as_str).collect();
        let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
        (!is_known).then(|| {
            let name = name.escape_debug();
            format!("`{name}` is no pool; pools lists {listed}")
        })
    }

    /// Everything wrong with the values.
    pub(crate) fn problems(&self) -> Vec<String> {
        let is_wrong = |it: &Pool| it.prompt_max.is_some_and(|it| it.0.0 == 0);
        let wrong = self.0.iter().filter(|it| is_wrong(it.1));
        let mut problems: Vec<String> = wrong
            .map(|(name, _)| format!("pools.{name}.prompt_max: must be more than zero"))
            .collect();
        let mut by_bound = BTreeMap::new();
        for (name, pool) in &self.0 {
            if let Some(other) = by_bound.insert(pool.prompt_max.map(|it| it.0), name) {
                problems.push(format!(
                    "pools.{name}: takes the same prompts as `{other}`: give one of them another prompt_max"
                ));
            }
        }
        problems
    }

    /// The pools that nobody of `members` is in.
    pub(crate) fn empty(&self, members: &BTreeSet<&str>) -> Vec<&str> {
        let names = self.0.keys().map(String::as_str);
        names.filter(|it| !members.contains(it)).collect()
    }

    /// `replica` as a member of the pool `name`.
    pub(crate) fn member(&self, replica: ReplicaSpec, name: &str) -> ReplicaSpec {
        let prompt_max = self.0.get(name).and_then(|it| it.prompt_max).map(|it| it.0);
        ReplicaSpec { pool: name.to_owned(), prompt_max, ..replica }
    }
}

#[cfg(test)]
mod tests {
    use fleet::client::Reach;
    use types::quantity::Tokens;

    use super::*;

    fn pools(yaml: &str) -> Pools {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn a_replica_takes_what_its_pool_does() {
        let pools = pools("{ short: { prompt_max: 8000 tokens }, long: {} }");
        let bound = |name| {
            let origin = "http://10.0.0.1:8000".parse().unwrap();
            pools
                .member(ReplicaSpec::new("a".to_owned(), origin, Reach::default()), name)
                .prompt_max
        };
        assert_eq!(bound("short"), Some(Tokens(8_000)));
        assert_eq!((bound("long"), bound("default")), (None, None));
        assert!(pools.problem("long").is_none() && pools.problem("default").is_none());
        assert_eq!(pools.problem("x").unwrap(), "`x` is no pool; pools lists long, short");
    }

    #[test]
    fn a_pool_of_no_prompt_is_a_problem() {
        assert_eq!(pools("{ a: { prompt_max: 0 tokens } }").problems().len(), 1);
        assert!(serde_yaml::from_str::<Pools>("{ a: { prompt: 1 } }").is_err());
    }

    #[test]
    fn two_pools_for_the_same_prompts_are_a_problem() {
        let same = pools("{ a: { prompt_max: 9 tokens }, b: { prompt_max: 9 tokens }, c: {} }");
        assert!(same.problems()[0].contains("pools.b: takes the same prompts as `a`"));
        assert_eq!(pools("{ a: {}, b: {} }").problems().len(), 1);
    }
}
