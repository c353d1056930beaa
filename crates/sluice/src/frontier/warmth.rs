//! Brings caches and engines into a state, in virtual time.

use std::time::Duration;

use report::frontier::Warmth;
use simulator::{Fault, Scenario};

/// How long an engine that was just started takes longer for everything, and by how much: kernels are
/// being compiled, and graphs captured.
const START: (Duration, f64) = (Duration::from_secs(10), 3.0);

/// How long a replica is away in the deployment that disrupts a fleet whose scenario has no faults.
const DOWN_FOR: Duration = Duration::from_secs(10);

/// Time that a replica takes to drain, for how long a deployment goes on.
const DRAIN: Duration = Duration::from_secs(5);

/// Warm-up of a scenario that states none, where one is needed.
const WARM_UP: Duration = Duration::from_secs(30);

/// What a scenario's caches hold when its runs begin to count, by itself.
pub(super) const fn stated(scenario: &Scenario) -> Warmth {
    if scenario.load.warm_up.is_zero() { Warmth::WarmModelColdCache } else { Warmth::Warm }
}

/// `scenario` in the state `warmth`, measured for as long as the scenario is, and how that comes about.
/// What goes wrong in the scenario goes wrong in the disrupted state only.
pub(super) fn produced(scenario: &Scenario, warmth: Warmth) -> (Scenario, String) {
    let load = &scenario.load;
    let counted = load.duration.map(|it| it.saturating_sub(load.warm_up));
    let warm_up = if load.warm_up.is_zero() { WARM_UP } else { load.warm_up };
    let mut made = Scenario { faults: Vec::new(), ..scenario.clone() };
    let mut last = |warm_up: Duration, counted: Option<Duration>| {
        made.load.warm_up = warm_up;
        made.load.duration = counted.map(|it| it.saturating_add(warm_up));
    };
    let how = match warmth {
        Warmth::Cold => {
            last(Duration::ZERO, counted);
            let (lasts, factor) = START;
            let slow = |replica| Fault::Slow { at: Duration::ZERO, replica, lasts, factor };
            made.faults = (0..scenario.fleet.replicas).map(slow).collect();
            format!("a fresh fleet, {factor} × slower for its first {}", seconds(lasts))
        }
        Warmth::WarmModelColdCache => {
            last(Duration::ZERO, counted);
            "a fresh fleet at full speed, counted from its first request".to_owned()
        }
        Warmth::Warm => {
            last(warm_up, counted);
            format!("a fresh fleet, counted after {} of the same traffic", seconds(warm_up))
        }
        Warmth::HotSteadyState => {
            let long = warm_up.saturating_mul(3).max(counted.unwrap_or_default());
            last(long, counted);
            format!("a fresh fleet, counted after {} of the same traffic", seconds(long))
        }
        Warmth::Disrupted => return disrupted(scenario, made, warm_up, counted),
    };
    (made, how)
}

fn disrupted(
    scenario: &Scenario,
    mut made: Scenario,
    warm_up: Duration,
    counted: Option<Duration>,
) -> (Scenario, String) {
    made.faults.clone_from(&scenario.faults);
    let counted = if made.faults.is_empty() {
        let each = DOWN_FOR + DRAIN + scenario.signals.health_delay;
        let lasts = each.saturating_mul(scenario.fleet.replicas);
        // Long enough for as much time before and after it as it takes itself.
        let counted = counted.map(|it| it.max(lasts.saturating_mul(2)));
        let at = warm_up + counted.unwrap_or_default() / 4;
        made.faults.push(Fault::RollingDeployment { at, down_for: DOWN_FOR });
        counted
    } else {
        counted
    };
    made.load.warm_up = warm_up;
    made.load.duration = counted.map(|it| it.saturating_add(warm_up));
    let kinds: Vec<&str> = made.faults.iter().map(Fault::kind).collect();
    (made, format!("warm, and then: {}", kinds.join(", ")))
}

fn seconds(it: Duration) -> String {
    format!("{} s", it.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Scenario {
        serde_yaml::from_str(include_str!("../../../../config/scenarios/support-chat.yaml"))
            .unwrap()
    }

    fn counted(it: &Scenario) -> Duration {
        it.load.duration.unwrap() - it.load.warm_up
    }

    #[test]
    fn every_state_is_measured_for_as_long_and_is_a_valid_scenario() {
        let scenario = scenario();
        for warmth in Warmth::ALL {
            let (made, how) = produced(&scenario, warmth);
            assert_eq!(made.problems(), Vec::<String>::new(), "{warmth:?}");
            assert!(counted(&made) >= counted(&scenario), "{how}");
            let is_undisturbed = made.faults.is_empty();
            let disturbs = matches!(warmth, Warmth::Cold | Warmth::Disrupted);
            assert_eq!(is_undisturbed, !disturbs, "{how}");
        }
        assert_eq!(stated(&scenario), Warmth::Warm);
    }

    #[test]
    fn states_differ_by_what_came_before() {
        let warm_up = |warmth| produced(&scenario(), warmth).0.load.warm_up;
        assert_eq!(warm_up(Warmth::WarmModelColdCache), Duration::ZERO);
        assert!(warm_up(Warmth::Warm) < warm_up(Warmth::HotSteadyState));
    }

    #[test]
    fn a_deployment_ends_while_it_is_measured() {
        let (made, _) = produced(&scenario(), Warmth::Disrupted);
        let fault = made.faults[0];
        let ends = fault.ends(made.fleet.replicas, made.signals.health_delay);
        assert!(ends < made.load.duration.unwrap(), "{ends:?}");
        assert!(fault.at() > made.load.warm_up);
    }
}
