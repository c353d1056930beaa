//! An endpoint that is asked; what its answers tell is tested beside the fit, in virtual time.

use calibration::probe::Sweep;
use emulator::EmulatorConfig;
use engine::Profile;
use tokio::net::TcpListener;

use super::*;

const EXTENT: Extent = Extent { prompt_max: Tokens(1024), concurrency_max: 8, output: Tokens(12) };

async fn endpoint() -> (emulator::Handle, ReplayOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let profile = Profile::named("llama-3-8b-h100").unwrap();
    let handle = emulator::spawn(EmulatorConfig::new("probed", profile), listener).unwrap();
    let target: Target = format!("http://{}", handle.address()).parse().unwrap();
    let options = ReplayOptions {
        targets: vec![target],
        model: "probed".to_owned(),
        endpoint: Endpoint::Completions,
        session_header: false,
        ..ReplayOptions::default()
    };
    (handle, options)
}

#[tokio::test]
async fn every_burst_is_answered_whole_and_in_order() {
    let (_handle, options) = endpoint().await;
    let answered = asked(&options, &EXTENT, 7, CancellationToken::new()).await.unwrap();
    assert_eq!(answered.len(), EXTENT.bursts(7).len());
    for (burst, replies) in &answered {
        assert_eq!(replies.len(), burst.questions.len());
        for (reply, question) in replies.iter().zip(&burst.questions) {
            assert_eq!(reply.output, question.output);
            assert!(question.prompt <= reply.input, "{reply:?} {question:?}");
            assert!(reply.sent_s <= reply.first_s && reply.first_s <= reply.last_s, "{reply:?}");
        }
    }
    let cached = |sweep| {
        let own = answered.iter().filter(move |(burst, _)| burst.sweep == sweep);
        own.flat_map(|(_, replies)| replies).filter_map(|it| it.cached)
    };
    assert!(cached(Sweep::Length).all(|it| it == Tokens::ZERO), "a new prompt is new");
    assert!(cached(Sweep::Repeat).all(|it| it >= Tokens(1000)), "a repeated one is found");
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_named() {
    let (handle, options) = endpoint().await;
    drop(handle);
    let unknown = ReplayOptions { model: "other".to_owned(), ..options };
    let stop = CancellationToken::new();
    let error = asked(&unknown, &EXTENT, 7, stop).await.unwrap_err().to_string();
    assert!(error.contains("the endpoint did not answer"), "{error}");
}
