//! What a tenant may have, in virtual time.

use super::*;

/// An answer of no length, as of an embedding.
const NOTHING: Option<Tokens> = Some(Tokens::ZERO);

fn unbounded() -> Configured {
    Configured {
        name: "a".to_owned(),
        keys: Vec::new(),
        requests_per_minute: None,
        tokens_per_minute: None,
        concurrency: None,
    }
}

#[tokio::test(start_paused = true)]
async fn requests_a_minute_come_evenly() {
    let tenant =
        Arc::new(Tenant::new(&Configured { requests_per_minute: Some(60), ..unbounded() }));
    let grants: Vec<_> = (0..60).map(|_| tenant.admit(Tokens(1), NOTHING).unwrap()).collect();
    let Err(Refusal::Quota { what, after }) = tenant.admit(Tokens(1), NOTHING) else { panic!() };
    assert_eq!((what, after), ("requests a minute", Duration::from_secs(1)));
    drop(grants);
    assert!(tenant.admit(Tokens(1), NOTHING).is_err(), "what has ended is not given back");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(tenant.admit(Tokens(1), NOTHING).is_ok() && tenant.admit(Tokens(1), NOTHING).is_err());
    let mut head = HeaderMap::new();
    tenant.write_headers(&mut head);
    assert_eq!(head["x-ratelimit-limit-requests"], "60");
    assert_eq!(head["x-ratelimit-remaining-requests"], "0");
    assert_eq!(head["x-ratelimit-reset-requests"], "60000ms");
}

#[tokio::test(start_paused = true)]
async fn tokens_are_charged_as_they_are_produced() {
    let tenant = Arc::new(Tenant::new(&Configured { tokens_per_minute: Some(600), ..unbounded() }));
    let mut grant = tenant.admit(Tokens(500), NOTHING).unwrap();
    assert!(tenant.admit(Tokens(200), NOTHING).is_err());
    grant.settle(None, Tokens(300));
    tokio::time::advance(Duration::from_secs(20)).await;
    assert!(tenant.admit(Tokens(1), NOTHING).is_err(), "in debt: 600 - 500 - 300 + 200 = 0");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(tenant.admit(Tokens(10), NOTHING).is_ok());
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(
        tenant.admit(Tokens(100_000), NOTHING).is_ok(),
        "more than ever comes waits for all there is"
    );
}

#[tokio::test(start_paused = true)]
async fn a_place_is_given_back_when_its_request_leaves() {
    let tenant = Arc::new(Tenant::new(&Configured { concurrency: Some(2), ..unbounded() }));
    let (one, two) =
        (tenant.admit(Tokens(1), NOTHING).unwrap(), tenant.admit(Tokens(1), NOTHING).unwrap());
    assert!(matches!(tenant.admit(Tokens(1), NOTHING), Err(Refusal::Quota { .. })));
    drop(one);
    assert!(tenant.admit(Tokens(1), NOTHING).is_ok());
    drop(two);
    assert_eq!(*tenant.in_flight.lock(), 0);
}

fn limited(tokens_per_minute: u32) -> Arc<Tenant> {
    Arc::new(Tenant::new(&Configured { tokens_per_minute: Some(tokens_per_minute), ..unbounded() }))
}

fn left(tenant: &Tenant) -> u32 {
    tenant.tokens.as_ref().unwrap().left(Instant::now()).0
}

#[tokio::test(start_paused = true)]
async fn what_answers_may_come_to_is_reserved_and_settled_as_what_they_came_to() {
    let tenant = limited(1_000);
    let admit = || tenant.admit(Tokens(30), Some(Tokens(300)));
    let mut grants: Vec<_> = (0..3).map(|_| admit().unwrap()).collect();
    assert_eq!(left(&tenant), 10);
    assert!(matches!(admit(), Err(Refusal::Quota { what: "tokens a minute", .. })));
    grants[0].settle(None, Tokens(12));
    assert_eq!(left(&tenant), 298, "what it did not come to is given back");
    grants[1].settle(Some(Tokens(25)), Tokens(300));
    assert_eq!(left(&tenant), 303, "the prompt as the replica counted it");
    grants[2].settle(Some(Tokens::ZERO), Tokens::ZERO);
    assert_eq!(left(&tenant), 633, "nothing was computed");
    drop(grants);
    assert_eq!(left(&tenant), 633, "what is settled stays so");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_longer_than_what_was_reserved_is_taken_while_it_comes() {
    let tenant = limited(1_000);
    let mut grant = tenant.admit(Tokens(10), None).unwrap();
    assert_eq!(left(&tenant), 990 - OUTPUT_AT_FIRST.0);
    (1..=980).for_each(|tokens| grant.streamed(Tokens(tokens)));
    assert!(left(&tenant) <= 10 && tenant.admit(Tokens(11), NOTHING).is_err());
    grant.settle(None, Tokens(980));
    assert_eq!(left(&tenant), 10);
    let mut grant = tenant.admit(Tokens(10), Some(Tokens(50_000)));
    assert!(grant.is_err(), "as much as there ever is");
    tokio::time::advance(Duration::from_secs(60)).await;
    grant = tenant.admit(Tokens(10), Some(Tokens(50_000)));
    assert_eq!((left(&tenant), grant.is_ok()), (0, true), "and no more than that");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_bounded_is_reserved_as_answers_were_of_late() {
    let tenant = limited(10_000);
    let grant = tenant.admit(Tokens(1), None).unwrap();
    (0..50).for_each(|_| grant.learn(Tokens(20), Duration::from_secs(2)));
    assert_eq!(tenant.admit(Tokens(1), None).unwrap().output, 20);
    let short = tenant.admit(Tokens(1), Some(Tokens(8))).unwrap();
    let long = tenant.admit(Tokens(1), Some(Tokens(4_000))).unwrap();
    assert_eq!(short.guess(Duration::from_secs(2)), Tokens(8), "no more than it may have");
    assert_eq!(long.guess(Duration::from_secs(2)), Tokens(20), "at the pace of the others");
    let nobody = limited(1_000).admit(Tokens(1), Some(Tokens(70))).unwrap();
    assert_eq!(nobody.guess(Duration::ZERO), Tokens(70), "where no pace is known, all of it");
}

/// Requests that come together, of all lengths, for ten minutes: never has more been produced than the
/// tenant may have had by then.
#[tokio::test(start_paused = true)]
async fn the_limit_holds_however_many_come_at_once() {
    let tenant = limited(6_000);
    let began = Instant::now();
    let (mut produced, mut open) = (0_u32, Vec::new());
    for at in 0..6_000_u32 {
        // A burst every fifth second, of requests that run for two to nine.
        if at % 50 == 0 {
            for (ends, request) in (0..40_u32).map(|it| (at + 20 + it * 7 % 70, it)) {
                let most = 50 + request * 37 % 900;
                let length = most - request % 50;
                if let Ok(grant) = tenant.admit(Tokens(20), Some(Tokens(most))) {
                    open.push((ends, length, grant));
                }
            }
        }
        open.retain_mut(|(ends, length, grant)| {
            if at < *ends {
                return true;
            }
            grant.settle(Some(Tokens(20)), Tokens(*length));
            produced += 20 + *length;
            false
        });
        let most = 6_000.0 + began.elapsed().as_secs_f64() * 100.0;
        assert!(f64::from(produced) <= most, "{produced} of {most} after {at} tenths of a second");
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert!(produced > 40_000, "the share is used: {produced} of 66,000");
}
