//! Right checksums around hostile bytes: what a person or a program could write who knows the
//! format, and what random changes would take for ever to find.

use xxhash_rust::xxh3::xxh3_64;

/// What stands before an entry's body: its length and its checksum.
const ENTRY_HEADER_BYTES: usize = 8;

/// Where a segment's groups begin.
const SEGMENT_HEADER_BYTES: usize = 4096;

/// Where the body of a segment's header begins.
const SEGMENT_BODY_AT: usize = 20;

/// What stands before a group's items.
const GROUP_HEADER_BYTES: usize = 32;

const GROUP_MAGIC: &[u8] = b"QGRP";

/// Rights the checksums of the entries' frames that stand one behind the other in `batch`.
pub fn batch(batch: &mut [u8]) {
    let mut rest = batch;
    while rest.len() >= ENTRY_HEADER_BYTES {
        let end = ENTRY_HEADER_BYTES.saturating_add(number(rest, 0));
        if end > rest.len() {
            return;
        }
        let (frame, behind) = rest.split_at_mut(end);
        let sum = crc32c::crc32c(&frame[ENTRY_HEADER_BYTES..]);
        frame[4..8].copy_from_slice(&sum.to_le_bytes());
        rest = behind;
    }
}

/// Rights a segment's header and its groups, for a segment of this store and number.
pub fn segment(file: &mut [u8], store: u128, segment: u64) {
    if file.len() < SEGMENT_HEADER_BYTES {
        return;
    }
    let (header, groups) = file.split_at_mut(SEGMENT_HEADER_BYTES);
    let end = SEGMENT_BODY_AT.saturating_add(number(header, 12)).min(header.len());
    let sum = crc32c::crc32c_append(
        crc32c::crc32c(&header[8..16]),
        &header[SEGMENT_BODY_AT.min(end)..end],
    );
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    let mut name = [0; 24];
    name[..16].copy_from_slice(&store.to_le_bytes());
    name[16..].copy_from_slice(&segment.to_le_bytes());
    self::groups(groups, xxh3_64(&name));
}

fn groups(groups: &mut [u8], salt: u64) {
    let mut rest = groups;
    while rest.len() >= GROUP_HEADER_BYTES && rest.starts_with(GROUP_MAGIC) {
        let batches_at = GROUP_HEADER_BYTES.saturating_add(number(rest, 24));
        let end = batches_at.saturating_add(number(rest, 28));
        if end > rest.len() {
            return;
        }
        let (group, behind) = rest.split_at_mut(end);
        batch(&mut group[batches_at..]);
        group[8..16].copy_from_slice(&salt.to_le_bytes());
        let sum = crc32c::crc32c(&group[8..]);
        group[4..8].copy_from_slice(&sum.to_le_bytes());
        rest = behind;
    }
}

/// `body` behind the checksum that rows of the state carry.
#[must_use]
pub fn row(body: &[u8]) -> Vec<u8> {
    [&xxh3_64(body).to_le_bytes()[..], body].concat()
}

/// The line with the checksum that a node's identity file carries, in place of its last word.
#[must_use]
pub fn identity(text: &str) -> String {
    let line = text.trim_end_matches('\n');
    let line = line.rsplit_once(' ').map_or(line, |(line, _)| line);
    format!("{line} {:08x}\n", crc32c::crc32c(line.as_bytes()))
}

/// Rights length and checksum of a server's state file.
pub fn server_state(file: &mut [u8]) {
    let Some((header, body)) = file.split_first_chunk_mut::<20>() else { return };
    let length = u32::try_from(body.len()).expect("inputs are short");
    header[12..16].copy_from_slice(&length.to_le_bytes());
    header[16..20].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
}

/// `payload` as one frame of the transport.
#[must_use]
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(1 + payload.len()).expect("inputs are short");
    [&length.to_le_bytes()[..], &[0], payload].concat()
}

fn number(bytes: &[u8], at: usize) -> usize {
    let four = bytes[at..at + 4].try_into().expect("four bytes");
    u32::from_le_bytes(four) as usize
}
