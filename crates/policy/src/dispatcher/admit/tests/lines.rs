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
        for id in 1_000..1_100 {
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
