//! When a program is told to end.

use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Completes at the first SIGTERM or SIGINT; a second one ends the process at once.
pub(crate) async fn requested() {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals can't be caught; end the process with SIGKILL");
        return std::future::pending().await;
    };
    either(&mut term, &mut int).await;
    tokio::spawn(async move {
        either(&mut term, &mut int).await;
        tracing::warn!("ending at once");
        process::exit(1);
    });
}

async fn either(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Completes when the process is told to read its configuration again (SIGHUP).
pub(crate) async fn hang_up() {
    match signal(SignalKind::hangup()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(error) => {
            tracing::warn!(%error, "cannot listen for SIGHUP");
            std::future::pending::<()>().await;
        }
    }
}
