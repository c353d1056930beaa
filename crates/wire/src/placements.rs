//! What routers of one fleet tell each other of their requests, as frames of a byte stream.
//!
//! A frame is its length (4 bytes, what follows them), its kind (1 byte) and its fields, whole numbers with
//! the lowest byte first. The first frame of a stream is a [`Hello`], by which two routers find out whether
//! they name blocks alike; then frames come as things happen. Blocks are the keyed hashes of a prompt from
//! its first block on, 8 bytes each: each frame says all there is to know, so that one that got lost is
//! missed by none of those that follow. No frame holds anything of a prompt's text.
//!
//! Everything is bounded: a length that no frame has ends the stream before anything is kept for it.

use std::sync::Arc;

use types::{
    block::BlockHash,
    outcome::Outcome,
    quantity::Tokens,
    request::{ModelId, Request, RequestId, SessionKey, TenantId},
};

#[cfg(test)]
mod tests;

/// What a stream begins with, after the frame's length and kind.
const MAGIC: [u8; 8] = *b"sluice-p";

/// The version of the frames that are written and read.
pub const VERSION: u16 = 1;

/// Blocks that one frame names, at most: as many of a prompt as an index looks at.
pub const BLOCKS_MAX: usize = 8_192;

/// Longest URL of a replica, in bytes.
pub const URL_BYTES_MAX: usize = 512;

/// Longest frame, in bytes, its length not counted.
pub const FRAME_BYTES_MAX: usize = 1_024 + BLOCKS_MAX * 8;

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;

/// Sixteen bytes that are equal where two routers name blocks and conversations alike.
pub type Fingerprint = [u8; 16];

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Tells this run of a router from every other.
    pub run: u64,
    /// Of the key and of how prompts are cut.
    pub fingerprint: Fingerprint,
}

/// A request that was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The request. Its urgency and what it was promised are not told.
    pub request: Request,
    /// Base URL of the replica it went to.
    pub replica: String,
    /// Prompt tokens that the replica was believed to hold.
    pub cached: Tokens,
}

/// How a request left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which one.
    pub request: RequestId,
    /// Whether it was served.
    pub outcome: Outcome,
    /// Tokens of its answer, where known.
    pub output: Option<Tokens>,
    /// Prompt tokens that the replica found in its cache, where it says so.
    pub cached: Option<Tokens>,
}

/// One thing that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Who speaks; the first of a stream, and only that.
    Hello(Hello),
    /// A request was placed, perhaps after an attempt elsewhere.
    Placed(Placed),
    /// The first token of an answer came.
    FirstToken(RequestId),
    /// A request left.
    Ended(Ended),
    /// So many frames were left out because they were not taken in time.
    Lost(u64),
    /// How long tokens of a model's text are taken to be, in hundredths of a byte: blocks of text are cut
    /// by it.
    Ratio {
        /// The model.
        model: ModelId,
        /// Hundredths of a byte.
        centibytes: u32,
    },
    /// Nothing happened, and the stream goes on.
    Alive,
}

/// A stream is not one of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not begin as a stream of frames does.
    #[error("it does not begin as a router's placements do")]
    NotPlacements,
    /// It is of another version.
    #[error("its version is {0}, this router's is {VERSION}")]
    Version(u16),
    /// A frame is longer than any may be, or empty.
    #[error("a frame of {0} bytes")]
    Length(usize),
    /// A frame is of no known kind.
    #[error("a frame of kind {0}")]
    Kind(u8),
    /// A frame's fields do not fit its length, or hold what they can't.
    #[error("a frame of kind {0} whose fields are wrong")]
    Fields(u8),
}

const HELLO: u8 = 1;
const PLACED: u8 = 2;
const FIRST_TOKEN: u8 = 3;
const ENDED: u8 = 4;
const LOST: u8 = 5;
const RATIO: u8 = 6;
const ALIVE: u8 = 7;

/// What of an optional field is there, in a frame of [`PLACED`] and of [`ENDED`].
const HAS_SESSION: u8 = 1;
const HAS_OUTPUT_MAX: u8 = 2;
const IS_STREAMED: u8 = 4;
const HAS_OUTPUT: u8 = 1;
const HAS_CACHED: u8 = 2;

const fn outcome_number(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Finished => 0,
        Outcome::Failed => 1,
        Outcome::Cancelled => 2,
    }
}

