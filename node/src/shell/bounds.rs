//! What a coordinator may ask for at once: no answer of ours ever exceeds a frame.

use quorate_protocol::record::{Key, Record, Value};

/// How many bytes of records one answer to `fetch` carries, the last one aside; the keys behind it
/// are not answered.
pub(super) const FETCH_BYTES_MAX: usize = 4 << 20;

/// What a record takes besides its value, at most, and what a key without one counts.
const RECORD_BYTES: usize = 64;

/// The records at `keys`, from the first on, as many as one answer carries.
pub(super) fn fetch<E>(
    keys: &[Key],
    get: impl Fn(&Key) -> Result<Option<Record>, E>,
) -> Result<Vec<Option<Record>>, E> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    for key in keys {
        if bytes >= FETCH_BYTES_MAX {
            break;
        }
        let record = get(key)?;
        let value = record.as_ref().and_then(|record| record.value.as_ref());
        bytes += RECORD_BYTES + value.map_or(0, Value::len);
        records.push(record);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use quorate_protocol::record::Digest;
    use quorate_protocol::rpc::replica::ROUND_KEYS_MAX;
    use quorate_protocol::transport::FRAME_BYTES_MAX;
    use quorate_protocol::version::Version;

    use super::*;

    #[test]
    fn no_answer_exceeds_a_frame() {
        let keys = vec![Key::from("k"); 1_000_000];
        let large = Record {
            version: Version::new(u64::MAX, u64::MAX),
            value: Some(Value::from(vec![0; 15 << 20])),
            expires: Some(u64::MAX),
        };
        let small = Record { value: Some(Value::from("v")), ..large.clone() };
        for record in [Some(large), Some(small), None] {
            let fetched = fetch(&keys, |_| Ok::<_, ()>(record.clone())).unwrap();
            assert!(!fetched.is_empty() && fetched.len() < keys.len());
            assert!(postcard::to_stdvec(&fetched).unwrap().len() < FRAME_BYTES_MAX);
        }
        let all = Digest { version: Version::new(u64::MAX, u64::MAX), checksum: u64::MAX };
        let answer = postcard::to_stdvec(&vec![all; ROUND_KEYS_MAX]).unwrap();
        assert!(answer.len() < FRAME_BYTES_MAX);
    }
}
