//! What bodies take of the memory that they share, byte by byte.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::Frame;
use tokio::{sync::mpsc, task::JoinHandle};

use super::*;

/// A body whose pieces are sent through a channel.
struct Piecewise(mpsc::Receiver<Vec<u8>>);

impl Body for Piecewise {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|it| it.map(|bytes| Ok(Frame::data(bytes.into()))))
    }
}

type Received = JoinHandle<Result<(Bytes, Share), Refusal>>;

const MIB: usize = 1 << 20;

fn receive(budget: &Arc<Budget>, announced: Option<usize>) -> (mpsc::Sender<Vec<u8>>, Received) {
    let (sender, pieces) = mpsc::channel(1);
    let bounds = Bounds {
        bytes_max: 32 * MIB,
        announced,
        within: Duration::from_secs(60),
        refuses_trailers: false,
    };
    let budget = Arc::clone(budget);
    let task = tokio::spawn(async move { budget.receive(bounds, Piecewise(pieces)).await });
    (sender, task)
}

async fn send(sender: &mpsc::Sender<Vec<u8>>, bytes: usize) {
    sender.send(vec![b'x'; bytes]).await.unwrap();
    settle().await;
}

/// Lets every task do what it can.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn taken(budget: &Budget, of: usize) -> usize {
    (of / UNIT_BYTES - budget.permits.available_permits()) * UNIT_BYTES
}

#[tokio::test(start_paused = true)]
async fn heads_alone_take_nothing() {
    let budget = Arc::new(Budget::new(512 * MIB));
    let mut open = Vec::new();
    for at in 0..1_000 {
        open.push(receive(&budget, (at % 2 == 0).then_some(32 * MIB)));
    }
    settle().await;
    assert_eq!(taken(&budget, 512 * MIB), 0);
    // One byte each takes no more than a first piece.
    for (sender, _) in &open {
        sender.send(vec![b'x']).await.unwrap();
    }
    settle().await;
    assert_eq!(taken(&budget, 512 * MIB), 1_000 * FIRST_BYTES);
    let (sender, small) = receive(&budget, Some(100));
    send(&sender, 100).await;
    let (bytes, share) = small.await.unwrap().unwrap();
    assert_eq!((bytes.len(), share.permits()), (100, 1));
}

#[tokio::test(start_paused = true)]
async fn a_body_holds_what_it_takes_and_no_more() {
    let budget = Arc::new(Budget::new(8 * MIB));
    for announced in [Some(3 * MIB), None] {
        let (sender, task) = receive(&budget, announced);
        for piece in 0..48 {
            send(&sender, 64 << 10).await;
            let come = (piece + 1) * (64 << 10);
            let taken = taken(&budget, 8 * MIB);
            assert!(come <= taken && taken <= 2 * come, "{taken} for {come}");
        }
        drop(sender);
        let (bytes, share) = task.await.unwrap().unwrap();
        assert_eq!((bytes.len(), taken(&budget, 8 * MIB)), (3 * MIB, 3 * MIB));
        drop(share);
        assert_eq!(taken(&budget, 8 * MIB), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_body_of_known_length_stays_where_it_is() {
    let budget = Budget::new(8 * MIB);
    let bounds = Bounds {
        bytes_max: 32 * MIB,
        announced: Some(3 * MIB),
        within: Duration::from_secs(60),
        refuses_trailers: false,
    };
    let (share, measured) = (Share::default(), Measured::begin(0));
    let mut coming = Coming { budget: &budget, bounds, share, kept: Vec::new(), measured };
    let mut places = Vec::new();
    for piece in 1..=48 {
        coming.keep(&[b'x'; STEP_BYTES]).await.unwrap();
        places.push(coming.kept.as_ptr());
        assert!(coming.share.permits() * UNIT_BYTES <= 2 * piece * STEP_BYTES);
    }
    places[1..].iter().for_each(|it| assert_eq!(*it, places[1]));
    assert_eq!(coming.kept.capacity(), 3 * MIB);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_wait_for_each_other_end_in_a_refusal_and_not_in_a_deadlock() {
    let budget = Arc::new(Budget::new(4 * MIB));
    let open: Vec<_> = (0..4).map(|_| receive(&budget, Some(2 * MIB))).collect();
    for (sender, _) in &open {
        send(sender, MIB).await;
    }
    assert_eq!(taken(&budget, 4 * MIB), 4 * MIB);
    let began = Instant::now();
    for (sender, _) in &open {
        let _ = sender.send(vec![b'x'; MIB]).await;
    }
    let mut ends = Vec::new();
    for (sender, task) in open {
        drop(sender);
        ends.push(task.await.unwrap().map(|(bytes, _)| bytes.len()));
    }
    assert!(began.elapsed() <= LOOK_EVERY * 5, "{:?}", began.elapsed());
    assert!(ends.contains(&Err(Refusal::OutOfMemory)), "{ends:?}");
    assert_eq!(taken(&budget, 4 * MIB), 0);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_stand_still_make_room_and_those_that_come_do_not() {
    let budget = Arc::new(Budget::new(6 * MIB));
    let (stalled, ended) = receive(&budget, Some(32 * MIB));
    let (trickling, trickled) = receive(&budget, Some(32 * MIB));
    let (steady, going) = receive(&budget, Some(32 * MIB));
    send(&stalled, MIB).await;
    send(&trickling, MIB).await;
    send(&steady, MIB).await;
    for _ in 0..30 {
        tokio::time::advance(Duration::from_millis(100)).await;
        send(&trickling, 100).await;
        send(&steady, 8 << 10).await;
    }
    // Nobody is ended while there is room for all.
    assert!(!ended.is_finished() && !trickled.is_finished() && !going.is_finished());
    let (sender, task) = receive(&budget, Some(2 * MIB));
    send(&sender, MIB).await;
    send(&sender, MIB - 1).await;
    send(&sender, 1).await;
    drop(sender);
    assert_eq!(task.await.unwrap().unwrap().0.len(), 2 * MIB);
    assert_eq!(ended.await.unwrap().map(|it| it.0), Err(Refusal::BodySlow));
    settle().await;
    assert!(!trickled.is_finished(), "one was enough");
    assert!(!going.is_finished(), "64 KiB a second and more are let be");
    // The next one in need ends the trickle.
    let (sender, task) = receive(&budget, Some(3 * MIB));
    for _ in 0..3 {
        send(&sender, MIB).await;
    }
    drop(sender);
    assert_eq!(trickled.await.unwrap().map(|it| it.0), Err(Refusal::BodySlow));
    assert_eq!(task.await.unwrap().unwrap().0.len(), 3 * MIB);
    assert!(!going.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_long_or_too_late_is_refused() {
    let budget = Arc::new(Budget::new(64 * MIB));
    let (_sender, task) = receive(&budget, Some(33 * MIB));
    let bytes_max = 32 * MIB;
    assert_eq!(task.await.unwrap().map(|it| it.0), Err(Refusal::TooLarge { bytes_max }));
    let (sender, task) = receive(&budget, None);
    send(&sender, 32 * MIB).await;
    send(&sender, 1).await;
    assert_eq!(task.await.unwrap().map(|it| it.0), Err(Refusal::TooLarge { bytes_max }));
    let (_silent, task) = receive(&budget, Some(10));
    let after = Duration::from_secs(60);
    assert_eq!(task.await.unwrap().map(|it| it.0), Err(Refusal::BodyTimedOut { after }));
    assert_eq!(taken(&budget, 64 * MIB), 0);
}