const fn outcome_of(number: u8) -> Option<Outcome> {
    match number {
        0 => Some(Outcome::Finished),
        1 => Some(Outcome::Failed),
        2 => Some(Outcome::Cancelled),
        _ => None,
    }
}

/// Appends `frame` to `bytes`. Blocks beyond [`BLOCKS_MAX`] are left out; a placement on a replica whose URL
/// is longer than [`URL_BYTES_MAX`] is not written at all.
pub fn write(frame: &Frame, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.extend([0; LENGTH_BYTES]);
    match frame {
        Frame::Hello(Hello { run, fingerprint }) => {
            bytes.push(HELLO);
            bytes.extend(MAGIC);
            bytes.extend(VERSION.to_le_bytes());
            bytes.extend(run.to_le_bytes());
            bytes.extend(fingerprint);
        }
        Frame::Placed(placed) => {
            if URL_BYTES_MAX < placed.replica.len() {
                bytes.truncate(start);
                return;
            }
            write_placed(placed, bytes);
        }
        Frame::FirstToken(request) => {
            bytes.push(FIRST_TOKEN);
            bytes.extend(request.0.to_le_bytes());
        }
        Frame::Ended(Ended { request, outcome, output, cached }) => {
            bytes.push(ENDED);
            bytes.extend(request.0.to_le_bytes());
            bytes.push(outcome_number(*outcome));
            bytes.push(flag(HAS_OUTPUT, output.is_some()) | flag(HAS_CACHED, cached.is_some()));
            [output, cached].into_iter().flatten().for_each(|it| bytes.extend(it.0.to_le_bytes()));
        }
        Frame::Lost(frames) => {
            bytes.push(LOST);
            bytes.extend(frames.to_le_bytes());
        }
        Frame::Ratio { model, centibytes } => {
            bytes.push(RATIO);
            bytes.extend(model.0.to_le_bytes());
            bytes.extend(centibytes.to_le_bytes());
        }
        Frame::Alive => bytes.push(ALIVE),
    }
    let length = bytes.len().saturating_sub(start).saturating_sub(LENGTH_BYTES);
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = bytes.get_mut(start..start.saturating_add(LENGTH_BYTES)) {
        place.copy_from_slice(&length);
    }
}

const fn flag(flag: u8, is_set: bool) -> u8 {
    if is_set { flag } else { 0 }
}

fn write_placed(Placed { request, replica, cached }: &Placed, bytes: &mut Vec<u8>) {
    bytes.push(PLACED);
    bytes.extend(request.id.0.to_le_bytes());
    bytes.extend(request.model.0.to_le_bytes());
    bytes.extend(request.tenant.0.to_le_bytes());
    bytes.extend(request.prompt.0.to_le_bytes());
    bytes.extend(cached.0.to_le_bytes());
    bytes.push(
        flag(HAS_SESSION, request.session.is_some())
            | flag(HAS_OUTPUT_MAX, request.output_max.is_some())
            | flag(IS_STREAMED, request.streamed),
    );
    request.session.iter().for_each(|it| bytes.extend(it.0.to_le_bytes()));
    request.output_max.iter().for_each(|it| bytes.extend(it.0.to_le_bytes()));
    let length = u16::try_from(replica.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_le_bytes());
    bytes.extend(replica.as_bytes());
    // What is left of the frame are blocks.
    let blocks = request.blocks.get(..BLOCKS_MAX).unwrap_or(&request.blocks);
    bytes.reserve(blocks.len().saturating_mul(8));
    blocks.iter().for_each(|it| bytes.extend(it.0.to_le_bytes()));
}

/// Finds the frames of a stream whose bytes come in any number of pieces.
#[derive(Debug, Default)]
pub struct Frames {
    /// What has come of a frame that is not whole, and whole ones that were not taken.
    bytes: Vec<u8>,
    taken: usize,
    has_begun: bool,
}

impl Frames {
    /// Appends what came. Whole frames should be taken before more is appended: then no more than one frame
    /// and one piece is kept.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole frame; none until more has come.
    ///
    /// # Errors
    ///
    /// When the stream is not one of frames: nothing that follows can be read.
    pub fn take(&mut self) -> Result<Option<Frame>, Malformed> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length == 0 || FRAME_BYTES_MAX < length {
            let is_first = !self.has_begun;
            return Err(if is_first {
                Malformed::NotPlacements
            } else {
                Malformed::Length(length)
            });
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let frame = read(frame)?;
        if matches!(frame, Frame::Hello(_)) == self.has_begun {
            return Err(Malformed::NotPlacements);
        }
        self.has_begun = true;
        self.taken = self.taken.saturating_add(LENGTH_BYTES).saturating_add(length);
        Ok(Some(frame))
    }
}

