//! The text of a node's identity file, `DIR/node`.
//!
//! ```text
//! quorate-node-1 STORE CLUSTER NODE CRC32C     all but NODE in hexadecimal; "- -" before it has one
//! ```
//!
//! Public for `fuzz/` alone, which feeds it hostile bytes.

use quorate_protocol::ids::{ClusterId, NodeId, StoreId};

/// The format of the directory. Another one is refused, not guessed at.
const FORMAT: &str = "quorate-node-1";

/// The file of a node of this store, and of this number in this cluster once it has one.
#[must_use]
pub fn print(store: StoreId, identity: Option<(ClusterId, NodeId)>) -> String {
    let line = match identity {
        Some((cluster, node)) => format!("{FORMAT} {store} {cluster} {}", node.0),
        None => format!("{FORMAT} {store} - -"),
    };
    let checksum = crc32c::crc32c(line.as_bytes());
    format!("{line} {checksum:08x}\n")
}

/// What the file says.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<(StoreId, Option<(ClusterId, NodeId)>), String> {
    let line = text.trim_end_matches('\n');
    let (rest, checksum) = line.rsplit_once(' ').ok_or("it is empty or cut short")?;
    if rest.split(' ').next() != Some(FORMAT) {
        return Err(format!("it does not begin with {FORMAT}"));
    }
    if checksum != format!("{:08x}", crc32c::crc32c(rest.as_bytes())) {
        return Err("its checksum is wrong".to_owned());
    }
    let fields: Vec<_> = rest.split(' ').collect();
    let [_, store, cluster, node] = fields[..] else {
        return Err("it has too few or too many fields".to_owned());
    };
    let store = store.parse().map_err(|_| "its store id is no number")?;
    let identity = match (cluster, node) {
        ("-", "-") => None,
        (cluster, node) => Some((
            cluster.parse().map_err(|_| "its cluster id is no number")?,
            node.parse().map_err(|_| "its node id is no number")?,
        )),
    };
    if print(store, identity).trim_end_matches('\n') != line {
        return Err("its numbers are not written as a node writes them".to_owned());
    }
    Ok((store, identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(line: &str) -> String {
        format!("{line} {:08x}\n", crc32c::crc32c(line.as_bytes()))
    }

    #[test]
    fn what_no_node_writes_is_refused_though_its_checksum_is_right() {
        let (store, identity) = (StoreId(7), Some((ClusterId(9), NodeId(3))));
        let good = print(store, identity);
        assert_eq!(parse(&good), Ok((store, identity)));
        let line = good.trim_end().rsplit_once(' ').unwrap().0;
        assert_eq!(checked(line), good);
        let [of_ten, of_name, plus] = [("node-1 ", "node-10 "), (" 3", " n3"), (" 3", " +3")]
            .map(|(a, b)| line.replace(a, b));
        let upper = line.replace("9 3", "F 3");
        for other in [of_ten, of_name, plus, upper, format!("{line} 4")] {
            assert_ne!(other, line);
            assert!(parse(&checked(&other)).is_err(), "{other}");
        }
        for other in ["", "\n", " ", "quorate-node-1"] {
            assert!(parse(other).is_err(), "{other:?}");
        }
    }
}
