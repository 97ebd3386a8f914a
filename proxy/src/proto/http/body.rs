//! Where a body ends (RFC 9112 sections 6 and 7), for bytes that are passed on as they come.

use thiserror::Error;

use super::head::MAX_HEAD;
use super::headers::is_token_char;

/// The largest Content-Length and chunk. Receivers that count in signed numbers would take more
/// for less than nothing.
pub(super) const MAX_LENGTH: u64 = i64::MAX.unsigned_abs();

/// Hexadecimal digits of a chunk's size.
const MAX_DIGITS: u8 = 16;

/// Bytes of extensions in the line of one chunk.
const MAX_EXTENSION: usize = 4 * 1024;

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes; no body is one of none.
    Known(u64),
    /// By a chunk of no bytes.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// Finds the end of one body.
#[derive(Debug)]
pub struct BodyReader {
    length: BodyLength,
    place: Place,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Payload, so many bytes of it; never none.
    Payload(u64),
    /// Payload, whatever comes.
    Endless,
    /// A digit of a chunk's size, or what ends it.
    Size { size: u64, digits: u8 },
    /// White space before the extensions, so many bytes into them.
    Space { size: u64, bytes: usize },
    /// Extensions, so many bytes into them.
    Extension { size: u64, bytes: usize },
    /// The line feed behind size and extensions.
    SizeEnd { size: u64 },
    /// The carriage return behind a chunk's payload.
    ChunkReturn,
    /// The line feed behind a chunk's payload.
    ChunkEnd,
    /// The trailers, so many bytes into them.
    Trailer { at: InTrailer, bytes: usize },
    /// Not of this body.
    Done,
    /// Nothing that could be told.
    Broken(BadBody),
}

/// A place in the lines behind the last chunk.
#[derive(Clone, Copy, Debug)]
enum InTrailer {
    /// The beginning of a line: of a trailer, or of the empty one.
    Start,
    Name,
    Value,
    /// The line feed of a trailer.
    LineEnd,
    /// The line feed of the empty line.
    BodyEnd,
}

/// These bytes are no body that ends in one place alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadBody {
    /// No digits, too many, or too large a number.
    #[error("the size of a chunk is malformed")]
    ChunkSize,
    /// Longer than 4 KiB, or with control characters.
    #[error("the extensions of a chunk are malformed")]
    Extension,
    /// A line feed or a carriage return alone, or something else in their place.
    #[error("a line or a chunk does not end with CR LF")]
    LineEnd,
    /// No header lines, or longer than [`MAX_HEAD`].
    #[error("the trailers are malformed")]
    Trailer,
}

impl BodyReader {
    /// Waits for the first byte of a body.
    pub fn new(length: BodyLength) -> Self {
        let place = match length {
            BodyLength::Known(0) => Place::Done,
            BodyLength::Known(bytes) => Place::Payload(bytes),
            BodyLength::Chunked => Place::FIRST_DIGIT,
            BodyLength::UntilClose => Place::Endless,
        };
        Self { length, place }
    }

    /// Payload that comes next in one piece, bytes; without a limit where it ends with the connection.
    pub fn ahead(&self) -> u64 {
        match self.place {
            Place::Payload(left) => left,
            Place::Endless => u64::MAX,
            _ => 0,
        }
    }

    /// So many bytes of it have passed elsewhere, at most as many as were [`Self::ahead`].
    pub fn skip(&mut self, bytes: u64) {
        if let Place::Payload(left) = self.place {
            self.place = self.behind_payload(left.saturating_sub(bytes));
        }
    }

    /// How many of `bytes` belong to this body, with the lines between its chunks. Each piece of
    /// payload goes to `payload`, also those before an error, which is final.
    pub fn read(
        &mut self,
        bytes: &[u8],
        payload: &mut impl FnMut(&[u8]),
    ) -> Result<usize, BadBody> {
        let mut rest = bytes;
        loop {
            let taken = match self.place {
                Place::Done => break,
                Place::Broken(error) => return Err(error),
                Place::Endless => rest.len(),
                Place::Payload(left) => {
                    usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()))
                }
                _ => rest.len().min(1),
            };
            let Some((now, behind)) = rest.split_at_checked(taken) else { break };
            let Some(&first) = now.first() else { break };
            rest = behind;
            self.place = match self.place {
                Place::Endless => {
                    payload(now);
                    Place::Endless
                }
                Place::Payload(left) => {
                    payload(now);
                    self.behind_payload(left.saturating_sub(taken as u64))
                }
                place => place.behind(first).unwrap_or_else(Place::Broken),
            };
        }
        Ok(bytes.len() - rest.len())
    }

    /// True if the next byte is of another message.
    pub fn is_done(&self) -> bool {
        matches!(self.place, Place::Done)
    }

    /// As given.
    pub fn length(&self) -> BodyLength {
        self.length
    }

    /// True if the end of the connection is the end of the body. To any other body that is not
    /// done it is a loss.
    pub fn ends_with_the_connection(&self) -> bool {
        self.length == BodyLength::UntilClose
    }

    fn behind_payload(&self, left: u64) -> Place {
        match (left, self.length) {
            (0, BodyLength::Chunked) => Place::ChunkReturn,
            (0, _) => Place::Done,
            _ => Place::Payload(left),
        }
    }
}

