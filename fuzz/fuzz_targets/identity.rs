//! A node's identity file, as it is and with its checksum righted.
//!
//! What is taken is what a node writes, to the last byte but for line ends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_fuzz::{choose, mend};
use quorate_node::shell::identity::{parse, print};

fuzz_target!(|data: &[u8]| {
    let Some((mended, rest)) = choose(data) else { return };
    let mut text = String::from_utf8_lossy(rest).into_owned();
    if mended & 1 == 1 {
        text = mend::identity(&text);
    }
    let Ok((store, identity)) = parse(&text) else { return };
    let again = print(store, identity);
    assert_eq!(parse(&again), Ok((store, identity)));
    assert_eq!(again.trim_end_matches('\n'), text.trim_end_matches('\n'));
});