/// Reads one frame without its length.
fn read(frame: &[u8]) -> Result<Frame, Malformed> {
    let Some((kind, fields)) = frame.split_first() else { return Err(Malformed::Length(0)) };
    let mut fields = Fields(fields);
    let frame = match *kind {
        HELLO => return read_hello(fields),
        PLACED => fields.placed().map(Frame::Placed),
        FIRST_TOKEN => fields.number().map(|it| Frame::FirstToken(RequestId(it))),
        ENDED => fields.ended().map(Frame::Ended),
        LOST => fields.number().map(Frame::Lost),
        RATIO => fields
            .number()
            .zip(fields.short())
            .map(|(model, centibytes)| Frame::Ratio { model: ModelId(model), centibytes }),
        ALIVE => Some(Frame::Alive),
        other => return Err(Malformed::Kind(other)),
    };
    frame.filter(|_| fields.0.is_empty()).ok_or(Malformed::Fields(*kind))
}

fn read_hello(mut fields: Fields<'_>) -> Result<Frame, Malformed> {
    if fields.next::<8>() != Some(MAGIC) {
        return Err(Malformed::NotPlacements);
    }
    let version = fields.next().map(u16::from_le_bytes).ok_or(Malformed::Fields(HELLO))?;
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    let hello = fields.number().zip(fields.next());
    let hello = hello.map(|(run, fingerprint)| Frame::Hello(Hello { run, fingerprint }));
    hello.filter(|_| fields.0.is_empty()).ok_or(Malformed::Fields(HELLO))
}

/// What is left of a frame's fields.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn byte(&mut self) -> Option<u8> {
        self.next::<1>().map(|[it]| it)
    }

    fn short(&mut self) -> Option<u32> {
        self.next().map(u32::from_le_bytes)
    }

    fn tokens(&mut self) -> Option<Tokens> {
        self.short().map(Tokens)
    }

    fn number(&mut self) -> Option<u64> {
        self.next().map(u64::from_le_bytes)
    }

    /// A count of tokens that is there if `flag` is among `flags`: twice an option.
    fn optional(&mut self, flags: u8, flag: u8) -> Option<Option<Tokens>> {
        if flags & flag == 0 { Some(None) } else { self.tokens().map(Some) }
    }

    fn placed(&mut self) -> Option<Placed> {
        let id = RequestId(self.number()?);
        let (model, tenant) = (ModelId(self.number()?), TenantId(self.number()?));
        let (prompt, cached) = (self.tokens()?, self.tokens()?);
        let flags = self.byte()?;
        let has_session = flags & HAS_SESSION != 0;
        let session = has_session.then(|| self.next().map(u128::from_le_bytes).map(SessionKey));
        let session = match session {
            Some(session) => Some(session?),
            None => None,
        };
        let output_max = self.optional(flags, HAS_OUTPUT_MAX)?;
        let length = usize::from(self.next().map(u16::from_le_bytes)?);
        let (url, blocks) = self.0.split_at_checked(length)?;
        let replica = std::str::from_utf8(url).ok().filter(|it| it.len() <= URL_BYTES_MAX)?;
        let (blocks, rest) = blocks.as_chunks::<8>();
        self.0 = rest;
        if BLOCKS_MAX < blocks.len() {
            return None;
        }
        let blocks: Arc<[BlockHash]> =
            blocks.iter().map(|it| BlockHash(u64::from_le_bytes(*it))).collect();
        let request = Request {
            session,
            tenant,
            output_max,
            streamed: flags & IS_STREAMED != 0,
            ..Request::new(id, model, prompt, blocks)
        };
        Some(Placed { request, replica: replica.to_owned(), cached })
    }

    fn ended(&mut self) -> Option<Ended> {
        let request = RequestId(self.number()?);
        let outcome = outcome_of(self.byte()?)?;
        let flags = self.byte()?;
        let output = self.optional(flags, HAS_OUTPUT)?;
        let cached = self.optional(flags, HAS_CACHED)?;
        Some(Ended { request, outcome, output, cached })
    }
}
