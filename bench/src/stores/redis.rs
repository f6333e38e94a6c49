//! Redis: a master and two replicas, spoken to in RESP.

use std::path::Path;

use anyhow::{Result, bail};
use bytes::{Buf, Bytes, BytesMut};

use super::{first_line, strings, wait_until};
use crate::ground::{Ground, free_ports};
use crate::pipe::{Dialect, Pipe, dial};
use crate::processes::Processes;
use crate::store::{Connection, Facts, Store};

const PROGRAM: &str = "/usr/bin/redis-server";

/// The longest that WAIT waits; fewer replicas than one is an error then.
const WAIT_MS: &str = "5000";

pub(crate) struct Redis {
    processes: Processes,
    master: u16,
}

impl Store for Redis {
    type Connection = Pipe<Resp>;

    const NAME: &'static str = "redis";

    fn facts(_: &Ground) -> Result<Facts> {
        let line = first_line(Path::new(PROGRAM), &["--version"])?;
        let version = line.split_whitespace().find_map(|word| word.strip_prefix("v="));
        Ok(Facts {
            name: Self::NAME.to_owned(),
            store: "Redis".to_owned(),
            version: version.unwrap_or(&line).to_owned(),
            flags: "`--appendonly yes --appendfsync always` on all three, two with `--replicaof`; \
                    `SET` and `WAIT 1` for each write"
                .to_owned(),
            durability:
                "fsync on the master, and one replica has received it (`WAIT` of this version does \
                         not tell whether that replica has fsynced); no consensus"
                    .to_owned(),
            reads: "of the master, which asks nobody: stale after a fail-over".to_owned(),
        })
    }

    async fn start(ground: &Ground) -> Result<Self> {
        let ports = free_ports(3)?;
        let mut processes = Processes::new(ground);
        for (at, port) in ports.iter().enumerate() {
            let dir = ground.empty(&format!("redis-{at}"))?;
            let (port, data) = (port.to_string(), dir.display().to_string());
            let mut args = strings(["--port", &port, "--bind", "127.0.0.1", "--dir", &data]);
            args.extend(strings(["--appendonly", "yes", "--appendfsync", "always"]));
            if at > 0 {
                args.extend(strings(["--replicaof", "127.0.0.1", &ports[0].to_string()]));
            }
            processes.start(Path::new(PROGRAM), &args, &dir)?;
        }
        let mut store = Self { processes, master: ports[0] };
        let master = store.master;
        wait_until(&mut store.processes, async || Ok(replicas(master).await? == 2)).await?;
        Ok(store)
    }

    fn processes(&mut self) -> &mut Processes {
        &mut self.processes
    }

    async fn connect(&self) -> Result<Pipe<Resp>> {
        Ok(Pipe::over(dial(self.master).await?))
    }

    async fn leader(&self) -> Result<usize> {
        bail!("nobody takes over from a master without Redis Sentinel")
    }

    async fn is_whole(&self) -> bool {
        replicas(self.master).await.is_ok_and(|count| count == 2)
    }
}

/// How many replicas follow.
async fn replicas(master: u16) -> Result<usize> {
    let pipe: Pipe<Resp> = Pipe::over(dial(master).await?);
    match pipe.ask(command(&[b"INFO", b"replication"]), 1).await?.pop() {
        Some(Reply::Bulk(text)) => {
            Ok(String::from_utf8_lossy(&text).matches("state=online").count())
        }
        other => bail!("INFO came to {other:?}"),
    }
}

impl Connection for Pipe<Resp> {
    async fn write(&mut self, key: &str, value: Bytes) -> Result<()> {
        let mut bytes = command(&[b"SET", key.as_bytes(), &value]);
        bytes.extend(command(&[b"WAIT", b"1", WAIT_MS.as_bytes()]));
        match self.ask(bytes, 2).await?.as_slice() {
            [Reply::Simple, Reply::Integer(replicas)] if *replicas >= 1 => Ok(()),
            other => bail!("SET and WAIT came to {other:?}"),
        }
    }

    async fn read(&mut self, key: &str) -> Result<usize> {
        match self.ask(command(&[b"GET", key.as_bytes()]), 1).await?.pop() {
            Some(Reply::Bulk(value)) => Ok(value.len()),
            other => bail!("GET came to {other:?}"),
        }
    }
}

/// A command as Redis takes it.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend(*word);
        bytes.extend(b"\r\n");
    }
    bytes
}

pub(crate) struct Resp;

#[derive(Debug)]
pub(crate) enum Reply {
    Simple,
    Integer(i64),
    Bulk(Bytes),
    Nothing,
    Failed(#[expect(dead_code, reason = "shown in errors")] String),
}

impl Dialect for Resp {
    type Reply = Reply;

    fn take(input: &mut BytesMut) -> Result<Option<Reply>> {
        let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&input[1..end])?;
        let kind = input[0];
        let reply = match kind {
            b'+' => Reply::Simple,
            b'-' => Reply::Failed(line.to_owned()),
            b':' => Reply::Integer(line.parse()?),
            b'$' if line.starts_with('-') => Reply::Nothing,
            b'$' => {
                let length: usize = line.parse()?;
                if input.len() < end + 2 + length + 2 {
                    return Ok(None);
                }
                input.advance(end + 2);
                let value = input.split_to(length).freeze();
                input.advance(2);
                return Ok(Some(Reply::Bulk(value)));
            }
            _ => bail!("a reply of an unknown kind, {kind}"),
        };
        input.advance(end + 2);
        Ok(Some(reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_once_they_are_whole() -> Result<()> {
        let whole = b"+OK\r\n:1\r\n$3\r\nabc\r\n$-1\r\n-no\r\n";
        let mut input = BytesMut::new();
        let mut taken = Vec::new();
        for byte in whole {
            input.extend_from_slice(&[*byte]);
            taken.extend(Resp::take(&mut input)?.map(|reply| format!("{reply:?}")));
        }
        let expected = ["Simple", "Integer(1)", "Bulk(b\"abc\")", "Nothing", "Failed(\"no\")"];
        assert_eq!(taken, expected);
        Ok(())
    }

    #[test]
    fn a_command_is_counted() -> Result<()> {
        assert_eq!(command(&[b"GET", b"key"]), b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
        Ok(())
    }
}
