//! Changes of settings as they are typed, one a line: they reach the server as text.
//!
//! What is refused changes nothing; what is taken reads back as what it is, keeps the rules, and is
//! no change a second time.

#![no_main]

use libfuzzer_sys::fuzz_target;
use quorate_protocol::record::{Key, Value};
use quorate_protocol::settings::{Patterns, Settings};

fuzz_target!(|text: &str| {
    let mut settings = Settings::default();
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')).take(4) {
        let before = settings.clone();
        if settings.set(name, value).is_err() {
            assert_eq!(settings, before, "what is refused changes nothing");
            continue;
        }
        let read = settings.get(name).expect("there is such a setting");
        let mut again = settings.clone();
        again.set(name, &read).expect("what it reads as can be set");
        assert_eq!(again, settings, "{name} reads as {read}");
        let patterns = Patterns::compile(&settings).expect("checked when it was set");
        let _ = patterns.check_key(&Key::from(text));
        let _ = patterns.check_value(&Value::from(text));
    }
    let sent = postcard::to_stdvec(&settings).expect("into memory");
    assert_eq!(postcard::from_bytes::<Settings>(&sent).expect("our own"), settings);
});
