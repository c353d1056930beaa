//! When replicas are ejected and readmitted, step by step.

use super::*;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_secs(secs))
}

fn ready() -> HealthTracker {
    let mut tracker = HealthTracker::new(HealthConfig::default());
    assert_eq!(tracker.probed(at(0), Ok(())), Some(Health::Ready));
    tracker
}

#[test]
fn a_refused_connection_ejects_at_once() {
    let ejected = Some(Health::Ejected);
    assert_eq!(ready().request_failed(at(1), Failure::Refused, true), ejected);
    assert_eq!(ready().probed(at(1), Err(Failure::Refused)), ejected);
}

#[test]
fn other_failures_eject_when_they_come_in_a_row() {
    let mut tracker = ready();
    for _ in 0..4 {
        assert_eq!(tracker.request_failed(at(1), Failure::Broken, true), None);
    }
    tracker.answered(at(1));
    for _ in 0..4 {
        assert_eq!(tracker.request_failed(at(1), Failure::TimedOut, true), None);
    }
    assert_eq!(tracker.request_failed(at(1), Failure::Broken, true), Some(Health::Ejected));
}

#[test]
fn one_of_the_last_is_kept_unless_its_probes_fail_too() {
    let mut tracker = ready();
    for _ in 0..20 {
        assert_eq!(tracker.request_failed(at(1), Failure::Broken, false), None);
    }
    assert!(tracker.has_failed_enough());
    assert_eq!(tracker.probed(at(2), Err(Failure::Broken)), None);
    assert_eq!(tracker.request_failed(at(2), Failure::Broken, false), Some(Health::Ejected));
    assert_eq!(ready().request_failed(at(1), Failure::Refused, false), Some(Health::Ejected));
}

#[test]
fn busy_is_not_dead() {
    let mut tracker = ready();
    for second in 1..100 {
        tracker.byte(at(second));
        assert_eq!(tracker.probed(at(second + 2), Err(Failure::TimedOut)), None);
    }
    let silent: Vec<_> =
        (0..3).map(|it| tracker.probed(at(200 + it), Err(Failure::TimedOut))).collect();
    assert_eq!(silent, [None, None, Some(Health::Ejected)]);
}

fn millis(millis: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_millis(millis))
}

const BUSY: Work = Work { in_flight: 1, is_prefilling: true };
const STREAMS: Work = Work { in_flight: 2, is_prefilling: false };

/// What the task that watches does, with probes that end as `probe` says; returns when the
/// replica was ejected.
fn watched(
    tracker: &mut HealthTracker,
    from: u64,
    until: u64,
    mut probe: impl FnMut(u64) -> Result<(), Failure>,
) -> Option<u64> {
    let mut now = from;
    while now < until {
        now += u64::try_from(tracker.look_every().as_millis()).unwrap();
        if tracker.is_suspect(millis(now), BUSY) {
            let ended = match probe(now) {
                Ok(()) => tracker.probed(millis(now), Ok(())),
                Err(failure) => {
                    now += u64::try_from(tracker.suspect_timeout().as_millis()).unwrap();
                    tracker.suspect_failed(millis(now), failure)
                }
            };
            if ended == Some(Health::Ejected) {
                return Some(now);
            }
        }
    }
    None
}

#[test]
fn one_that_gives_no_sign_of_life_is_ejected_within_3_s() {
    for phase in 0..10 {
        let mut tracker = ready();
        tracker.byte(millis(10_000 + 50 * phase));
        let hung = Err(Failure::TimedOut);
        let ejected = watched(&mut tracker, 10_000, 60_000, |_| hung).unwrap();
        assert!(ejected <= 13_000 + 50 * phase, "{ejected}");
    }
}

