//! What befell a router while it was measured, as it says itself at `GET /admin/goodput`.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;
use types::time::Timestamp;

use crate::{
    client::{client, with_causes},
    target::Target,
};

/// Longest wait for the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer that is read.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why nobody knows what befell a router.
#[derive(Debug, thiserror::Error)]
#[error(
    "{admin} does not tell its disruptions: {reason}; pass a router's admin address with --admin"
)]
pub struct Untold {
    admin: String,
    reason: String,
}

/// What a router says of its disruptions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Told {
    /// When it said so, in seconds since it started.
    now_s: f64,
    disruptions: Vec<Opened>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Opened {
    kind: String,
    from_s: f64,
    until_s: f64,
}

/// A disruption on the clock of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Befell {
    /// What it was.
    pub kind: String,
    /// When it began; at the run's start, where it began before.
    pub from: Timestamp,
    /// When it was over at the earliest: its window's end where somebody has closed it, else its start.
    pub ended: Timestamp,
}

/// What the router at `admin` says of its disruptions.
///
/// # Errors
/// An address that cannot be reached, or is no router's.
pub async fn read(admin: &Target) -> Result<Told, Untold> {
    let told = tokio::time::timeout(TIMEOUT, get(admin)).await;
    let told = told.unwrap_or_else(|_| Err("no answer within 10 s".to_owned()));
    told.map_err(|reason| Untold { admin: admin.to_string(), reason })
}

async fn get(admin: &Target) -> Result<Told, String> {
    let request = Request::get(admin.uri("/admin/goodput").unwrap_or_default());
    let request = request.body(Full::<Bytes>::default()).map_err(|it| it.to_string())?;
    let client = client(std::slice::from_ref(admin), None).map_err(|error| error.to_string())?;
    let response = client.request(request).await.map_err(|error| with_causes(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    if !status.is_success() {
        return Err(format!("status {status}"));
    }
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

impl Told {
    /// The disruptions of a run that began `ago`.
    #[must_use]
    pub fn during(&self, ago: Duration) -> Vec<Befell> {
        let start_s = self.now_s - ago.as_secs_f64();
        let at = |second: f64| {
            let second = Duration::try_from_secs_f64((second - start_s).max(0.0));
            Timestamp::from_elapsed(second.unwrap_or_default())
        };
        let befell = self.disruptions.iter().filter(|it| it.until_s > start_s);
        befell
            .map(|it| {
                let is_over = it.until_s < self.now_s;
                let ended = if is_over { it.until_s } else { it.from_s };
                Befell { kind: it.kind.clone(), from: at(it.from_s), ended: at(ended) }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disruptions_are_told_on_the_clock_of_the_run() {
        let told: Told = serde_json::from_str(
            r#"{"now_s": 100.0, "is_disrupted": true, "all": {}, "disruptions": [
                {"kind": "before", "from_s": 10.0, "until_s": 30.0},
                {"kind": "into", "from_s": 35.0, "until_s": 45.0},
                {"kind": "closed", "from_s": 60.0, "until_s": 70.0},
                {"kind": "open", "from_s": 80.0, "until_s": 380.0}]}"#,
        )
        .unwrap();
        let all = told.during(Duration::from_secs(60));
        let told: Vec<_> = all
            .iter()
            .map(|it| (it.kind.as_str(), it.from.elapsed().as_secs(), it.ended.elapsed().as_secs()))
            .collect();
        assert_eq!(told, [("into", 0, 5), ("closed", 20, 30), ("open", 40, 40)]);
    }
}
