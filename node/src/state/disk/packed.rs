//! Dedup rows, packed.
//!
//! A group has a row for each of its requests, some hundred thousand under load, and each is written
//! again by every compaction until it leaves the window. As they are, they take 24 bytes
//! each; but few clients make many requests, each client counts its own, and entries follow one
//! another. Told as differences that is five bytes.
//!
//! ```text
//! 0 | clients, in the order in which they first come
//!   | of each row: which client | how much its count rose | how much epoch and index rose | answer
//! ```
//!
//! All numbers are postcard's. Before rows were packed they began with their number, which is never
//! zero: those are still read.

use std::collections::HashMap;

use quorate_protocol::entry::{Answer, TokenId};
use quorate_protocol::exact;
use quorate_protocol::ids::{ClientId, Epoch, Index, RequestNumber};
use quorate_protocol::rpc::bulk::TokenRow;
use quorate_protocol::version::Version;
use serde::{Deserialize, Serialize};

/// What packed rows begin with.
const PACKED: u8 = 0;

#[derive(Default, Serialize, Deserialize)]
struct Packed {
    clients: Vec<ClientId>,
    rows: Vec<PackedRow>,
}

/// Differences, which wrap: rows may come in any order.
#[derive(Serialize, Deserialize)]
struct PackedRow {
    /// Where its client is among `clients`.
    client: u32,
    /// To the request of the client's row before this one; to zero where it is the first.
    request: u64,
    /// To the row before.
    epoch: u64,
    index: u64,
    answer: Answer,
}

/// Rows as bytes.
pub(super) fn encode(rows: &[TokenRow]) -> Vec<u8> {
    let mut packed = Packed { clients: Vec::new(), rows: Vec::with_capacity(rows.len()) };
    // Where each client is, and its last request.
    let mut known: HashMap<ClientId, (u32, u64)> = HashMap::new();
    let mut before = Version::ZERO;
    for TokenRow { token, version, answer } in rows {
        let (client, last) = known.entry(token.client).or_insert_with(|| {
            packed.clients.push(token.client);
            let at = u32::try_from(packed.clients.len() - 1).expect("a group is in memory");
            (at, 0)
        });
        packed.rows.push(PackedRow {
            client: *client,
            request: token.request.0.wrapping_sub(*last),
            epoch: version.epoch.0.wrapping_sub(before.epoch.0),
            index: version.index.0.wrapping_sub(before.index.0),
            answer: *answer,
        });
        *last = token.request.0;
        before = *version;
    }
    let body = postcard::to_extend(&packed, vec![PACKED]);
    body.expect("encoding into memory cannot fail")
}

/// Rows from their bytes; `None` when they are not what was written.
pub(super) fn decode(body: &[u8]) -> Option<Vec<TokenRow>> {
    let Some((&PACKED, rest)) = body.split_first() else { return exact::decode(body) };
    let packed: Packed = exact::decode(rest)?;
    let mut clients: Vec<_> = packed.clients.into_iter().map(|client| (client, 0u64)).collect();
    let mut before = Version::ZERO;
    let mut rows = Vec::with_capacity(packed.rows.len());
    for row in packed.rows {
        let (client, last) = clients.get_mut(usize::try_from(row.client).ok()?)?;
        *last = last.wrapping_add(row.request);
        before = Version {
            epoch: Epoch(before.epoch.0.wrapping_add(row.epoch)),
            index: Index(before.index.0.wrapping_add(row.index)),
        };
        let token = TokenId { client: *client, request: RequestNumber(*last) };
        rows.push(TokenRow { token, version: before, answer: row.answer });
    }
    // Clients that no row names, or in another order, are not what was written either.
    (encode(&rows) == body).then_some(rows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(client: u128, request: u64, version: Version) -> TokenRow {
        let token = TokenId { client: ClientId(client), request: RequestNumber(request) };
        TokenRow { token, version, answer: Answer::Written }
    }

    proptest! {
        #[test]
        fn rows_come_back(
            rows in prop::collection::vec((0u128..4, any::<u64>(), any::<u64>(), any::<u64>()), 0..40),
        ) {
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(client, request, epoch, index)| row(client, request, Version::new(epoch, index)))
                .collect();
            prop_assert_eq!(decode(&encode(&rows)), Some(rows));
        }
    }

    #[test]
    fn requests_of_few_clients_take_five_bytes_each() {
        let of =
            |n: u64| row(u128::MAX - u128::from(n % 64), 500 + n / 64, Version::new(3, 9_000 + n));
        let rows: Vec<_> = (0..10_000).map(of).collect();
        assert!(encode(&rows).len() < 10_000 * 5 + 64 * 24, "{}", encode(&rows).len());
    }

    #[test]
    fn rows_from_before_they_were_packed_are_read() {
        let rows = vec![row(7, 1, Version::new(3, 9)), row(8, 5, Version::new(3, 10))];
        assert_eq!(decode(&postcard::to_stdvec(&rows).unwrap()), Some(rows));
    }

    #[test]
    fn what_was_not_written_so_is_damage() {
        let clients = vec![ClientId(7), ClientId(8)];
        let of =
            |client| PackedRow { client, request: 1, epoch: 3, index: 9, answer: Answer::Written };
        let decoded = |packed: &Packed| decode(&postcard::to_extend(packed, vec![PACKED]).unwrap());
        let one_each = Packed { clients: clients.clone(), rows: vec![of(0), of(1)] };
        assert_eq!(decoded(&one_each).map(|rows| rows.len()), Some(2));
        for rows in [vec![of(0)], vec![of(1), of(0)], vec![of(0), of(1), of(2)]] {
            assert_eq!(decoded(&Packed { clients: clients.clone(), rows }), None);
        }
        let longer = [&encode(&[row(7, 1, Version::new(3, 9))])[..], &[0]].concat();
        assert_eq!(decode(&longer), None);
        assert_eq!(decode(&[]), None);
    }
}
