//! Batches of entries, as they come from a coordinator and from a log.
//!
//! A batch that is accepted is encoded again to the same bytes (or shorter ones, where a number was
//! longer than it need be), its entries follow `prev` one by one, and neither a byte less nor a byte
//! more in its last frame passes.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use quorate_fuzz::{check_again, choose, mend};
use quorate_protocol::entry::{FRAME_HEADER_BYTES, Frames, decode_batch};
use quorate_protocol::version::Version;

fuzz_target!(|data: &[u8]| {
    let Some((mended, rest)) = choose(data) else { return };
    let Some((prev, rest)) = rest.split_first_chunk::<16>() else { return };
    let number = |at: usize| u64::from_le_bytes(prev[at..at + 8].try_into().expect("eight"));
    let prev = Version::new(number(0), number(8));
    let mut batch = rest.to_vec();
    if mended & 1 == 1 {
        mend::batch(&mut batch);
    }
    let batch = Bytes::from(batch);
    let Ok(frames) = decode_batch(prev, &batch) else { return };

    let (mut before, mut end) = (prev, 0);
    let mut again = BytesMut::new();
    for frame in &frames {
        let version = frame.entry.version;
        assert!(version.index.follows(before.index) && version.epoch >= before.epoch);
        assert_eq!(frame.start, end);
        let from = again.len();
        frame.entry.encode(&mut again);
        check_again(
            &batch[frame.start + FRAME_HEADER_BYTES..frame.end],
            &again[from + FRAME_HEADER_BYTES..],
        );
        (before, end) = (version, frame.end);
    }
    assert_eq!(end, batch.len());
    let again = again.freeze();
    let second = decode_batch(prev, &again).expect("our own");
    assert!(second.iter().map(|frame| &frame.entry).eq(frames.iter().map(|frame| &frame.entry)));

    let Some(last) = frames.last() else { return };
    assert!(decode_batch(prev, &batch.slice(..batch.len() - 1)).is_err(), "a byte less");
    let mut longer = batch[last.start..last.end].to_vec();
    longer.push(0);
    let body = u32::try_from(longer.len() - FRAME_HEADER_BYTES).expect("inputs are short");
    longer[..4].copy_from_slice(&body.to_le_bytes());
    mend::batch(&mut longer);
    assert!(Frames::new(longer.into()).any(|frame| frame.is_err()), "a byte behind an entry");
});
