//! Those who wait for some replicas are not in the way of those who wait for others.

use super::*;

const MODELS: u64 = 6;

/// As many replicas as models, each with one of its own and one request, under a promise that leaves no room.
fn one_replica_for_each_model() -> Dispatcher {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    for number in 0..MODELS {
        let replica = ReplicaId(u32::try_from(number).unwrap());
        let models = [ModelId(number)].into();
        told(&mut dispatcher, 0, Event::ReplicaJoined(replica));
        told(&mut dispatcher, 0, Event::ModelsListed { replica, models });
        told(&mut dispatcher, 0, Event::HealthChanged { replica, health: Health::Ready });
        // So many go that whoever waits may hope to.
        for id in 1_000..1_300 {
            let brief = Request { model: ModelId(number), prompt: Tokens(1), ..long(id) };
            told(&mut dispatcher, 0, Event::Arrived(brief));
            told(&mut dispatcher, 0, ended(id));
        }
        let first = Request { model: ModelId(number), ..long(number) };
        assert!(told(&mut dispatcher, 0, Event::Arrived(first))[0].verdict.is_ok());
    }
    dispatcher
}

#[test]
fn whoever_waits_for_one_model_does_not_keep_another_from_its_replica() {
    let mut dispatcher = one_replica_for_each_model();
    for id in 100..110 {
        let ahead = Request { model: ModelId(0), priority: Priority::Interactive, ..long(id) };
        assert!(told(&mut dispatcher, 0, Event::Arrived(ahead)).is_empty());
    }
    let other = Request { model: ModelId(1), ..long(200) };
    assert!(told(&mut dispatcher, 0, Event::Arrived(other)).is_empty());
    let decisions = told(&mut dispatcher, 20, ended(1));
    assert_eq!(decisions.len(), 1, "{decisions:?}");
    assert_eq!(decisions[0].verdict.unwrap().replica, ReplicaId(1));
}

#[test]
fn where_there_are_many_lines_none_is_left_out() {
    let mut dispatcher = one_replica_for_each_model();
    for model in 0..MODELS {
        for id in 0..4 {
            let waits = Request { model: ModelId(model), ..long(100 + 10 * model + id) };
            assert!(told(&mut dispatcher, 0, Event::Arrived(waits)).is_empty());
        }
    }
    for model in 0..MODELS {
        let mut decisions = told(&mut dispatcher, 20, ended(model));
        decisions.extend(told(&mut dispatcher, 20, Event::TimePassed));
        assert_eq!(decisions.len(), 1, "{model}: {decisions:?}");
    }
}

#[test]
fn those_who_wait_for_one_model_are_not_before_those_of_another() {
    let mut dispatcher = one_replica_for_each_model();
    for id in 100..200 {
        let ahead = Request { model: ModelId(0), priority: Priority::Interactive, ..long(id) };
        told(&mut dispatcher, 0, Event::Arrived(ahead));
    }
    let other = Request { model: ModelId(1), ..long(200) };
    assert!(told(&mut dispatcher, 0, Event::Arrived(other)).is_empty(), "it is the first to go");
}

#[test]
fn how_soon_those_go_who_wait_for_one_model_says_nothing_of_another() {
    let mut dispatcher = one_replica_for_each_model();
    for step in 0..1_000 {
        let brief = Request { model: ModelId(1), prompt: Tokens(1), ..long(2_000 + step) };
        told(&mut dispatcher, 20 * step, Event::Arrived(brief));
        told(&mut dispatcher, 20 * step, ended(2_000 + step));
    }
    for model in [0, 1] {
        told(&mut dispatcher, 20_000, ended(model));
        let first = Request { model: ModelId(model), ..long(50 + model) };
        assert!(told(&mut dispatcher, 20_000, Event::Arrived(first))[0].verdict.is_ok());
    }
    let waits = |dispatcher: &mut Dispatcher, model, id| {
        let request = Request { model: ModelId(model), ..long(id) };
        told(dispatcher, 20_000, Event::Arrived(request)).is_empty()
    };
    assert!(waits(&mut dispatcher, 0, 100) && waits(&mut dispatcher, 1, 101));
    assert!(!waits(&mut dispatcher, 0, 102), "of this one, one goes in seconds");
    assert!(waits(&mut dispatcher, 1, 103));
}

#[test]
fn one_model_that_is_full_keeps_nobody_of_another_waiting() {
    let mut dispatcher = one_replica_for_each_model();
    told(&mut dispatcher, 0, ended(1));
    for step in 0..200 {
        let flood = Request { model: ModelId(0), ..long(1_000 + step) };
        told(&mut dispatcher, step, Event::Arrived(flood));
        let other = Request { model: ModelId(1), prompt: Tokens(1), ..long(2_000 + step) };
        let decisions = told(&mut dispatcher, step, Event::Arrived(other));
        let own = decisions.iter().find(|it| it.request.0 == 2_000 + step).unwrap();
        assert_eq!(own.verdict.unwrap().replica, ReplicaId(1));
        told(&mut dispatcher, step, ended(2_000 + step));
    }
}

