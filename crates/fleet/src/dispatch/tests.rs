//! Requests that are placed, wait and leave, from many tasks at once.

use policy::{admission::AdmissionConfig, config::StrategyName};
use types::{
    replica::{Health, ReplicaId},
    request::ModelId,
    slo::Slo,
};

use super::*;

fn dispatch(replicas: u32) -> Arc<Dispatch> {
    let dispatch = Dispatch::new(DispatcherConfig::new(StrategyName::LeastRequest, 7));
    for replica in (0..replicas).map(ReplicaId) {
        dispatch.observe(Event::ReplicaJoined(replica));
        dispatch.observe(Event::HealthChanged { replica, health: Health::Ready });
    }
    dispatch
}

fn request(dispatch: &Dispatch) -> Request {
    let id = dispatch.next_id();
    let blocks = Vec::new().into();
    Request::new(id, ModelId(1), Tokens(100), blocks)
}

fn loads(dispatch: &Dispatch) -> Vec<u32> {
    dispatch.inspect(|_, it| it.fleet().replicas().iter().map(|it| it.load.in_flight).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn places_taken_by_many_tasks_are_all_given_back() {
    let dispatch = dispatch(4);
    let tasks: Vec<_> = (0..400)
        .map(|at: u32| {
            let dispatch = Arc::clone(&dispatch);
            tokio::spawn(async move {
                let mut ticket = dispatch.place(request(&dispatch)).await.unwrap();
                tokio::task::yield_now().await;
                match at % 4 {
                    0 => ticket.first_token(),
                    1 => ticket.leave_as(Outcome::Failed),
                    2 => ticket.retry().unwrap(),
                    _ => {}
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(loads(&dispatch), [0; 4]);
    assert_eq!(dispatch.inspect(|_, it| it.in_flight()), 0);
}

#[tokio::test]
async fn a_ticket_whose_retry_was_refused_gives_nothing_back_twice() {
    let dispatch = dispatch(1);
    let kept = dispatch.place(request(&dispatch)).await.unwrap();
    let mut ticket = dispatch.place(request(&dispatch)).await.unwrap();
    assert_eq!(loads(&dispatch), [2]);
    assert_eq!(ticket.retry(), Err(Reject::AllTried));
    drop(ticket);
    assert_eq!(loads(&dispatch), [1]);
    drop(kept);
    assert_eq!(loads(&dispatch), [0]);
}

/// One replica that takes one request, and `n` more that wait for it.
fn full(n: usize) -> (Arc<Dispatch>, Vec<Request>) {
    let admission = AdmissionConfig { in_flight_max: 1, ..AdmissionConfig::default() };
    let config =
        DispatcherConfig { admission, ..DispatcherConfig::new(StrategyName::LeastRequest, 7) };
    let dispatch = Dispatch::new(config);
    let replica = ReplicaId(0);
    dispatch.observe(Event::ReplicaJoined(replica));
    dispatch.observe(Event::HealthChanged { replica, health: Health::Ready });
    let slo = Slo { ttft: Some(Duration::from_secs(1)), ..Slo::default() };
    let long =
        |id| Request { slo, ..Request::new(id, ModelId(1), Tokens(16_000), Vec::new().into()) };
    let requests = (0..=n).map(|_| long(dispatch.next_id())).collect();
    (dispatch, requests)
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_placed_when_room_is_made() {
    let (dispatch, mut requests) = full(1);
    let second = requests.pop().unwrap();
    let first = dispatch.place(requests.pop().unwrap()).await.unwrap();
    let waiting = tokio::spawn({
        let dispatch = Arc::clone(&dispatch);
        async move { dispatch.place(second).await.map(|it| it.placement().replica) }
    });
    tokio::task::yield_now().await;
    assert_eq!(dispatch.inspect(|_, it| it.waiting().iter().sum::<usize>()), 1);
    drop(first);
    assert_eq!(waiting.await.unwrap(), Ok(ReplicaId(0)));
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_while_waiting_leaves_nothing_behind() {
    let (dispatch, mut requests) = full(1);
    let second = requests.pop().unwrap();
    let first = dispatch.place(requests.pop().unwrap()).await.unwrap();
    let mut waiting = Box::pin(dispatch.place(second));
    assert!(futures_poll_once(&mut waiting).await.is_none());
    drop(waiting);
    assert_eq!(dispatch.inspect(|_, it| it.waiting().iter().sum::<usize>()), 0);
    assert!(dispatch.shared.lock().waiting.is_empty());
    drop(first);
    assert_eq!((loads(&dispatch), dispatch.inspect(|_, it| it.in_flight())), (vec![0], 0));
}

#[tokio::test(start_paused = true)]
async fn who_waited_too_long_is_turned_away() {
    let (dispatch, mut requests) = full(1);
    let second = requests.pop().unwrap();
    let _first = dispatch.place(requests.pop().unwrap()).await.unwrap();
    let tending = tokio::spawn({
        let dispatch = Arc::clone(&dispatch);
        async move { dispatch.tend().await }
    });
    let refused = dispatch.place(second).await.map(drop).unwrap_err();
    assert!(matches!(refused, Reject::Expired { .. }), "{refused:?}");
    tending.abort();
}

/// What `future` gives when polled once.
async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(it) => Some(it),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
