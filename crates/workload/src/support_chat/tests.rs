//! What the traffic of a support chatbot looks like.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn arrivals(chat: &SupportChat, rate_per_s: f64, seconds: u64, seed: u64) -> Vec<Arrival> {
    chat.arrivals(&Schedule::Poisson { rate_per_s }, Duration::from_secs(seconds), seed)
}

#[test]
fn the_rate_is_that_of_requests_from_the_first_second_on() {
    let all = arrivals(&SupportChat::default(), 40.0, 500, 1);
    assert!((18_800..21_200).contains(&all.len()), "{}", all.len());
    let early = all.iter().filter(|it| it.at.elapsed() < Duration::from_secs(50)).count();
    assert!((1_700..2_300).contains(&early), "{early}");
}

#[test]
fn arrivals_are_in_order_and_within_the_run() {
    let all = arrivals(&SupportChat::default(), 20.0, 30, 5);
    assert!(all.is_sorted_by_key(|it| it.at));
    assert!(all.last().unwrap().at.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_turn_sends_all_that_was_said_before() {
    let all = arrivals(&SupportChat::default(), 20.0, 60, 2);
    let mut sessions: BTreeMap<u64, Vec<&Arrival>> = BTreeMap::new();
    for arrival in &all {
        sessions.entry(arrival.session.unwrap()).or_default().push(arrival);
    }
    let mut pairs = 0;
    for turns in sessions.values() {
        for pair in turns.windows(2) {
            let (before, after) = (&pair[0].prompt.messages, &pair[1].prompt.messages);
            assert_eq!(after.len(), before.len() + 2);
            assert_eq!(before[..], after[..before.len()]);
            assert_eq!(after[before.len()].role, Role::Assistant);
            assert_eq!(after[before.len()].tokens(), pair[0].output);
            assert_eq!(pair[1].turn, pair[0].turn + 1);
            let pause = pair[1].at.since(pair[0].at);
            assert!(pause >= Duration::from_secs(5) && pause <= Duration::from_secs(12));
            pairs += 1;
        }
    }
    assert!(pairs > 500, "{pairs}");
}

#[test]
fn tenants_share_nothing_and_sessions_only_their_tenants_prefix() {
    let all = arrivals(&SupportChat::default(), 20.0, 60, 3);
    let mut prefixes = BTreeMap::new();
    let mut questions = BTreeMap::new();
    for arrival in &all {
        let segment = |index: usize| arrival.prompt.messages[index].segments[0];
        let tenant = prefixes.insert(segment(0).id, arrival.tenant);
        assert!(tenant.is_none_or(|it| it == arrival.tenant));
        let session = questions.insert(segment(1).id, arrival.session);
        assert!(session.is_none_or(|it| it == arrival.session));
    }
    assert_eq!(prefixes.len(), 40);
}

#[test]
fn skew_favours_the_first_tenants() {
    let share = |tenant_skew| {
        let chat = SupportChat { tenant_skew, ..SupportChat::default() };
        let all = arrivals(&chat, 40.0, 200, 4);
        all.iter().filter(|it| it.tenant == Some(0)).count() as f64 / all.len() as f64
    };
    assert!((share(0.0) - 0.025).abs() < 0.015, "{}", share(0.0));
    assert!((share(1.0) - 0.234).abs() < 0.03, "{}", share(1.0));
}

#[test]
fn the_mean_prompt_is_as_predicted() {
    let chat = SupportChat::default();
    let all = arrivals(&chat, 40.0, 200, 6);
    let tokens: u64 = all.iter().map(|it| u64::from(it.prompt.tokens().0)).sum();
    let mean = tokens as f64 / all.len() as f64;
    assert!((mean - chat.prompt_tokens_mean()).abs() < 20.0, "{mean}");
}

#[test]
fn every_problem_is_reported_at_once() {
    let chat = SupportChat {
        tenants: 0,
        tenant_skew: f64::NAN,
        turns: 0,
        question_tokens: TokenRange { min: 5, max: 4 },
        ..SupportChat::default()
    };
    assert_eq!(chat.problems().len(), 4, "{:?}", chat.problems());
}

proptest! {
    /// The same seed draws the same run, whatever the shape.
    #[test]
    fn a_seed_is_a_run(seed: u64, turns in 1..6_u32, tenants in 1..9_u32) {
        let chat = SupportChat { turns, tenants, ..SupportChat::default() };
        prop_assert_eq!(arrivals(&chat, 5.0, 20, seed), arrivals(&chat, 5.0, 20, seed));
    }
}
