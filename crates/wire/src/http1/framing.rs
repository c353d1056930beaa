//! Where a body's bytes are, and where it ends.

use super::BadAnswer;

/// Most bytes beside the data of all chunks together, sizes and line ends apart: extensions and trailers.
const OVERHEAD_BYTES_MAX: u16 = 16 << 10;

/// How much of a body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// All that comes before the connection closes.
    UntilClose,
    /// Nothing.
    Over,
}

/// Where in a chunk a body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    overhead: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before the first digit of a size.
    Begin,
    Size(u64),
    /// After a size, spaces.
    Space(u64),
    Extension(u64),
    /// Before the line feed behind a size.
    SizeEnd(u64),
    /// So many bytes of data are to come.
    Data(u64),
    /// Before the carriage return behind data, and the line feed.
    DataReturn,
    DataEnd,
    /// At the beginning of a line behind the last chunk.
    Trailer,
    TrailerLine,
    TrailerEnd,
    /// Before the last line feed of all.
    LastEnd,
    Over,
}

/// What the next bytes of a body are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// So many are none of its data.
    pub skipped: usize,
    /// So many behind those are.
    pub data: usize,
}

impl Framing {
    /// A body of so many bytes.
    #[must_use]
    pub const fn length(bytes: u64) -> Self {
        if bytes == 0 { Self::Over } else { Self::Length(bytes) }
    }

    /// A body in chunks, from its beginning.
    #[must_use]
    pub const fn chunked() -> Self {
        Self::Chunked(Chunks { at: At::Begin, overhead: 0 })
    }

    /// Says what `bytes`, the next ones that came, begin with. What is behind the piece is to be given again; behind a
    /// piece without data there is nothing of this body.
    ///
    /// # Errors
    ///
    /// [`BadAnswer`] when a chunk is not one.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Piece, BadAnswer> {
        match self {
            Self::Over => Ok(Piece::default()),
            Self::UntilClose => Ok(Piece { skipped: 0, data: bytes.len() }),
            Self::Length(left) => {
                let data = at_most(bytes.len(), left);
                *self = Self::length(*left);
                Ok(Piece { skipped: 0, data })
            }
            Self::Chunked(chunks) => {
                let piece = chunks.next(bytes)?;
                if chunks.at == At::Over {
                    *self = Self::Over;
                }
                Ok(piece)
            }
        }
    }
}

/// How many of `count` bytes are among the `left` ones, which are fewer then.
fn at_most(count: usize, left: &mut u64) -> usize {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(count);
    *left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
    taken
}

impl Chunks {
    fn next(&mut self, bytes: &[u8]) -> Result<Piece, BadAnswer> {
        for (skipped, byte) in bytes.iter().enumerate() {
            if let At::Data(mut left) = self.at {
                let data = at_most(bytes.len() - skipped, &mut left);
                self.at = if left == 0 { At::DataReturn } else { At::Data(left) };
                return Ok(Piece { skipped, data });
            }
            self.at = self.step(*byte)?;
            if self.at == At::Over {
                return Ok(Piece { skipped: skipped + 1, data: 0 });
            }
        }
        Ok(Piece { skipped: bytes.len(), data: 0 })
    }

    fn step(&mut self, byte: u8) -> Result<At, BadAnswer> {
        let bad = Err(BadAnswer::Chunk);
        Ok(match (self.at, byte) {
            (At::Begin, _) => At::Size(digit(byte)?),
            (At::Size(size) | At::Space(size), b' ' | b'\t') => self.beside(At::Space(size))?,
            (At::Size(size) | At::Space(size), b';') => At::Extension(size),
            (At::Size(size) | At::Space(size) | At::Extension(size), b'\r') => At::SizeEnd(size),
            (At::Size(size), _) => {
                At::Size(size.checked_mul(16).ok_or(BadAnswer::Chunk)? | digit(byte)?)
            }
            (At::Extension(_) | At::TrailerLine | At::Trailer, b'\n') => return bad,
            (At::Extension(size), _) => self.beside(At::Extension(size))?,
            (At::SizeEnd(0), b'\n') => At::Trailer,
            (At::SizeEnd(size), b'\n') => At::Data(size),
            (At::DataReturn, b'\r') => At::DataEnd,
            (At::DataEnd, b'\n') => At::Begin,
            (At::Trailer, b'\r') => At::LastEnd,
            (At::TrailerLine, b'\r') => At::TrailerEnd,
            (At::Trailer | At::TrailerLine, _) => self.beside(At::TrailerLine)?,
            (At::TrailerEnd, b'\n') => At::Trailer,
            (At::LastEnd, b'\n') => At::Over,
            (
                At::Space(_)
                | At::SizeEnd(_)
                | At::Data(_)
                | At::DataReturn
                | At::DataEnd
                | At::TrailerEnd
                | At::LastEnd
                | At::Over,
                _,
            ) => return bad,
        })
    }