#[test]
fn when_to_come_again_is_learned_for_each_model() {
    let mut dispatcher = one_replica_for_each_model();
    dispatcher.admission.config.wait_share = 0.0;
    let ask = |dispatcher: &mut Dispatcher, ms, model, id| {
        let request = Request { model: ModelId(model), ..long(id) };
        told(dispatcher, ms, Event::Arrived(request))[0].verdict.err()?.retry_after()
    };
    // Model 0 has room every fifth of a second, model 1 every ten seconds.
    let mut id = 10_000;
    let (mut last, mut in_flight) = ([None, None], [0, 1]);
    for ms in (100..120_000).step_by(100) {
        for (model, every) in [(0, 200), (1, 10_000)] {
            let at = usize::try_from(model).unwrap();
            if ms % every == 0 {
                told(&mut dispatcher, ms, ended(in_flight[at]));
            }
            id += 1;
            match ask(&mut dispatcher, ms, model, id) {
                Some(after) => last[at] = Some(after),
                None => in_flight[at] = id,
            }
        }
    }
    let [quick, slow] = last.map(|it| it.unwrap().as_secs_f64());
    assert!(quick < 0.5 && 2.0 < slow, "{quick} {slow}");
}

#[test]
fn who_waits_for_one_model_makes_way_for_a_flood_of_another_only_where_all_have_no_more_places() {
    let config = AdmissionConfig { queue_max: 20, ..AdmissionConfig::default() };
    let mut dispatcher = one_replica_for_each_model();
    dispatcher.admission.config = config;
    let wait = |id, tenant| {
        let request = Request { model: ModelId(1), tenant: TenantId(tenant), ..long(id) };
        Waiting { line: 1, latest: at(400), ..waits(request) }
    };
    (100..104).for_each(|id| assert!(dispatcher.admission.queue.push(wait(id, 2), 20).is_none()));
    let mut out = Vec::new();
    for id in 200..260 {
        let flood = Request { model: ModelId(0), tenant: TenantId(1), ..long(id) };
        out.extend(told(&mut dispatcher, 0, Event::Arrived(flood)));
        if waiting(&dispatcher) < 20 {
            assert!(out.is_empty(), "there were places: {out:?}");
        }
    }
    let evicted = |id: u64| out.iter().any(|it| it.request.0 == id && it.verdict.is_err());
    assert!((100..104).all(|id| !evicted(id)), "they are few, whenever they must go: {out:?}");
    assert!(!out.is_empty() && out.iter().all(|it| 200 <= it.request.0), "{out:?}");
    // Those who are more urgent take the places of those who are least, whomever these wait for.
    let urgent = Request { model: ModelId(0), priority: Priority::System, ..long(300) };
    let decisions = told(&mut dispatcher, 0, Event::Arrived(urgent));
    assert!(decisions.iter().all(|it| it.request != RequestId(300)), "{decisions:?}");
    assert_eq!(waiting(&dispatcher), 20);
}

/// How requests of model 1 stand that come while those of model `others` do.
fn standing_beside(others: u64, request: &Request, other: &Request) -> Standing {
    let mut dispatcher = one_replica_for_each_model();
    // Those that came at first are forgotten.
    for ms in (40_000..42_000).step_by(20) {
        let own = Request { model: ModelId(1), prompt: Tokens(1), ..request.clone() };
        let other = Request { model: ModelId(others), prompt: Tokens(1), ..other.clone() };
        for (id, it) in [(ms, own), (ms + 1, other)] {
            told(&mut dispatcher, ms, Event::Arrived(Request { id: RequestId(id), ..it }));
            told(&mut dispatcher, ms, ended(id));
        }
    }
    let line = dispatcher.fleet.line_of(ModelId(1), Tokens(1));
    dispatcher.admission.standing(at(42_000), (request, line), at(42_000))
}

#[test]
fn the_less_urgent_give_way_to_those_who_ask_their_own_replicas_and_to_nobody_else() {
    let of = |priority| Request { priority, ..long(1) };
    let (batch, urgent) = (of(Priority::Batch), of(Priority::Interactive));
    let reserve = |others| standing_beside(others, &batch, &urgent).reserve;
    assert!(1.0 < reserve(1) && reserve(2) <= 1.0);
    let is_urgent = |others| standing_beside(others, &urgent, &batch).is_urgent;
    assert!(is_urgent(1) && !is_urgent(2));
}

#[test]
fn who_is_alone_with_its_model_is_not_over_its_share_whatever_others_ask_elsewhere() {
    let model = |others| {
        let mut dispatcher = one_replica_for_each_model();
        for step in 0..100 {
            let came = 100 * step;
            for (tenant, model, prompt) in [(1, 1, 4_000), (2, others, 1)] {
                let (model, tenant) = (ModelId(model), TenantId(tenant));
                let id = 2_000 + 2 * step + tenant.0;
                let prompt = Tokens(prompt);
                let request = Request { model, tenant, prompt, slo: Slo::default(), ..long(id) };
                told(&mut dispatcher, came, Event::Arrived(request));
                told(&mut dispatcher, came + 50, ended(id));
            }
        }
        let line = dispatcher.fleet.line_of(ModelId(1), Tokens(1));
        let request = Request { tenant: TenantId(1), ..long(1) };
        dispatcher.admission.standing(at(10_000), (&request, line), at(10_000)).is_over_share
    };
    assert!(model(1) && !model(2));
}
