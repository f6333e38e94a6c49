//! The rows of a node's state, its file `head`, and the lists of tables below it.
//!
//! What is taken is encoded again to the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_fuzz::{check_again, choose, mend};
use quorate_node::state::decode;
use quorate_protocol::record::{Key, Record};

/// A key of up to 255 bytes, and what is behind it.
fn key(bytes: &[u8]) -> Option<(Key, &[u8])> {
    let (length, rest) = choose(bytes)?;
    let (key, rest) = rest.split_at_checked(usize::from(length))?;
    Some((Key::from(key.to_vec()), rest))
}

/// The row with the checksum that its record has.
fn mended(key: &Key, row: &[u8]) -> Option<Vec<u8>> {
    let long = |at: usize| Some(u64::from_le_bytes(row.get(at..at + 8)?.try_into().ok()?));
    let version = quorate_protocol::version::Version::new(long(8)?, long(16)?);
    let flags = row.get(24)?;
    let expires = if flags & 2 == 0 { None } else { Some(long(25)?) };
    let value_at = if expires.is_some() { 33 } else { 25 };
    let value = (flags & 1 == 1).then(|| row[value_at..].to_vec().into());
    let record = Record { version, value, expires };
    let mut row = row.to_vec();
    row[..8].copy_from_slice(&record.checksum(key).to_le_bytes());
    Some(row)
}

fn check_record(key: &Key, row: &[u8]) {
    let Some(record) = decode::decode_record(key, row) else { return };
    assert_eq!(decode::encode_record(key, &record), row);
    let mut other = key.as_bytes().to_vec();
    other.push(b'x');
    assert_eq!(decode::decode_record(&Key::from(other), row), None, "of another key");
}

fn check_marks(row: &[u8]) {
    let Some(marks) = decode::decode_marks(row) else { return };
    let again = decode::encode_marks(&marks);
    assert_eq!(decode::decode_marks(&again), Some(marks));
    // Rows of before `forgotten` was kept are shorter.
    assert!(again == row || again.len() == row.len() + 8);
}

fn check_tokens(row: &[u8]) {
    let Some(tokens) = decode::decode_tokens(row) else { return };
    let again = decode::encode_tokens(&tokens);
    assert_eq!(decode::decode_tokens(&again), Some(tokens));
    check_again(&row[8..], &again[8..]);
    assert_eq!(decode::decode_tokens(&mend::row(&[&row[8..], &[0]].concat())), None, "a byte more");
}

fn check_head(bytes: &[u8]) {
    let Ok((identity, generation)) = decode::decode_head(bytes) else { return };
    let again = decode::encode_head(&identity, generation);
    assert_eq!(decode::decode_head(&again).expect("our own"), (identity, generation));
    check_again(&bytes[8..], &again[8..]);
    assert!(decode::decode_head(&mend::row(&[&bytes[8..], &[0]].concat())).is_err(), "a byte more");
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = choose(data) else { return };
    let sealed = || if choice & 0x80 == 0 { rest.to_vec() } else { mend::row(rest) };
    match choice & 0x7f {
        0 => {
            let Some((key, row)) = key(rest) else { return };
            check_record(&key, row);
            if let Some(row) = mended(&key, row) {
                check_record(&key, &row);
            }
        }
        1 => check_marks(&sealed()),
        2 => check_tokens(&sealed()),
        3 => check_head(&sealed()),
        4 => {
            if let Some(again) = decode::rename_tokens(rest) {
                assert_eq!(again[..], *rest);
            }
        }
        5 => {
            // Each that is named takes its bytes in the list.
            if let Some(tables) = decode::count_tables(rest) {
                assert!(tables <= rest.len());
            }
        }
        _ => {}
    }
});
