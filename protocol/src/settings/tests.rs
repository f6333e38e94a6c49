//! Tables of what may be set and what may be stored.

use super::*;
use crate::record::{Key, Value};

/// Sets `name` to `value` in the defaults; gives back how it prints, or the error.
fn set(name: &str, value: &str) -> Result<String, String> {
    let mut settings = Settings::default();
    settings.set(name, value).map_err(|error| error.to_string())?;
    Ok(settings.get(name).unwrap())
}

#[test]
fn what_may_be_set() {
    let table = [
        ("heartbeat", "50ms", "50ms"),
        ("heartbeat", " 150 ms ", "150ms"),
        ("suspect_after", "1s", "1s"),
        ("suspect_after", "750ms", "750ms"),
        ("stop_grace", "2m", "2m"),
        ("stop_grace", "0ms", "0ms"),
        ("stop_grace", "60s", "1m"),
        ("tombstone_retention", "24h", "24h"),
        ("reconnect_attempts", "3", "3"),
        ("key_pattern", "", ""),
        ("key_pattern", "[a-z]+", "[a-z]+"),
        ("value_pattern", "a|b", "a|b"),
        ("key_bytes_max", "100B", "100B"),
        ("value_bytes_max", "15MiB", "15MiB"),
        ("value_bytes_max", "1024B", "1KiB"),
        ("divergence", "delete", "delete"),
        ("dedup_window", "4096", "4096"),
        ("log_bytes_max", "2GiB", "2GiB"),
    ];
    for (name, value, printed) in table {
        assert_eq!(set(name, value).as_deref(), Ok(printed), "{name} = {value}");
    }
}

#[test]
fn what_may_not_be_set_and_what_is_said() {
    let table = [
        ("heartbeats", "1s", "there is no setting 'heartbeats'; the settings are heartbeat, "),
        ("heartbeat", "100", "heartbeat cannot be '100': write a time from 10ms to 10s, with a"),
        ("heartbeat", "+5ms", "heartbeat cannot be '+5ms': write a time"),
        ("heartbeat", "-5ms", "heartbeat cannot be '-5ms': write a time"),
        ("heartbeat", "", "heartbeat cannot be '': write a time"),
        ("heartbeat", "99999999999999999999s", "heartbeat cannot be '99999999999999999999s'"),
        ("heartbeat", "18446744073709551615h", "heartbeat cannot be '18446744073709551615h'"),
        ("heartbeat", "1ms", "heartbeat cannot be '1ms': write a time from 10ms"),
        ("heartbeat", "11s", "heartbeat cannot be '11s': write a time from 10ms to 10s"),
        ("heartbeat", "200ms", "heartbeat cannot be 200ms: suspect_after (500ms) must be at"),
        ("suspect_after", "299ms", "suspect_after cannot be 299ms: suspect_after (299ms)"),
        ("suspect_after", "10s", "suspect_after cannot be 10s: activation_timeout must be at"),
        ("voting_window", "150ms", "voting_window cannot be 150ms: voting_window must be at"),
        ("activation_timeout", "400ms", "activation_timeout cannot be 400ms: activation_timeout"),
        ("gone_after", "900ms", "gone_after cannot be 900ms: resign_after and gone_after"),
        ("reconnect_attempts", "0", "reconnect_attempts cannot be '0': write a whole number from"),
        ("key_pattern", "(", "key_pattern cannot be '(': it is no regular expression that can"),
        ("key_pattern", "a)(b", "key_pattern cannot be 'a)(b': it is no regular expression"),
        ("key_pattern", r"(\w{99}){99}{99}", r"key_pattern cannot be '(\w{99}){99}{99}': it is no"),
        ("key_bytes_max", "0B", "key_bytes_max cannot be '0B': write a size from 1B to"),
        ("key_bytes_max", "1MiB", "key_bytes_max cannot be '1MiB': write a size from 1B to"),
        ("value_bytes_max", "16MiB", "value_bytes_max cannot be '16MiB': write a size from 1B"),
        ("value_bytes_max", "5GiB", "value_bytes_max cannot be '5GiB': write a size from 1B"),
        ("divergence", "lose", "divergence cannot be 'lose': write keep or delete"),
        ("dedup_window", "10", "dedup_window cannot be '10': write a whole number from 1024"),
        ("log_tail_bytes", "1GiB", "log_tail_bytes cannot be 1GiB: log_bytes_max must be at"),
        ("log_bytes_max", "100MiB", "log_bytes_max cannot be 100MiB: log_bytes_max must be at"),
    ];
    for (name, value, start) in table {
        let error = set(name, value).unwrap_err();
        assert!(error.starts_with(start), "{name} = {value}: {error}");
    }
    let long = "a".repeat(2_000);
    assert!(set("key_pattern", &long).unwrap_err().ends_with("of 1024 bytes at the most"));
}

