//! The optimum against every choice there is, against the rule as published, and against schedules.

use proptest::prelude::*;

use super::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_elapsed(ms(millis))
}

fn job(arrival: u64, service: u64, deadline: u64) -> Job {
    Job { arrival: at(arrival), service: ms(service), deadline: at(deadline) }
}

/// Whether one server finishes all of `jobs` on time, first come first served.
fn all_on_time<'a>(jobs: impl Iterator<Item = &'a Job>) -> bool {
    let mut jobs: Vec<&Job> = jobs.collect();
    jobs.sort_by_key(|job| (job.arrival, job.deadline));
    let mut end = Timestamp::ZERO;
    jobs.iter().all(|job| {
        end = end.max(job.arrival) + job.service;
        end <= job.deadline
    })
}

/// The most jobs on time, by trying every set of them.
fn by_brute_force(jobs: &[Job]) -> usize {
    let chosen = |set: u32| {
        jobs.iter().enumerate().filter(move |(at, _)| set >> at & 1 == 1).map(|(_, job)| job)
    };
    let sets = (0_u32..1 << jobs.len()).filter(|set| all_on_time(chosen(*set)));
    sets.map(u32::count_ones).max().unwrap_or(0) as usize
}

/// The rule as published: every reduction is computed anew each time.
fn as_published(jobs: &[Job]) -> usize {
    let mut jobs: Vec<Job> = jobs.to_vec();
    jobs.sort_by_key(|job| (job.arrival, job.deadline));
    let end_of = |kept: &[Job]| {
        kept.iter().fold(Timestamp::ZERO, |end, job| end.max(job.arrival) + job.service)
    };
    let mut kept: Vec<Job> = Vec::new();
    for job in jobs {
        kept.push(job);
        if end_of(&kept) > job.deadline {
            let without = |at: usize| {
                let mut rest = kept.clone();
                rest.remove(at);
                end_of(&rest)
            };
            let cut = (0..kept.len()).min_by_key(|at| without(*at)).unwrap();
            kept.remove(cut);
        }
    }
    kept.len()
}

/// Jobs on time when `servers` servers take them in order, each the first that is free.
fn first_come_first_served(jobs: &[Job], servers: usize) -> usize {
    let mut jobs: Vec<&Job> = jobs.iter().collect();
    jobs.sort_by_key(|job| job.arrival);
    let mut free = vec![Timestamp::ZERO; servers];
    let mut on_time = 0;
    for job in jobs {
        let first = free.iter_mut().min().unwrap();
        *first = (*first).max(job.arrival) + job.service;
        on_time += usize::from(*first <= job.deadline);
    }
    on_time
}

fn with_one_slo(slo: u64, times: &[(u64, u64)]) -> Vec<Job> {
    times
        .iter()
        .map(|(arrival, service)| Job::within(ms(slo), at(*arrival), ms(*service)))
        .collect()
}

#[test]
fn the_long_job_makes_room_for_two_short_ones() {
    let jobs = [job(0, 10, 12), job(1, 4, 13), job(2, 4, 14)];
    assert_eq!(one_server(&jobs), OnTime { served: vec![false, true, true], is_exact: true });
}

#[test]
fn moore_and_hodgsons_textbook_jobs() {
    // With all arrivals at zero: processing times and due dates, of which 3 of 5 can be kept.
    let jobs = [job(0, 7, 9), job(0, 8, 17), job(0, 4, 18), job(0, 6, 19), job(0, 6, 21)];
    let kept = one_server(&jobs);
    assert_eq!(kept.served, [false, false, true, true, true]);
    assert!(kept.is_exact);
}

#[test]
fn a_job_that_is_late_alone_is_not_served_however_many_servers_there_are() {
    let jobs = with_one_slo(10, &[(0, 11), (0, 10)]);
    assert_eq!(pooled(&jobs, 8).served, [false, true]);
}

