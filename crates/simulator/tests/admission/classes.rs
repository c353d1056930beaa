//! Who gets what: tenants, urgency, and clients that come again.

use policy::admission::AdmissionMode;
use report::{Ending, RequestRecord};

use crate::ran::{SINGLE_PROMPTS, of_tenants, read, run, run_with};

#[test]
fn a_tenant_that_asks_for_ten_times_as_much_leaves_the_others_nine_tenths_of_what_they_had() {
    let scenario = read(SINGLE_PROMPTS, "");
    let of = |flood| {
        let arrivals = of_tenants(&scenario, &[flood, 5.0, 5.0, 5.0]);
        run_with(&scenario, AdmissionMode::Knee, arrivals)
    };
    let (alone, beside) = (of(0.0), of(50.0));
    for tenant in 1..4 {
        let (had, has) = (alone.good_of(tenant), beside.good_of(tenant));
        assert!(0.9 * had <= has, "tenant {tenant}: {has} of {had}");
    }
    let flooding = beside.count(|it| it.tenant == Some(0));
    assert!(beside.good_of(0) < 0.5 * flooding, "{} of {flooding}", beside.good_of(0));
}

/// Thirty a second are what the fleet can take, of which the others leave half.
#[test]
fn a_tenant_over_its_share_gets_what_the_others_leave() {
    let scenario = read(SINGLE_PROMPTS, "");
    let arrivals = of_tenants(&scenario, &[30.0, 5.0, 5.0, 5.0]);
    let ran = run_with(&scenario, AdmissionMode::Knee, arrivals);
    assert!(0.97 * 30.0 * 20.0 <= ran.good(), "{} good in twenty seconds", ran.good());
    let others = ran.count(|it| it.tenant != Some(0));
    let good = ran.good() - ran.good_of(0);
    assert!(0.99 * others <= good, "{good} of the others' {others}");
}

#[test]
fn a_refusal_says_whether_the_tenant_had_too_much_or_the_fleet_has_too_little() {
    let scenario = read(SINGLE_PROMPTS, "");
    let arrivals = of_tenants(&scenario, &[50.0, 5.0, 5.0, 5.0]);
    let ran = run_with(&scenario, AdmissionMode::Knee, arrivals);
    let rejected = |tenant, status| {
        ran.count(|it| {
            it.ending == Ending::Rejected
                && (it.tenant == Some(0)) == tenant
                && it.status == Some(status)
        })
    };
    assert!(
        rejected(true, 429) > 0.5 * ran.rejected(),
        "{} of {}",
        rejected(true, 429),
        ran.rejected()
    );
    assert!(rejected(false, 429) < 1.0, "{}", rejected(false, 429));
}

/// The first tenant's work is for later, the second's urgent.
const RANKS: &str = "ranks:
  0: { priority: batch, slo: { completion: 4h } }
  1: { priority: interactive }
";

#[test]
fn work_for_later_fills_what_the_urgent_leave_and_is_not_felt_by_them() {
    // Long enough for a 99th percentile of some thousand requests.
    let longer = SINGLE_PROMPTS.replace("duration: 30s", "duration: 110s");
    let scenario = read(&longer, RANKS);
    let of = |batch| {
        let arrivals = of_tenants(&scenario, &[batch, 15.0]);
        run_with(&scenario, AdmissionMode::Knee, arrivals)
    };
    let (alone, beside) = (of(0.0), of(40.0));
    let p99 = |ran: &crate::ran::Ran| ran.ttft_ms(0.99, |it| it.tenant == Some(1));
    assert!(p99(&beside) <= 1.2 * p99(&alone), "{} ms against {} ms", p99(&beside), p99(&alone));
    assert!(0.97 * alone.good_of(1) <= beside.good_of(1), "{}", beside.good_of(1));
    // Of thirty a second that the fleet can take, fifteen are urgent; what waited since before the window and is done
    // within it counts.
    let seconds = |it: &RequestRecord| it.ended.elapsed().as_secs();
    let batch = beside.early.iter().chain(&beside.records).filter(|it| it.tenant == Some(0));
    let done = batch.filter(|it| it.slo.good && (10..110).contains(&seconds(it))).count() as f64;
    assert!(0.9 * 15.0 * 100.0 <= done, "{done} of the batch's requests");
}

#[test]
fn work_for_later_is_done_before_its_window_ends() {
    let ranks = RANKS.replace("4h", "10s");
    let scenario = read(SINGLE_PROMPTS, &ranks);
    let arrivals = of_tenants(&scenario, &[10.0, 25.0]);
    let ran = run_with(&scenario, AdmissionMode::Knee, arrivals);
    let batch = ran.count(|it| it.tenant == Some(0));
    assert!(0.3 * batch <= ran.good_of(0), "{} of {batch}", ran.good_of(0));
}

/// Thirty a second are what the fleet can take.
#[test]
fn work_for_later_is_not_starved_by_urgent_work_that_never_ends() {
    let longer =
        SINGLE_PROMPTS.replace("duration: 30s, warm_up: 10s", "duration: 180s, warm_up: 60s");
    let scenario = read(&longer, &RANKS.replace("4h", "60s"));
    for urgent in [45.0, 60.0] {
        let of = |batch| {
            let arrivals = of_tenants(&scenario, &[batch, urgent]);
            run_with(&scenario, AdmissionMode::Knee, arrivals)
        };
        let (alone, beside) = (of(0.0), of(6.0));
        let (batch, good) = (beside.good_of(0), beside.good());
        assert!(0.05 * good <= batch, "{batch} of {good} beside {urgent}/s");
        assert!(0.9 * alone.good_of(1) <= beside.good_of(1), "{}", beside.good_of(1));
    }
}

#[test]
fn clients_that_come_again_do_not_crowd_out_those_who_come_first() {
    let knee = run(SINGLE_PROMPTS, "", AdmissionMode::Off, 30.0).good();
    for (rate, least) in [(42.0, 0.98), (60.0, 0.97), (90.0, 0.95)] {
        let ran = run(SINGLE_PROMPTS, "comes_again: 3\n", AdmissionMode::Knee, rate);
        assert!(knee * least <= ran.good(), "{} at {rate}/s, {knee} at the knee", ran.good());
        assert!(ran.sent() <= 1.2 * ran.all(), "{} of {} at {rate}/s", ran.sent(), ran.all());
    }
}
