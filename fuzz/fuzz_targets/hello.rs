//! The first bytes that a dialer sends, in one piece or in two.
//!
//! A hello that is welcome says again what it said, belongs to the cluster and the store it should,
//! and no byte of it can be missing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_fuzz::choose;
use quorate_protocol::ids::{ClusterId, StoreId};
use quorate_protocol::transport::hello::HELLO_BYTES;
use quorate_protocol::transport::{Hello, Service};
use tokio::io::AsyncReadExt;
use tokio::runtime::{Builder, Runtime};

const CLUSTER: ClusterId = ClusterId(1);
const STORE: StoreId = StoreId(2);

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().build().expect("a runtime");
}

fn hear(bytes: &[u8], cut: usize) -> Option<Result<Hello, u8>> {
    let (begin, end) = bytes.split_at(cut.min(bytes.len()));
    let served = if cut % 2 == 0 { Service::OF_NODE } else { Service::OF_SERVER };
    let mut stream = begin.chain(end);
    RUNTIME.with(|runtime| runtime.block_on(Hello::hear(&mut stream, CLUSTER, STORE, served)))
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = choose(data) else { return };
    let heard = hear(bytes, usize::from(cut));
    assert_eq!(heard.is_some(), bytes.len() >= HELLO_BYTES && bytes.starts_with(b"QUORATE\n"));
    // How it came does not matter, but for what is served there.
    assert_eq!(heard, hear(bytes, usize::from(cut) + 2));
    match heard {
        Some(Ok(hello)) => {
            let mut said = hello.to_bytes();
            said[11] = bytes[11]; // a dialer's status says nothing
            assert_eq!(said[..], bytes[..HELLO_BYTES]);
            assert!([ClusterId(0), CLUSTER].contains(&hello.cluster));
            if hello.service.is_for_peers() {
                assert_eq!((hello.cluster, hello.store), (CLUSTER, STORE));
            }
            assert_eq!(hear(&bytes[..HELLO_BYTES - 1], usize::from(cut)), None);
        }
        Some(Err(status)) => assert!((1..8).contains(&status), "a refusal with a reason"),
        None => {}
    }
});