    /// Counts a byte that is no data, and goes to `at`.
    fn beside(&mut self, at: At) -> Result<At, BadAnswer> {
        if OVERHEAD_BYTES_MAX <= self.overhead {
            return Err(BadAnswer::Overhead);
        }
        self.overhead += 1;
        Ok(at)
    }
}

fn digit(byte: u8) -> Result<u64, BadAnswer> {
    char::from(byte).to_digit(16).map(u64::from).ok_or(BadAnswer::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `bytes`, which come in pieces of `size`; the data, and what is left behind the end.
    fn read(
        mut framing: Framing,
        bytes: &[u8],
        size: usize,
    ) -> Result<(Vec<u8>, usize), BadAnswer> {
        let (mut data, mut behind) = (Vec::new(), 0);
        for part in bytes.chunks(size) {
            let mut part = part;
            while !part.is_empty() && framing != Framing::Over {
                let piece = framing.next(part)?;
                let (taken, rest) = part.split_at(piece.skipped + piece.data);
                data.extend(&taken[piece.skipped..]);
                assert!(piece != Piece::default(), "nothing is read of {part:?}");
                part = rest;
            }
            behind += part.len();
        }
        assert_eq!(framing, Framing::Over, "it ends");
        Ok((data, behind))
    }

    const CHUNKS: &[u8] =
        b"5\r\nhello\r\n1 ;a=b\r\n,\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\nx: y\r\nz:\r\n\r\nmore";

    #[test]
    fn chunks_are_read_however_they_are_cut() {
        for size in 1..=CHUNKS.len() {
            let (data, behind) = read(Framing::chunked(), CHUNKS, size).unwrap();
            assert_eq!(data, b"hello,0123456789", "{size}");
            assert_eq!(behind, 4, "{size}");
        }
    }

    #[test]
    fn a_length_is_what_is_read_and_no_more() {
        for size in 1..9 {
            let read = read(Framing::length(5), b"hello more", size).unwrap();
            assert_eq!(read, (b"hello".to_vec(), 5));
        }
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for text in [
            "\r\nhello",
            "g\r\n",
            "5\nhello\r\n",
            "5\r\r\nhello",
            " 5\r\nhello\r\n",
            "5 5\r\nhello\r\n",
            "-5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n",
            "10000000000000000\r\n",
            "0\r\nx: y\n\r\n",
            "0\r\n\rx",
        ] {
            let mut framing = Framing::chunked();
            let mut bytes = text.as_bytes();
            let error = loop {
                match framing.next(bytes) {
                    Err(error) => break error,
                    Ok(piece) => bytes = &bytes[piece.skipped + piece.data..],
                }
                assert!(!bytes.is_empty(), "{text:?} is taken");
            };
            assert_eq!(error, BadAnswer::Chunk, "{text:?}");
        }
    }

    #[test]
    fn what_is_said_beside_the_data_is_bounded() {
        let long = "x".repeat(usize::from(OVERHEAD_BYTES_MAX) + 1);
        for text in
            [format!("5;{long}"), format!("0\r\n{long}"), format!("5{}", long.replace('x', " "))]
        {
            assert_eq!(Framing::chunked().next(text.as_bytes()), Err(BadAnswer::Overhead));
        }
        let mut many = "1;x\r\na\r\n".repeat(usize::from(OVERHEAD_BYTES_MAX) + 1);
        many.push_str("0\r\n\r\n");
        assert_eq!(read(Framing::chunked(), many.as_bytes(), 4_096), Err(BadAnswer::Overhead));
    }
}