#[test]
fn a_change_raises_the_version_and_an_error_or_a_repetition_does_not() {
    let mut settings = Settings::default();
    let before = settings.clone();
    settings.set("heartbeat", "1h").unwrap_err();
    settings.set("heartbeat", "100ms").unwrap();
    assert_eq!(settings, before);
    settings.set("heartbeat", "90ms").unwrap();
    assert_eq!(settings.version, before.version + 1);
}

#[test]
fn defaults_pass_their_own_checks_and_print_as_they_are_typed() {
    for preset in [Settings::default(), Settings::alphanumeric()] {
        for (name, value) in preset.iter() {
            let mut copy = preset.clone();
            copy.set(name, &value).unwrap();
            assert_eq!(copy, preset, "{name} = {value}");
        }
        assert!(preset.rules().iter().all(|(holds, _)| *holds));
    }
}

#[test]
fn keys_and_values_by_default() {
    let patterns = Patterns::compile(&Settings::default()).unwrap();
    for good in ["a", "a key with spaces", "Ключ/键", "a-b_c.d:e", "\u{e9}"] {
        assert_eq!(patterns.check_key(&Key::from(good)), Ok(()), "{good}");
    }
    let long = "k".repeat(1025);
    let table: [(&[u8], &str); 7] = [
        (b"", "it is empty; a key has at least one byte"),
        (b"a\nb", r"byte 1 ('\n') does not fit; the whole must match key_pattern \P{C}+"),
        (b"\x00", r"byte 0 ('\0') or what follows does not fit; the whole must match key_pattern"),
        ("é\u{7f}".as_bytes(), r"byte 2 ('\u{7f}') does not fit;"),
        (b"ab\xff", "byte 2 (0xff) does not fit;"),
        (b"ab\n", r"byte 2 ('\n') does not fit;"),
        (long.as_bytes(), "it has 1025 bytes; key_bytes_max is 1024"),
    ];
    for (bad, start) in table {
        let error = patterns.check_key(&Key::from(bad.to_vec())).unwrap_err();
        assert!(error.starts_with(start), "{}: {error}", bad.escape_ascii());
    }
    assert_eq!(patterns.check_value(&Value::from(vec![0, 255, 10])), Ok(()));
    assert_eq!(patterns.check_value(&Value::from("")), Ok(()));
    let error = patterns.check_value(&Value::from(vec![0; (1 << 20) + 1])).unwrap_err();
    assert_eq!(error, "it has 1048577 bytes; value_bytes_max is 1048576");
}

#[test]
fn keys_and_values_as_in_the_original() {
    let patterns = Patterns::compile(&Settings::alphanumeric()).unwrap();
    assert_eq!(patterns.check_key(&Key::from("Abc09")), Ok(()));
    assert_eq!(patterns.check_value(&Value::from("Abc09")), Ok(()));
    for bad in ["a b", "a-", "é", "a\n"] {
        patterns.check_key(&Key::from(bad)).unwrap_err();
        patterns.check_value(&Value::from(bad)).unwrap_err();
    }
    let error = patterns.check_value(&Value::from("")).unwrap_err();
    assert_eq!(error, "it is empty; the whole must match value_pattern [A-Za-z0-9]+");
}

#[test]
fn a_pattern_is_matched_whole_whatever_it_says_itself() {
    let mut settings = Settings::default();
    for (pattern, good, bad) in [
        ("a|b", "b", "ab"),
        ("(?m)^a$", "a", "a\na"),
        ("(?i)abc", "aBC", "abcd"),
        ("a|ab", "ab", "abb"),
    ] {
        settings.set("key_pattern", pattern).unwrap();
        let patterns = Patterns::compile(&settings).unwrap();
        assert_eq!(patterns.check_key(&Key::from(good)), Ok(()), "{pattern}");
        patterns.check_key(&Key::from(bad)).unwrap_err();
    }
    settings.set("key_pattern", "").unwrap();
    let patterns = Patterns::compile(&settings).unwrap();
    assert_eq!(patterns.check_key(&Key::from(vec![0, 255])), Ok(()));
    patterns.check_key(&Key::from("")).unwrap_err();
}

#[test]
fn the_page_of_settings_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (head, old) = page.split_at(page.find("| setting |").expect("the page has the table"));
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(path, format!("{head}{}", docs_table())).unwrap();
    } else {
        assert_eq!(old, docs_table(), "run this test with UPDATE_GOLDENFILES=1");
    }
}
