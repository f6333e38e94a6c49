//! ZooKeeper: an ensemble of three, spoken to in its own protocol.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{strings, wait_until};
use crate::ground::{Ground, free_ports};
use crate::pipe::{Dialect, Pipe, dial};
use crate::processes::Processes;
use crate::store::{Connection, Facts, Store};

const PROGRAM: &str = "/usr/bin/java";
const CLASSES: &str = "/usr/share/java/zookeeper.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

/// How long a session lasts without a word; every row is over long before.
const SESSION_MS: i32 = 40_000;

const SAY_PATIENCE: Duration = Duration::from_secs(2);

// What is asked for, by number.
const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;

pub(crate) struct ZooKeeper {
    processes: Processes,
    ports: Vec<u16>,
}

impl Store for ZooKeeper {
    type Connection = Session;

    const NAME: &'static str = "zookeeper";

    fn facts(_: &Ground) -> Result<Facts> {
        if !Path::new(CLASSES).exists() {
            bail!("{CLASSES} is not there");
        }
        let ask = Command::new("dpkg-query").args(["-W", "-f=${Version}", "zookeeper"]).output();
        let version = ask.map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned());
        Ok(Facts {
            name: Self::NAME.to_owned(),
            store: "ZooKeeper".to_owned(),
            version: version.unwrap_or_else(|_| "unknown".to_owned()),
            flags:
                "`tickTime=2000 initLimit=10 syncLimit=5` as Debian sets them, `maxClientCnxns=0` \
                    (64 connections come from one address), no admin server"
                    .to_owned(),
            durability: "fsync on a majority before the answer (`forceSync`, the default)"
                .to_owned(),
            reads: "local to the server asked: may be stale".to_owned(),
        })
    }

    async fn start(ground: &Ground) -> Result<Self> {
        let ports = free_ports(9)?;
        let members: String = (0..3)
            .map(|at| format!("server.{at}=127.0.0.1:{}:{}\n", ports[3 + at], ports[6 + at]))
            .collect();
        let mut processes = Processes::new(ground);
        for (at, port) in ports[..3].iter().enumerate() {
            let dir = ground.empty(&format!("zookeeper-{at}"))?;
            fs::write(dir.join("myid"), at.to_string())?;
            let config = format!(
                "tickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\n\
                 admin.enableServer=false\ndataDir={}\nclientPort={port}\n{members}",
                dir.display(),
            );
            let path = dir.join("zoo.cfg");
            fs::write(&path, config)?;
            let mut args = strings(["-cp", CLASSES, MAIN]);
            args.push(path.display().to_string());
            processes.start(Path::new(PROGRAM), &args, &dir)?;
        }
        let mut store = Self { processes, ports: ports[..3].to_vec() };
        let ports = store.ports.clone();
        wait_until(&mut store.processes, async || Ok(is_whole(&ports).await)).await?;
        Ok(store)
    }

    fn processes(&mut self) -> &mut Processes {
        &mut self.processes
    }

    async fn connect(&self) -> Result<Session> {
        let pipe = session(self.ports[self.leader().await?]).await?;
        Ok(Session { pipe, ports: self.ports.clone() })
    }

    async fn leader(&self) -> Result<usize> {
        for (at, port) in self.ports.iter().enumerate() {
            if mode(*port).await.is_ok_and(|mode| mode == "leader") {
                return Ok(at);
            }
        }
        bail!("no server leads")
    }

    async fn is_whole(&self) -> bool {
        is_whole(&self.ports).await
    }
}

/// Whether one leads and two follow.
async fn is_whole(ports: &[u16]) -> bool {
    let mut modes = Vec::new();
    for port in ports {
        modes.extend(mode(*port).await);
    }
    modes.sort();
    modes == ["follower", "follower", "leader"]
}

/// What a server says it is.
async fn mode(port: u16) -> Result<String> {
    let mut stream = dial(port).await?;
    stream.write_all(b"srvr").await?;
    let mut said = String::new();
    timeout(SAY_PATIENCE, stream.read_to_string(&mut said)).await??;
    let mode = said.lines().find_map(|line| line.strip_prefix("Mode: "));
    Ok(mode.context("it does not say its mode")?.to_owned())
}

