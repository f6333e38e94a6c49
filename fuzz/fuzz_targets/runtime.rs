//! The runtime file of `quorate up`, `cluster.json`.
//!
//! What is taken is written again, and read as the same; and no process that it names is a group of
//! processes, or all of them.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the binary uses more of it")]
#[path = "../../src/up/entries.rs"]
mod entries;

#[allow(dead_code, reason = "the binary uses more of it")]
#[path = "../../src/up/process.rs"]
mod process;

use entries::Runtime;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(runtime) = Runtime::parse(text) else { return };
    let again = runtime.print();
    assert_eq!(Runtime::parse(&again).expect("our own"), runtime);
    for cut in [again.len() / 2, again.len() - 1] {
        if let Some(less) = again.get(..cut) {
            assert!(Runtime::parse(less).is_err(), "cut short");
        }
    }
    assert!(Runtime::parse(&format!("{again}x")).is_err(), "a byte more");
    let named = runtime.nodes.iter().map(|node| node.process);
    for process in named.chain([runtime.server.process]).chain(runtime.supervisor) {
        assert!(process.pid > 0 && i32::try_from(process.pid).is_ok() || !process.is_alive());
    }
});
