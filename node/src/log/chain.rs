//! Segment files as found, and which of them count.

use std::io;

use bytes::Bytes;
use quorate_protocol::ids::StoreId;

use super::files::{Files, LogFile};
use super::recover::{OpenError, Rot, Rotten, Segment, io_error};
use super::segment::{self, BadHeader, FileName, SegmentHeader};

/// A file with a segment's name.
pub(super) struct Found<File> {
    pub(super) number: u64,
    pub(super) name: String,
    file: File,
    bytes: u64,
    pub(super) header: Result<SegmentHeader, Rot>,
}

impl<File: LogFile> Found<File> {
    pub(super) fn open<F: Files<File = File>>(
        files: &F,
        number: u64,
        store: StoreId,
    ) -> Result<Self, OpenError> {
        let name = FileName::Segment(number).to_string();
        let failed = |source| io_error(&name, source);
        let file = files.open(&name).map_err(failed)?;
        let bytes = file.bytes().map_err(failed)?;
        let there = usize::try_from(bytes).unwrap_or(usize::MAX).min(segment::HEADER_BYTES);
        let mut header = vec![0; there];
        file.read_at(0, &mut header).map_err(failed)?;
        let header = match SegmentHeader::decode(&header) {
            Ok(header) => {
                check_identity(&name, number, store, &header)?;
                if header.bytes == bytes {
                    Ok(header)
                } else {
                    Err(Rot { file: name.clone(), offset: bytes, what: Rotten::Length })
                }
            }
            Err(BadHeader::Damaged) => {
                Err(Rot { file: name.clone(), offset: 0, what: Rotten::Header })
            }
            Err(BadHeader::Format(found)) => return Err(OpenError::Format { file: name, found }),
        };
        Ok(Self { number, name, file, bytes, header })
    }

    pub(super) fn read(&self) -> Result<Bytes, OpenError> {
        let failed = |source| io_error(&self.name, source);
        let bytes = usize::try_from(self.bytes).map_err(io::Error::other).map_err(failed)?;
        let mut content = vec![0; bytes];
        self.file.read_at(0, &mut content).map_err(failed)?;
        Ok(content.into())
    }

    pub(super) fn into_segment(self, store: StoreId, used: u64) -> Segment<File> {
        let salt = segment::salt(store, self.number);
        Segment { number: self.number, salt, file: self.file, bytes: self.bytes, used }
    }
}

fn check_identity(
    name: &str,
    number: u64,
    store: StoreId,
    header: &SegmentHeader,
) -> Result<(), OpenError> {
    let file = name.to_owned();
    if header.store != store {
        return Err(OpenError::ForeignStore { file, found: header.store, expected: store });
    }
    if header.number != number {
        let written = FileName::Segment(header.number).to_string();
        return Err(OpenError::Misnamed { file, written });
    }
    Ok(())
}

/// The segments that may count, oldest first, as places in the list of those found.
pub(super) struct Chain {
    pub(super) members: Vec<usize>,
    /// The header that ends it, if a bad one does.
    pub(super) rot: Option<Rot>,
}

impl Chain {
    /// Follows the headers back from the newest. A bad header in the way is rot: the chain is
    /// then what the newest segment *before* it leads to.
    pub(super) fn find<File>(
        found: &[Found<File>],
        others: &[FileName],
    ) -> Result<Self, OpenError> {
        let mut chain = Self { members: Vec::new(), rot: None };
        let mut next = found.len().checked_sub(1);
        let mut oldest = None;
        while let Some(at) = next {
            match &found[at].header {
                Ok(header) => {
                    chain.members.push(at);
                    oldest = Some(header);
                    next = found[..at].iter().position(|it| it.number == header.previous);
                }
                Err(rot) => {
                    chain.members.clear();
                    oldest = None;
                    chain.rot = Some(rot.clone());
                    next = at.checked_sub(1);
                }
            }
        }
        chain.members.reverse();
        chain.check_start(oldest, others)?;
        Ok(chain)
    }

    /// Segments are dropped oldest first, each durably before the next: where an older one
    /// is there and one between is not, nobody dropped it.
    fn check_start(
        &self,
        oldest: Option<&SegmentHeader>,
        others: &[FileName],
    ) -> Result<(), OpenError> {
        let missing = match oldest {
            Some(header) if self.members[0] > 0 && header.previous != 0 => header.previous,
            // Nothing of a first start is ever renamed, so there was a log here once.
            None if self.rot.is_none() => {
                let was = others.iter().filter(|name| !matches!(name, FileName::New(_)));
                match was.map(|name| name.number()).max() {
                    Some(number) => number.saturating_add(1),
                    None => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        Err(OpenError::Missing { file: FileName::Segment(missing).to_string() })
    }
}