/// A new session with the server at a port.
async fn session(port: u16) -> Result<Pipe<Jute>> {
    let mut stream = dial(port).await?;
    let mut hello = Vec::new();
    hello.put_i32(0); // protocol version
    hello.put_i64(0); // last transaction seen
    hello.put_i32(SESSION_MS);
    hello.put_i64(0); // a new session
    put_bytes(&mut hello, &[0; 16]); // its password
    hello.put_u8(0); // not read-only
    stream.write_all(&framed(&hello)).await?;
    timeout(SAY_PATIENCE, welcome(&mut stream)).await??;
    Ok(Pipe::over(stream))
}

async fn welcome(stream: &mut TcpStream) -> Result<()> {
    let length = usize::try_from(stream.read_i32().await?)?;
    if !(16..1_024).contains(&length) {
        bail!("a welcome of {length} bytes");
    }
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    let mut reply = &reply[4..];
    if reply.get_i32() <= 0 {
        bail!("no session was granted");
    }
    Ok(())
}

/// A session, and where else there might be one.
#[derive(Clone)]
pub(crate) struct Session {
    pipe: Pipe<Jute>,
    ports: Vec<u16>,
}

impl Connection for Session {
    async fn create(&mut self, key: &str, value: Bytes) -> Result<()> {
        let mut body = request(CREATE, key);
        put_bytes(&mut body, &value);
        body.put_i32(1); // one rule: anybody may do everything
        body.put_i32(31);
        put_bytes(&mut body, b"world");
        put_bytes(&mut body, b"anyone");
        body.put_i32(0); // neither ephemeral nor numbered
        ask(&self.pipe, &body).await?;
        Ok(())
    }

    async fn write(&mut self, key: &str, value: Bytes) -> Result<()> {
        let mut body = request(SET_DATA, key);
        put_bytes(&mut body, &value);
        body.put_i32(-1); // whatever its version
        ask(&self.pipe, &body).await?;
        Ok(())
    }

    async fn read(&mut self, key: &str) -> Result<usize> {
        let mut body = request(GET_DATA, key);
        body.put_u8(0); // no watch
        let mut answer = ask(&self.pipe, &body).await?;
        if answer.remaining() < 4 {
            bail!("an answer without data");
        }
        Ok(usize::try_from(answer.get_i32())?)
    }

    async fn renew(&mut self) -> Result<()> {
        for port in &self.ports {
            if let Ok(pipe) = session(*port).await {
                self.pipe = pipe;
                return Ok(());
            }
        }
        bail!("no server takes a session")
    }
}

async fn ask(pipe: &Pipe<Jute>, body: &[u8]) -> Result<Bytes> {
    let reply = pipe.ask(framed(body), 1).await?.pop().context("no reply")?;
    if reply.error != 0 {
        bail!("error {}", reply.error);
    }
    Ok(reply.answer)
}

/// The head of a request. Requests of a session are answered in order, so their numbers do not
/// matter, and all have the same.
fn request(kind: i32, key: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(512);
    body.put_i32(1);
    body.put_i32(kind);
    put_bytes(&mut body, format!("/{key}").as_bytes());
    body
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    body.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    body.extend_from_slice(bytes);
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(4 + body.len());
    put_bytes(&mut frame, body);
    frame
}

/// The encoding of ZooKeeper.
pub(crate) struct Jute;

#[derive(Debug)]
pub(crate) struct Reply {
    error: i32,
    answer: Bytes,
}

impl Dialect for Jute {
    type Reply = Reply;

    fn take(input: &mut BytesMut) -> Result<Option<Reply>> {
        let Some(head) = input.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(i32::from_be_bytes(*head))?;
        if length < 16 {
            bail!("a reply of {length} bytes");
        }
        if input.len() < 4 + length {
            return Ok(None);
        }
        input.advance(4);
        let mut reply = input.split_to(length).freeze();
        let (_number, _transaction) = (reply.get_i32(), reply.get_i64());
        Ok(Some(Reply { error: reply.get_i32(), answer: reply }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_once_they_are_whole() -> Result<()> {
        let mut body = Vec::new();
        body.put_i32(1);
        body.put_i64(77);
        body.put_i32(-101);
        body.extend(b"rest");
        let mut input = BytesMut::new();
        let mut taken = Vec::new();
        for byte in framed(&body) {
            input.extend_from_slice(&[byte]);
            taken.extend(Jute::take(&mut input)?);
        }
        assert_eq!((taken.len(), taken[0].error, &taken[0].answer[..]), (1, -101, &b"rest"[..]));
        assert!(input.is_empty());
        Ok(())
    }
}
