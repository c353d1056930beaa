//! What small worlds do, one matter at a time.

use std::time::Duration;

use engine::Profile;
use policy::config::{DispatcherConfig, StrategyName};
use report::{Terms, record::Ending};
use types::quantity::Tokens;
use workload::{Message, Prompt, Role, Segment};

use super::*;
use crate::{
    fault::Fault,
    setup::{Kind, Setup, Signals},
};

fn setup(replicas: u32) -> Setup {
    let profile = Profile { api_overhead_ms: 0.0, ..Profile::named("llama-3-8b-h100").unwrap() };
    Setup {
        seed: 1,
        replicas,
        kind: Kind::Engine(Box::new(profile)),
        routers: 1,
        dispatcher: DispatcherConfig::new(StrategyName::PrefixAware, 0),
        comes_again: 0,
        classes: BTreeMap::new(),
        unstreamed: 0.0,
        follow_refusals: None,
        ranks: BTreeMap::new(),
        attempts_max: 2,
        closed_conversations: false,
        quoted_answers: true,
        patience: None,
        warm_up: Duration::ZERO,
        signals: Signals::default(),
        faults: Vec::new(),
        terms: Terms::default(),
    }
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(it: u64) -> Timestamp {
    Timestamp::from_elapsed(millis(it))
}

fn segment(id: u64, tokens: u32) -> Segment {
    Segment { id, tokens: Tokens(tokens) }
}

/// A prompt of a thousand tokens called `id`, answered by forty.
fn request(at_ms: u64, id: u64) -> Arrival {
    Arrival {
        at: at(at_ms),
        session: None,
        turn: 0,
        tenant: None,
        turns: None,
        slo_class: None,
        workload_class: None,
        prompt: Prompt::from_user(vec![segment(id, 1_000)]),
        output: Tokens(40),
        answer: None,
        think: Duration::ZERO,
    }
}

/// Two turns of a conversation; the second one, scheduled for `second_ms`, quotes the answer to the
/// first and thinks for a second.
fn conversation(second_ms: u64) -> Vec<Arrival> {
    let first = Arrival { session: Some(7), answer: Some(50), ..request(0, 1) };
    let mut prompt = first.prompt.clone();
    prompt.messages.push(Message::new(Role::Assistant, segment(50, 40)));
    prompt.messages.push(Message::new(Role::User, segment(2, 30)));
    let second =
        Arrival { at: at(second_ms), turn: 1, think: millis(1_000), prompt, ..first.clone() };
    vec![first, second]
}

fn answers(setup: &Setup, arrivals: Vec<Arrival>) -> Vec<RequestRecord> {
    run(setup, arrivals).unwrap().records
}

#[test]
fn one_request_takes_what_the_engine_says() {
    let records = answers(&setup(1), vec![request(0, 1)]);
    // One step of 1,000 tokens at 26 µs, then 39 decode steps of about 7.6 ms.
    let (ttft, e2e) = (records[0].ttft().unwrap(), records[0].e2e().unwrap());
    assert!((millis(27)..millis(30)).contains(&ttft), "{ttft:?}");
    let tpot = records[0].tpot().unwrap();
    assert!((Duration::from_micros(7_500)..Duration::from_micros(7_700)).contains(&tpot));
    let gaps = records[0].itl.unwrap();
    assert!((gaps.mean_ms - (e2e - ttft).as_secs_f64() * 1e3 / 39.0).abs() < 1e-6);
    assert_eq!(records[0].output_tokens, Tokens(40));
}

#[test]
fn requests_of_one_moment_share_the_first_step() {
    let records = answers(&setup(1), vec![request(0, 1), request(0, 2)]);
    assert_eq!(records[0].ttft(), records[1].ttft());
}

#[test]
fn a_closed_conversation_waits_for_its_answer_and_its_user() {
    for (closed, expected) in [(true, None), (false, Some(at(2)))] {
        let setup = Setup { closed_conversations: closed, ..setup(2) };
        let records = answers(&setup, conversation(2));
        let after = records[0].last_token.unwrap() + millis(1_000);
        assert_eq!(records[1].scheduled, expected.unwrap_or(after));
        assert_eq!((records[1].session, records[1].turn), (Some(7), 1));
    }
}

#[test]
fn a_turn_finds_the_answer_it_quotes_where_engines_keep_it() {
    for (quoted_answers, cached) in [(true, 1_024), (false, 992)] {
        let setup = Setup { quoted_answers, ..setup(2) };
        // 1,000 prompt tokens are 62 full blocks of 16; with 39 computed tokens of the answer, 64.
        let records = answers(&setup, conversation(5_000));
        assert_eq!(records[1].cached_tokens, Some(Tokens(cached)));
        assert_eq!(records[0].replica, records[1].replica);
    }
}

#[test]
fn a_rotated_salt_hides_what_was_cached() {
    let faults = vec![Fault::RotateSalt { at: millis(1_000) }];
    let arrivals = || vec![request(0, 1), request(900, 1), request(1_100, 1), request(2_000, 1)];
    let cached: Vec<u32> = answers(&Setup { faults, ..setup(1) }, arrivals())
        .iter()
        .map(|it| it.cached_tokens.unwrap().0)
        .collect();
    assert_eq!(cached, [0, 992, 0, 992]);
}

#[test]
fn a_crash_before_the_first_token_is_retried_and_one_after_it_is_not() {
    let crash = |at_ms| {
        let all = |replica| Fault::Crash { at: millis(at_ms), replica, down_for: None };
        let setup = Setup { faults: vec![all(0)], ..setup(2) };
        // Of equal loads, the first of four requests goes to either; two of them go to each.
        answers(&setup, (0..4).map(|id| request(0, id)).collect())
    };
    let retried = crash(10);
    assert!(retried.iter().all(|it| it.ending == Ending::Completed));
    let attempts: Vec<u32> = retried.iter().filter_map(|it| it.attempts).collect();
    assert_eq!(attempts.iter().filter(|it| **it == 2).count(), 2, "{attempts:?}");
    let broken = crash(200);
    let failed = broken.iter().filter(|it| it.ending == Ending::Failed);
    assert!(failed.clone().all(|it| it.first_token.is_some() && it.output_tokens < Tokens(40)));
    assert_eq!(failed.count(), 2);
}

#[test]
fn a_replica_that_is_down_is_found_out_by_the_first_request_or_the_next_probe() {
    let faults = vec![Fault::Crash { at: millis(0), replica: 0, down_for: Some(millis(1_000)) }];
    let signals = Signals { health_delay: millis(500), ..Signals::default() };
    let strategy = DispatcherConfig::new(StrategyName::RoundRobin, 0);
    let setup = Setup { faults, signals, dispatcher: strategy, ..setup(2) };
    let sent = |at_ms: &[u64]| -> Vec<(Option<String>, Option<u32>)> {
        let arrivals = at_ms.iter().zip(0..).map(|(at_ms, id)| request(*at_ms, id)).collect();
        answers(&setup, arrivals).into_iter().map(|it| (it.replica, it.attempts)).collect()
    };
    let to = |replica: u32, attempts| (Some(format!("replica-{replica}")), Some(attempts));
    assert_eq!(sent(&[10, 20, 30]), [to(1, 2), to(1, 1), to(1, 1)]);
    assert_eq!(sent(&[600, 700]), [to(1, 1), to(1, 1)]);
    // Up at 1,000, seen at 1,500.
    let back = sent(&[1_400, 1_600, 1_700]);
    assert_eq!(back[0], to(1, 1));
    assert_ne!(back[1].0, back[2].0);
}

#[test]
fn a_slow_replica_takes_longer_by_its_factor() {
    let fault = |lasts| Fault::Slow { at: millis(0), replica: 0, lasts, factor: 3.0 };
    let e2e =
        |faults| answers(&Setup { faults, ..setup(1) }, vec![request(5, 1)])[0].e2e().unwrap();
    let ratio = e2e(vec![fault(millis(60_000))]).as_secs_f64() / e2e(Vec::new()).as_secs_f64();
    assert!((ratio - 3.0).abs() < 0.01, "{ratio}");
    assert_eq!(e2e(vec![fault(millis(2))]), e2e(Vec::new()));
}

#[test]
fn a_partition_concerns_one_router_and_ends() {
    let fault = Fault::Partition { at: millis(0), router: None, replica: 0, lasts: millis(2_000) };
    let signals =
        Signals { health_delay: millis(100), connect_timeout: millis(50), ..Signals::default() };
    let setup = Setup { faults: vec![fault], signals, ..setup(1) };
    let records = answers(&setup, vec![request(10, 1), request(500, 2), request(3_000, 3)]);
    let endings: Vec<Ending> = records.iter().map(|it| it.ending).collect();
    assert_eq!(endings, [Ending::Rejected, Ending::Rejected, Ending::Completed]);
    // The first one was given up after the time a connection may take.
    assert_eq!(records[0].ended, at(60));
}

#[test]
fn scaling_in_finishes_what_is_there_and_scaling_out_helps() {
    let faults = vec![
        Fault::ScaleIn { at: millis(10), replica: 0 },
        Fault::ScaleOut { at: millis(1_000), replicas: 1 },
    ];
    let signals = Signals { health_delay: millis(100), ..Signals::default() };
    let strategy = DispatcherConfig::new(StrategyName::RoundRobin, 0);
    let setup = Setup { faults, signals, dispatcher: strategy, ..setup(2) };
    let arrivals = [0, 0, 50, 60, 1_200, 1_210].into_iter().zip(0..);
    let records = answers(&setup, arrivals.map(|(at_ms, id)| request(at_ms, id)).collect());
    assert!(records.iter().all(|it| it.ending == Ending::Completed));
    let mut replicas: Vec<&str> = records.iter().map(|it| it.replica.as_deref().unwrap()).collect();
    replicas[..2].sort_unstable();
    replicas[4..].sort_unstable();
    let [old, kept, new] = ["replica-0", "replica-1", "replica-2"];
    assert_eq!(replicas, [old, kept, kept, kept, kept, new]);
}

#[test]
fn a_deployment_loses_caches_but_no_request() {
    let faults = vec![Fault::RollingDeployment { at: millis(1_000), down_for: millis(500) }];
    let signals = Signals { health_delay: millis(100), ..Signals::default() };
    let setup = Setup { faults, signals, ..setup(3) };
    let records = answers(&setup, (0..60).map(|it| request(it * 100, it % 6)).collect());
    assert!(records.iter().all(|it| it.ending == Ending::Completed && it.attempts == Some(1)));
    let cold = records.iter().filter(|it| it.cached_tokens == Some(Tokens::ZERO)).count();
    assert!(cold > 6, "{cold}");
}

#[test]
fn impatient_clients_leave_and_their_work_stops() {
    let patient = answers(&setup(1), vec![request(0, 1)])[0].e2e().unwrap();
    let setup = Setup { patience: Some(patient / 2), ..setup(1) };
    let record = answers(&setup, vec![request(0, 1)]).remove(0);
    assert_eq!((record.ending, record.ended), (Ending::Failed, Timestamp::ZERO + patient / 2));
    assert!(record.output_tokens < Tokens(40));
}

#[test]
fn a_prompt_that_no_engine_takes_fails_without_a_retry() {
    let long = Prompt::from_user(vec![segment(1, 200_000)]);
    let record = answers(&setup(2), vec![Arrival { prompt: long, ..request(0, 1) }]).remove(0);
    assert_eq!((record.ending, record.attempts), (Ending::Failed, Some(1)));
    assert!(record.error.unwrap().contains("exceed the context"));
}

#[test]
fn preempted_answers_have_their_pauses_among_their_gaps() {
    let profile = Profile {
        kv_tokens: Tokens(2_160),
        api_overhead_ms: 0.0,
        ..Profile::named("llama-3-8b-h100").unwrap()
    };
    let setup = Setup { kind: Kind::Engine(Box::new(profile)), ..setup(1) };
    let long = |id| Arrival { output: Tokens(300), ..request(0, id) };
    let records = answers(&setup, vec![long(1), long(2)]);
    let gaps = records.iter().map(|it| it.itl.unwrap());
    // One of the two gave up its blocks until the other was done.
    assert!(gaps.clone().any(|it| it.max_ms > 500.0), "{records:#?}");
    assert!(gaps.into_iter().any(|it| it.max_ms < 100.0));
    for record in &records {
        let decoding = record.e2e().unwrap() - record.ttft().unwrap();
        let from_gaps = record.itl.unwrap().mean_ms * 299.0;
        assert!((from_gaps - decoding.as_secs_f64() * 1e3).abs() < 1e-3);
    }
}

#[test]
fn routers_that_see_a_part_each_learn_of_the_rest_by_scraping() {
    let load = |routers, interval| {
        let signals = Signals { scrape_interval: interval, ..Signals::default() };
        let dispatcher = DispatcherConfig::new(StrategyName::LeastRequest, 0);
        let setup = Setup { routers, signals, dispatcher, ..setup(4) };
        let records = answers(&setup, (0..400).map(|it| request(it * 8, it)).collect());
        let ttfts = records.iter().map(|it| it.ttft().unwrap().as_secs_f64());
        ttfts.sum::<f64>() / records.len() as f64
    };
    let (one, blind, told) = (load(1, None), load(8, None), load(8, Some(millis(20))));
    assert!(one < told && told < blind, "one {one}, told {told}, blind {blind}");
}

#[test]
fn steps_planned_together_are_the_steps_taken_one_by_one() {
    // A replica that is slow by nothing changes nothing, but has its steps taken one by one.
    let slow = Fault::Slow { at: millis(0), replica: 0, lasts: millis(1), factor: 1.0 };
    let profile =
        Profile { kv_tokens: Tokens(24_000), ..Profile::named("llama-3-8b-h100").unwrap() };
    let setup =
        Setup { kind: Kind::Engine(Box::new(profile)), patience: Some(millis(2_500)), ..setup(2) };
    let arrivals = || -> Vec<Arrival> {
        let request = |it: u64| Arrival {
            output: Tokens(u32::try_from(20 + it * 37 % 200).unwrap()),
            ..request(it * 83 % 6_000, it % 50)
        };
        let mut all: Vec<Arrival> = (0..400).map(request).collect();
        all.sort_by_key(|it| it.at);
        all
    };
    let together = run(&setup, arrivals()).unwrap();
    let one_by_one = run(&Setup { faults: vec![slow], ..setup }, arrivals()).unwrap();
    for (one, other) in together.records.iter().zip(&one_by_one.records) {
        assert_eq!(one, other);
    }
    assert_eq!(together.gaps.stats_ms(), one_by_one.gaps.stats_ms());
    assert!(together.events < one_by_one.events, "{}", together.events);
    let endings = together.records.iter().filter(|it| it.ending == Ending::Failed).count();
    assert!((10..300).contains(&endings), "{endings}");
}

/// Requests of eight families over and over, on replicas with room for three of them.
fn pressed(signals: Signals, strategy: StrategyName) -> (Setup, Vec<Arrival>) {
    let mut setup = Setup { signals, ..setup(2) };
    setup.dispatcher = DispatcherConfig::new(strategy, 0);
    setup.dispatcher.prefix.block = Tokens(16);
    let profile = Profile::named("llama-3-8b-h100").unwrap();
    let profile = Profile { kv_tokens: Tokens(3_600), max_model_len: Tokens(2_000), ..profile };
    setup.kind = Kind::Engine(Box::new(profile));
    let family = |at: u64| (at * at + at / 3) % 8;
    (setup, (0..400).map(|at| request(at * 300, family(at))).collect())
}

/// How many of 400 requests found something else than their router expected.
fn surprised(signals: Signals) -> usize {
    let (setup, arrivals) = pressed(signals, StrategyName::KvAware);
    let mut world = World::new(&setup, arrivals).unwrap();
    let mut expected = Vec::new();
    while let Some(arrival) = world.arrivals.next() {
        while world.calendar.next_at().is_some_and(|it| it < arrival.at) {
            let (at, event) = world.calendar.pop().unwrap();
            world.advance_to(at);
            world.happen(event);
        }
        world.advance_to(arrival.at);
        world.arrive(&arrival);
        let placement = world.flights.last().unwrap().as_ref().unwrap().placement;
        expected.push(placement.map(|it| it.cached));
    }
    while let Some((at, event)) = world.calendar.pop() {
        world.advance_to(at);
        world.happen(event);
    }
    let found = world.records.iter().map(|it| it.as_ref().unwrap().cached_tokens);
    assert_eq!(expected.len(), 400);
    found.zip(expected).filter(|(found, expected)| found != expected).count()
}

#[test]
fn routers_that_are_told_know_what_is_found_and_those_that_are_not_do_not() {
    let told = Signals { event_lag: Some(millis(1)), ..Signals::default() };
    let late = Signals { event_lag: Some(millis(1_000)), event_loss: 0.2, ..told };
    let [exact, late, inferred] = [told, late, Signals::default()].map(surprised);
    assert!(exact <= 4, "{exact} surprises in spite of exact events");
    assert!(exact < late && 40 < inferred, "{exact}, {late} with late events, {inferred} without");
}