#[test]
fn deadlines_out_of_order_make_the_count_a_bound() {
    // Only one of the two can be on time; putting the second deadline off admits both.
    let jobs = [job(0, 10, 30), job(1, 10, 12)];
    let kept = one_server(&jobs);
    assert_eq!((kept.count(), kept.is_exact), (2, false));
}

#[test]
fn nothing_and_nobody_are_no_trouble() {
    assert_eq!(one_server(&[]).count(), 0);
    assert_eq!(pooled(&[job(0, 1, 2)], 0).count(), 0);
    let forever = Job { arrival: at(1), service: Duration::MAX, deadline: at(2) };
    assert_eq!(one_server(&[forever, job(3, 1, 9)]).served, [false, true]);
}

/// Arrivals that bunch up, sizes with ties, agreeable deadlines.
fn agreeable(jobs: usize) -> impl Strategy<Value = Vec<Job>> {
    let times = prop::collection::vec((0..30_u64, 0..9_u64, 0..4_u64), 0..jobs);
    (times, 1..14_u64).prop_map(|(mut times, slo)| {
        times.sort_unstable();
        let mut deadline = 0;
        let mut agree = |(arrival, service, more): &(u64, u64, u64)| {
            deadline = deadline.max(arrival + slo + more);
            job(*arrival, *service, deadline)
        };
        times.iter().map(&mut agree).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// No set of jobs that can all be on time is larger, and the set that is found can be served.
    #[test]
    fn no_choice_is_better(jobs in agreeable(12)) {
        let kept = one_server(&jobs);
        prop_assert!(kept.is_exact);
        prop_assert_eq!(kept.count(), by_brute_force(&jobs));
        let served = jobs.iter().zip(&kept.served).filter(|(_, served)| **served);
        prop_assert!(all_on_time(served.map(|(job, _)| job)));
    }

    /// The tree finds what the published scan finds.
    #[test]
    fn the_tree_agrees_with_the_scan(jobs in agreeable(80)) {
        prop_assert_eq!(one_server(&jobs).count(), as_published(&jobs));
    }

    /// Whatever deadlines are like, the count is no smaller than what can be had.
    #[test]
    fn out_of_order_deadlines_give_a_bound(
        times in prop::collection::vec((0..20_u64, 1..9_u64, 1..15_u64), 0..9),
    ) {
        let jobs: Vec<Job> = times.iter().map(|it| job(it.0, it.1, it.0 + it.2)).collect();
        prop_assert!(one_server(&jobs).count() >= by_brute_force(&jobs));
    }

    /// No fleet that serves in order of arrival beats the pooled bound, whomever it turns away.
    #[test]
    fn no_fleet_beats_the_pooled_bound(
        times in prop::collection::vec((0..60_u64, 0..15_u64, any::<bool>()), 0..40),
        slo in 1..25_u64,
        servers in 1..5_u32,
    ) {
        let all: Vec<(u64, u64)> = times.iter().map(|it| (it.0, it.1)).collect();
        let admitted: Vec<(u64, u64)> =
            times.iter().filter(|it| it.2).map(|it| (it.0, it.1)).collect();
        let bound = pooled(&with_one_slo(slo, &all), servers).count();
        for offered in [all, admitted] {
            let jobs = with_one_slo(slo, &offered);
            prop_assert!(first_come_first_served(&jobs, servers as usize) <= bound);
        }
    }

    /// More servers and longer promises never lower the bound.
    #[test]
    fn more_room_never_hurts(
        times in prop::collection::vec((0..60_u64, 0..15_u64), 0..40),
        slo in 1..25_u64,
        servers in 1..4_u32,
    ) {
        let bound = |slo, servers| pooled(&with_one_slo(slo, &times), servers).count();
        prop_assert!(bound(slo, servers) <= bound(slo, servers + 1));
        prop_assert!(bound(slo, servers) <= bound(slo + 1, servers));
    }
}