impl Place {
    const FIRST_DIGIT: Self = Self::Size { size: 0, digits: 0 };

    /// The place behind `byte`, which is no payload (RFC 9112 section 7.1).
    fn behind(self, byte: u8) -> Result<Self, BadBody> {
        match (self, byte) {
            (Self::Size { size, digits }, _) => behind_size(size, digits, byte),
            // White space is allowed before extensions alone (RFC 9112 section 7.1.1).
            (Self::Space { size, bytes }, b' ' | b'\t') => extension(size, bytes, true),
            (Self::Space { size, bytes }, b';') => extension(size, bytes, false),
            (Self::Space { .. }, _) => Err(BadBody::ChunkSize),
            (Self::Extension { size, .. }, b'\r') => Ok(Self::SizeEnd { size }),
            (Self::Extension { .. }, b'\n') => Err(BadBody::LineEnd),
            (Self::Extension { size, bytes }, _) if is_text(byte) => extension(size, bytes, false),
            (Self::Extension { .. }, _) => Err(BadBody::Extension),
            (Self::SizeEnd { size: 0 }, b'\n') => {
                Ok(Self::Trailer { at: InTrailer::Start, bytes: 0 })
            }
            (Self::SizeEnd { size }, b'\n') => Ok(Self::Payload(size)),
            (Self::ChunkReturn, b'\r') => Ok(Self::ChunkEnd),
            (Self::ChunkEnd, b'\n') => Ok(Self::FIRST_DIGIT),
            (Self::SizeEnd { .. } | Self::ChunkReturn | Self::ChunkEnd, _) => Err(BadBody::LineEnd),
            (Self::Trailer { bytes: MAX_HEAD.., .. }, _) => Err(BadBody::Trailer),
            (Self::Trailer { at: InTrailer::BodyEnd, .. }, b'\n') => Ok(Self::Done),
            (Self::Trailer { at, bytes }, _) => {
                Ok(Self::Trailer { at: at.behind(byte)?, bytes: bytes + 1 })
            }
            (Self::Payload(_) | Self::Endless | Self::Done | Self::Broken(_), _) => Ok(self),
        }
    }
}

fn behind_size(size: u64, digits: u8, byte: u8) -> Result<Place, BadBody> {
    let digit = char::from(byte).to_digit(16);
    match (byte, digit) {
        (_, Some(digit)) if digits < MAX_DIGITS => {
            let size = size.checked_mul(16).and_then(|size| size.checked_add(digit.into()));
            let size = size.filter(|&size| size <= MAX_LENGTH).ok_or(BadBody::ChunkSize)?;
            Ok(Place::Size { size, digits: digits + 1 })
        }
        (b'\r', _) if digits > 0 => Ok(Place::SizeEnd { size }),
        (b'\n', _) if digits > 0 => Err(BadBody::LineEnd),
        (b' ' | b'\t', _) if digits > 0 => extension(size, 0, true),
        (b';', _) if digits > 0 => extension(size, 0, false),
        _ => Err(BadBody::ChunkSize),
    }
}

/// One byte more of extensions, or of the space before them.
fn extension(size: u64, bytes: usize, space: bool) -> Result<Place, BadBody> {
    let bytes = bytes + 1;
    match space {
        _ if bytes > MAX_EXTENSION => Err(BadBody::Extension),
        true => Ok(Place::Space { size, bytes }),
        false => Ok(Place::Extension { size, bytes }),
    }
}

impl InTrailer {
    /// Trailers go on as they are, so they must be header lines: a receiver that does not know
    /// them would take anything else for the next message.
    fn behind(self, byte: u8) -> Result<Self, BadBody> {
        match (self, byte) {
            (Self::Start, b'\r') => Ok(Self::BodyEnd),
            (Self::Start | Self::Name, _) if is_token_char(byte) => Ok(Self::Name),
            (Self::Name, b':') => Ok(Self::Value),
            (Self::Value, b'\r') => Ok(Self::LineEnd),
            (Self::Value, _) if is_text(byte) => Ok(Self::Value),
            (Self::LineEnd, b'\n') => Ok(Self::Start),
            (Self::LineEnd | Self::BodyEnd, _) | (_, b'\n') => Err(BadBody::LineEnd),
            _ => Err(BadBody::Trailer),
        }
    }
}

/// What values are made of (RFC 9110 section 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

#[cfg(test)]
mod tests;
