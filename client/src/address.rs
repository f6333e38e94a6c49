//! Addresses as people type them.

use std::net::{Ipv6Addr, SocketAddr};

/// The server's port where none is given.
pub const DEFAULT_PORT: u16 = 4747;

/// The longest name that DNS allows.
const HOST_BYTES_MAX: usize = 253;

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an address: {why}; write HOST:PORT, such as 127.0.0.1:{DEFAULT_PORT}")]
pub struct BadAddress {
    text: String,
    why: &'static str,
}

/// Checks an address and completes it: a host alone gets the [`DEFAULT_PORT`].
///
/// Takes `127.0.0.1:4747`, `[::1]:4747`, `db.example:4747`, and each of them without the port.
/// Nothing is looked up yet.
///
/// # Errors
/// When the text cannot be an address, with what is wrong about it.
pub fn parse_address(text: &str) -> Result<String, BadAddress> {
    let wrong = |why| BadAddress { text: text.to_owned(), why };
    if text.is_empty() {
        return Err(wrong("it is empty"));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 {
            Err(wrong("port 0 is no port to call"))
        } else {
            Ok(text.to_owned())
        };
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{bare}]:{DEFAULT_PORT}"));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_host_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.bytes().all(is_host_byte) {
        return Err(wrong("the host is no name and no number"));
    }
    match port.map(str::parse::<u16>) {
        None => Ok(format!("{host}:{DEFAULT_PORT}")),
        Some(Ok(port)) if port > 0 => Ok(format!("{host}:{port}")),
        Some(_) => Err(wrong("the port is no number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_port_is_the_default_one() {
        let table = [
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("127.0.0.1", "127.0.0.1:4747"),
            ("db.example:80", "db.example:80"),
            ("localhost", "localhost:4747"),
            ("::1", "[::1]:4747"),
            ("[::1]", "[::1]:4747"),
            ("[::1]:9", "[::1]:9"),
        ];
        for (typed, meant) in table {
            assert_eq!(parse_address(typed).as_deref(), Ok(meant), "{typed}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_with_the_fix() {
        for typed in ["", ":80", "a b:1", "h:", "h:x", "h:0", "h:70000", "1.2.3.4:0", "http://h:1"]
        {
            let error = parse_address(typed).unwrap_err().to_string();
            assert!(error.contains("HOST:PORT"), "{typed}: {error}");
        }
    }
}
