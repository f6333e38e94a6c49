//! The server's state file, as it is and with its length and checksum righted.
//!
//! A state that is taken is encoded again to the same bytes, and neither a byte less nor a byte more
//! passes.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use quorate_fuzz::{choose, mend};
use quorate_server::core::state::State;
use quorate_server::store;

fn decode(file: &[u8]) -> Option<State> {
    store::decode(Path::new("server.state"), file).ok()
}

fuzz_target!(|data: &[u8]| {
    let Some((mended, rest)) = choose(data) else { return };
    let mut file = rest.to_vec();
    if mended & 1 == 1 {
        mend::server_state(&mut file);
    }
    let Some(state) = decode(&file) else { return };
    let again = store::encode(&state);
    assert_eq!(decode(&again).as_ref(), Some(&state));
    // Members are put into order, each once; a file of our own has them so.
    assert!(again.len() <= file.len());
    let mut less = again[..again.len() - 1].to_vec();
    mend::server_state(&mut less);
    assert_eq!(decode(&less), None, "a byte less");
    file.push(0);
    assert_eq!(decode(&file), None, "its length is not what it says");
    mend::server_state(&mut file);
    assert_eq!(decode(&file), None, "a byte more");
});
