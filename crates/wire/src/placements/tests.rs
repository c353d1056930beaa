//! Frames read back, in any pieces; what is none is refused, whatever it is.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

const HELLO_FRAME: Frame = Frame::Hello(Hello { run: 7, fingerprint: [3; 16] });

fn frame() -> impl Strategy<Value = Frame> {
    let tokens = || any::<u32>().prop_map(Tokens);
    let id = || any::<u64>().prop_map(RequestId);
    let outcome = select(vec![Outcome::Finished, Outcome::Failed, Outcome::Cancelled]);
    let request = (
        (id(), any::<u64>(), any::<u64>(), tokens()),
        option::of(any::<u128>()),
        option::of(tokens()),
        any::<bool>(),
        vec(any::<u64>(), 0..20),
    );
    let request =
        request.prop_map(|((id, model, tenant, prompt), session, most, streamed, blocks)| {
            let blocks = blocks.into_iter().map(BlockHash).collect();
            Request {
                session: session.map(SessionKey),
                tenant: TenantId(tenant),
                output_max: most,
                streamed,
                ..Request::new(id, ModelId(model), prompt, blocks)
            }
        });
    prop_oneof![
        4 => (request, "[a-z]{0,40}", tokens()).prop_map(|(request, replica, cached)| {
            Frame::Placed(Placed { request, replica, cached })
        }),
        1 => id().prop_map(Frame::FirstToken),
        2 => (id(), outcome, option::of(tokens()), option::of(tokens())).prop_map(
            |(request, outcome, output, cached)| {
                Frame::Ended(Ended { request, outcome, output, cached })
            }
        ),
        1 => any::<u64>().prop_map(Frame::Lost),
        1 => (any::<u64>(), any::<u32>()).prop_map(|(model, centibytes)| Frame::Ratio {
            model: ModelId(model),
            centibytes,
        }),
        1 => Just(Frame::Alive),
    ]
}

fn written(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|it| write(it, &mut bytes));
    bytes
}

fn read_all(bytes: &[u8]) -> Result<Vec<Frame>, Malformed> {
    let mut frames = Frames::default();
    frames.push(bytes);
    std::iter::from_fn(|| frames.take().transpose()).collect()
}

proptest! {
    #[test]
    fn what_is_written_reads_back_in_any_pieces(
        frames in vec(frame(), 0..8),
        pieces in vec(1..40_usize, 1..20),
    ) {
        let mut all = vec![HELLO_FRAME];
        all.extend(frames);
        let bytes = written(&all);
        let (mut reader, mut read, mut rest) = (Frames::default(), Vec::new(), bytes.as_slice());
        for length in pieces.iter().cycle() {
            let (piece, after) = rest.split_at((*length).min(rest.len()));
            reader.push(piece);
            while let Some(frame) = reader.take().unwrap() {
                read.push(frame);
            }
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read, all);
    }

    /// Whatever comes, nothing panics and nothing is kept beyond a frame and a piece.
    #[test]
    fn noise_is_refused_or_waited_for(noise in vec(any::<u8>(), 0..300), flip in any::<usize>()) {
        let _ = read_all(&noise);
        let mut bytes = written(&[HELLO_FRAME, Frame::Lost(1), Frame::Alive]);
        let at = flip % bytes.len();
        bytes[at] ^= noise.first().copied().unwrap_or(1);
        let _ = read_all(&bytes);
    }
}

#[test]
fn a_stream_begins_with_who_speaks_and_says_it_once() {
    assert_eq!(read_all(&written(&[Frame::Alive])), Err(Malformed::NotPlacements));
    assert_eq!(read_all(&written(&[HELLO_FRAME, HELLO_FRAME])), Err(Malformed::NotPlacements));
    assert_eq!(read_all(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Malformed::NotPlacements));
}

#[test]
fn another_version_is_named() {
    let mut bytes = written(&[HELLO_FRAME]);
    bytes[13] = 9;
    assert_eq!(read_all(&bytes), Err(Malformed::Version(9)));
}

#[test]
fn lengths_that_no_frame_has_are_refused_before_anything_is_kept() {
    let hello = written(&[HELLO_FRAME]);
    let after = |length: u32| {
        let bytes = [hello.as_slice(), &length.to_le_bytes()].concat();
        read_all(&bytes)
    };
    let longest = u32::try_from(FRAME_BYTES_MAX).unwrap();
    assert_eq!(after(0), Err(Malformed::Length(0)));
    assert_eq!(after(longest + 1), Err(Malformed::Length(FRAME_BYTES_MAX + 1)));
    assert_eq!(after(longest).unwrap(), [HELLO_FRAME]);
}

#[test]
fn fields_that_do_not_fit_are_refused() {
    let hello = written(&[HELLO_FRAME]);
    let after = |frame: &[u8]| {
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        read_all(&[hello.as_slice(), &length, frame].concat()).unwrap_err()
    };
    assert_eq!(after(&[99]), Malformed::Kind(99));
    assert_eq!(after(&[FIRST_TOKEN, 1, 2]), Malformed::Fields(FIRST_TOKEN));
    assert_eq!(after(&[ALIVE, 0]), Malformed::Fields(ALIVE));
    let ended = [&[ENDED][..], &[0; 8], &[7, 0]].concat();
    assert_eq!(after(&ended), Malformed::Fields(ENDED), "there is no such outcome");
    let placed = |url_bytes: u16, url: &[u8]| {
        [&[PLACED][..], &[0; 32], &[0], &url_bytes.to_le_bytes(), url].concat()
    };
    assert_eq!(after(&placed(9, b"short")), Malformed::Fields(PLACED));
    assert_eq!(after(&placed(2, b"\xff\xfe")), Malformed::Fields(PLACED), "not UTF-8");
    assert_eq!(after(&placed(0, b"half")), Malformed::Fields(PLACED), "half a block");
    let long = vec![b'a'; URL_BYTES_MAX + 1];
    let length = u16::try_from(long.len()).unwrap();
    assert_eq!(after(&placed(length, &long)), Malformed::Fields(PLACED));
}

#[test]
fn a_prompt_without_end_is_told_as_far_as_an_index_looks() {
    let blocks: Arc<[BlockHash]> = (0..10_000).map(BlockHash).collect();
    let request = Request::new(RequestId(1), ModelId(1), Tokens(640_000), blocks);
    let replica = "a".repeat(URL_BYTES_MAX);
    let placed = Frame::Placed(Placed { request, replica, cached: Tokens(0) });
    let bytes = written(&[HELLO_FRAME, placed]);
    let Some(Frame::Placed(read)) = read_all(&bytes).unwrap().pop() else { panic!("no placement") };
    assert_eq!(read.request.blocks.len(), BLOCKS_MAX);
    let nowhere = Placed { replica: "a".repeat(URL_BYTES_MAX + 1), ..read };
    assert!(written(&[Frame::Placed(nowhere)]).is_empty());
}