/// A12: however long it was gone, and whenever the probe was due that finds it back.
#[test]
fn one_that_is_back_is_ready_within_a_probe_interval_and_1_s() {
    let within = HealthConfig::default().interval + Duration::from_secs(1);
    let mut longest = Duration::ZERO;
    for (gone, phase) in
        (0..20_000).step_by(110).flat_map(|it| [(it, 10), (it, 2_500), (it, 5_000)])
    {
        let mut tracker = ready();
        tracker.request_failed(millis(10_000), Failure::Refused, false);
        assert_eq!(tracker.health(), Health::Ejected);
        // Who waits for the next probe of a replica that was ready goes on waiting for it.
        let mut now = 10_000 + phase;
        loop {
            let is_back = 10_000 + gone <= now;
            tracker.probed(millis(now), if is_back { Ok(()) } else { Err(Failure::Refused) });
            if tracker.health() == Health::Ready {
                break;
            }
            now += u64::try_from(tracker.probe_in().as_millis()).unwrap();
            assert!(now < 100_000, "it is never ready");
        }
        longest = longest.max(Duration::from_millis(now - 10_000 - gone));
    }
    assert!(longest <= within, "{longest:?}");
    assert!(Duration::from_secs(2) < longest, "two probes are asked for");
}

#[test]
fn one_that_computes_without_a_byte_and_answers_probes_is_never_ejected() {
    assert_eq!(watched(&mut ready(), 10_000, 600_000, |_| Ok(())), None);
    // Not even when it answers only every other time.
    let every_other = |now| if now % 4_000 < 2_000 { Err(Failure::TimedOut) } else { Ok(()) };
    let mut tracker = ready();
    let mut answered = 0;
    for second in 10..600 {
        match every_other(second * 1_000 + 500 * (second % 2)) {
            Ok(()) => answered += u32::from(tracker.probed(at(second), Ok(())).is_none()),
            Err(_) if second % 2 == 0 => {
                assert_eq!(tracker.suspect_failed(at(second), Failure::TimedOut), None);
            }
            Err(_) => {
                tracker.byte(at(second));
            }
        }
    }
    assert!(answered > 0 && tracker.health() == Health::Ready);
}

#[test]
fn streams_that_all_stand_still_eject_and_a_prefill_excuses_them() {
    let mut tracker = ready();
    tracker.byte(at(10));
    assert_eq!(tracker.look(at(24), STREAMS), None);
    let prefilling = Work { is_prefilling: true, ..STREAMS };
    assert_eq!(tracker.look(at(60), prefilling), None);
    assert_eq!(tracker.look(at(60), Work { in_flight: 1, ..STREAMS }), None);
    assert_eq!(tracker.look(at(60), Work::default()), None);
    assert_eq!(tracker.look(at(25), STREAMS), Some(Health::Ejected));
}

#[test]
fn one_without_work_is_no_suspect() {
    let tracker = ready();
    assert!(!tracker.is_suspect(at(100), Work::default()));
    assert!(tracker.is_suspect(at(100), BUSY));
}

#[test]
fn it_returns_after_its_time_and_two_answers() {
    let mut tracker = ready();
    tracker.request_failed(at(10), Failure::Refused, true);
    assert_eq!(tracker.probed(at(10), Ok(())), None);
    assert_eq!(tracker.probed(at(10), Ok(())), None, "its time is not over");
    assert_eq!(tracker.probed(at(11), Ok(())), Some(Health::Ready));
}

#[test]
fn one_that_keeps_failing_stays_away_longer_each_time() {
    let mut tracker = ready();
    let mut now = at(10);
    let away: Vec<u64> = (0..5)
        .map(|_| {
            tracker.request_failed(now, Failure::Refused, true);
            let gone = now;
            while tracker.health() == Health::Ejected {
                now = now + Duration::from_secs(1);
                tracker.probed(now, Ok(()));
            }
            now.since(gone).as_secs()
        })
        .collect();
    assert_eq!(away, [2, 2, 4, 8, 8]);
}

#[test]
fn it_is_probed_more_often_until_it_is_ready() {
    let mut tracker = HealthTracker::new(HealthConfig::default());
    assert_eq!(tracker.probe_in(), Duration::from_secs(1));
    tracker.probed(at(0), Ok(()));
    assert_eq!(tracker.probe_in(), Duration::from_secs(5));
}
