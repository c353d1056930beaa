//! What befalls the replicas.

use std::{io, time::Duration};

use emulator::{Fault, Handle};
use tokio::sync::watch;

/// Time between two misfortunes, and for how many of these each lasts: two replicas of all are ill at a time.
const EVERY: Duration = Duration::from_millis(1_500);
const LASTS: usize = 2;

const FAULTS: [Fault; 13] = [
    Fault::Down,
    Fault::BreakAfter(5),
    Fault::Status { code: 503, retry_after: Some(Duration::from_secs(1)) },
    Fault::Silence,
    Fault::EngineDeathAfter(3),
    Fault::GarbageBody,
    Fault::StallAfter(5),
    Fault::CloseBeforeAnswer,
    Fault::Status { code: 500, retry_after: None },
    Fault::GarbageBytes,
    Fault::Status { code: 400, retry_after: None },
    Fault::SlowHealth(Duration::from_millis(1_500)),
    Fault::Status { code: 429, retry_after: Some(Duration::from_secs(1)) },
];

/// Brings one misfortune after another over `replicas` and undoes it, until it is stopped; all are well then.
pub(crate) async fn befall(
    replicas: Vec<Handle>,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<Vec<Handle>> {
    let count = replicas.len().max(1);
    for turn in 0_usize.. {
        let stop = stopped.wait_for(|it| *it);
        if tokio::time::timeout(EVERY, stop).await.is_ok() {
            break;
        }
        let well = turn.checked_sub(LASTS).and_then(|it| replicas.get(it % count));
        if let Some(replica) = well {
            replica.set_fault(Fault::None).await?;
        }
        if let (Some(replica), Some(fault)) =
            (replicas.get(turn % count), FAULTS.get(turn % FAULTS.len()))
        {
            replica.set_fault(*fault).await?;
        }
    }
    for replica in &replicas {
        replica.set_fault(Fault::None).await?;
    }
    Ok(replicas)
}
