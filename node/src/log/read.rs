//! Reading entries back from segment files, checking each.

use bytes::{Bytes, BytesMut};
use quorate_protocol::entry::FRAME_HEADER_BYTES;
use quorate_protocol::ids::Index;

use super::files::LogFile;
use super::ledger::Extent;
use super::recover::Segment;
use super::segment::FileName;
use super::shape::Shape;
use super::{ReadError, frame};

/// How much is read from a file at once, at the least and at the most (a frame that is longer is
/// read whole).
const AHEAD_BYTES_MIN: usize = 4 << 10;
const AHEAD_BYTES_MAX: usize = 256 << 10;

/// Gathers frames from one extent after the other.
pub(super) struct Reader<'a> {
    shape: &'a Shape,
    /// The entries up to here are passed over.
    after: Index,
    bytes_max: usize,
    ahead_bytes: usize,
    frames: BytesMut,
    piece: Piece,
}

/// A piece of a segment, in memory.
#[derive(Default)]
struct Piece {
    /// The segment's number; zero is none.
    segment: u64,
    /// Where in the file it begins.
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(shape: &'a Shape, after: Index, bytes_max: usize) -> Self {
        let ahead_bytes = bytes_max.clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX);
        let (frames, piece) = (BytesMut::new(), Piece::default());
        Self { shape, after, bytes_max, ahead_bytes, frames, piece }
    }

    pub(super) fn finish(self) -> Bytes {
        self.frames.freeze()
    }

    /// Takes what is wanted of an extent's frames. `false`: there is enough.
    pub(super) fn read<File: LogFile>(
        &mut self,
        segment: &Segment<File>,
        extent: &Extent,
    ) -> Result<bool, ReadError> {
        let mut at = u64::from(extent.offset);
        let end = at + u64::from(extent.bytes);
        for index in (extent.first.0..=extent.last().0).map(Index) {
            let damaged = || ReadError::Damaged {
                index,
                file: FileName::Segment(segment.number).to_string(),
                offset: at,
            };
            let header = self.piece.get(segment, at, FRAME_HEADER_BYTES, self.ahead_bytes)?;
            let length = header.and_then(frame::length).ok_or_else(damaged)?;
            if at + length as u64 > end {
                return Err(damaged());
            }
            if index > self.after {
                let taken = self.frames.len();
                if taken > 0 && taken.saturating_add(length) > self.bytes_max {
                    return Ok(false);
                }
                let version = self.shape.version_at(index).expect("extents are within the shape");
                let frame = self.piece.get(segment, at, length, self.ahead_bytes)?;
                let whole = frame.filter(|frame| frame::is_whole(frame, version));
                self.frames.extend_from_slice(whole.ok_or_else(damaged)?);
            }
            at += length as u64;
        }
        Ok(self.frames.len() < self.bytes_max)
    }
}

impl Piece {
    /// These bytes of a segment; `None` where it has no such bytes. What is not in memory is
    /// read, with about `ahead` bytes of what follows.
    fn get<File: LogFile>(
        &mut self,
        segment: &Segment<File>,
        at: u64,
        bytes: usize,
        ahead: usize,
    ) -> Result<Option<&[u8]>, ReadError> {
        let end = at + bytes as u64;
        if end > segment.used {
            return Ok(None);
        }
        let here = self.segment == segment.number
            && at >= self.start
            && end <= self.start + self.bytes.len() as u64;
        if !here {
            let left = usize::try_from(segment.used - at).unwrap_or(usize::MAX);
            self.bytes.resize(bytes.max(ahead).min(left), 0);
            (self.segment, self.start) = (segment.number, at);
            segment.file.read_at(at, &mut self.bytes).map_err(|source| {
                let file = FileName::Segment(segment.number).to_string();
                ReadError::Io { file, source }
            })?;
        }
        let from = usize::try_from(at - self.start).expect("a piece fits into memory");
        Ok(self.bytes.get(from..from + bytes))
    }
}
