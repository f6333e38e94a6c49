//! What a process that is traced writes down of its messages, and what they carry for it.
//!
//! Such a process has one [`Recorder`] for all its connections, given with [`record`] before the
//! first of them. Every request and reply it sends then carries a stamp, and is recorded before
//! it leaves; of every one it receives the stamp is recorded. A process that is not traced puts no
//! stamp on, and skips those it meets: it has no entry in anybody's clock.
//!
//! Once a message without a stamp has come from a peer, what is sent to it carries none either and
//! is recorded as a local step: nobody will ever say that it arrived.
//!
//! Without the feature `trace` no connection has a recorder, and nothing of this is left.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use quorate_traces::{Fields, Host, Level, Recorder, Stamp};

use super::dial::IN_FLIGHT_MAX;
use crate::entry::Token;
use crate::record::Key;

/// What a message is about, for the log of a traced process.
pub trait Told {
    /// The name of the call: `replica.append`. A reply has that of its request.
    fn rpc(&self) -> &'static str {
        ""
    }

    /// How much it matters. A reply matters as much as its request.
    fn level(&self) -> Level {
        Level::Debug
    }

    /// The one key it is about, where there is one.
    fn key(&self) -> Option<&Key> {
        None
    }

    /// The request that it is about, where it has a name.
    fn token(&self) -> Option<Token> {
        None
    }

    /// Says the rest.
    fn tell(&self, _out: &mut Fields<'_>) {}
}

static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// Records all messages of this process from now on: those on connections that come about later.
/// A process has one log; another recorder than the first is not taken.
pub fn record(recorder: Recorder) {
    let _ = RECORDER.set(recorder);
}

/// The log of this process, where it has one.
#[must_use]
pub fn recorder() -> Option<&'static Recorder> {
    if cfg!(feature = "trace") { RECORDER.get() } else { None }
}

/// What is recorded of one connection.
pub(crate) struct Story {
    recorder: Recorder,
    peer: Peer,
    /// Calls whose replies have not passed. Old ones are forgotten: a call that was given up has no
    /// reply.
    calls: BTreeMap<u64, Call>,
    /// Something was recorded that is not in the file yet.
    gathered: bool,
}

/// Who is at the other end.
enum Peer {
    /// Nothing has come yet. Where it was dialed, if it was.
    Unheard(Option<String>),
    Traced(Host),
    Untraced,
}

#[derive(Clone)]
struct Call {
    rpc: &'static str,
    level: Level,
    /// As it is shown, which is short: a key that is never answered for is not kept here.
    key: Option<Box<str>>,
    token: Option<Token>,
}

/// One message, as its log sees it.
pub enum Passing<'a> {
    /// A request, and what is told of it.
    Request {
        /// Names the call on its connection.
        id: u64,
        /// What it is about.
        said: &'a dyn Told,
    },
    /// A reply, or why there is none.
    Reply {
        /// Names the call on its connection.
        id: u64,
        /// What it comes to.
        said: Result<&'a dyn Told, &'a str>,
    },
    /// A caller that no longer waits.
    Cancel {
        /// Names the call on its connection.
        id: u64,
    },
    /// A kind that tarpc has and this protocol lacks.
    Other,
}

impl Story {
    /// The story of a new connection, where this process is traced.
    pub(crate) fn begin() -> Option<Box<Self>> {
        recorder().map(|recorder| Box::new(Self::of(recorder.clone())))
    }

    pub(crate) fn of(recorder: Recorder) -> Self {
        Self { recorder, peer: Peer::Unheard(None), calls: BTreeMap::new(), gathered: false }
    }

    /// The connection was dialed here.
    pub(crate) fn dialed(&mut self, address: &str) {
        self.peer = Peer::Unheard(Some(address.to_owned()));
    }

    /// Records that a message is about to leave; it is to carry the stamp.
    pub(crate) fn sends(&mut self, passing: &Passing<'_>) -> Option<Stamp> {
        let Self { recorder, peer, calls, gathered } = self;
        let call = call(calls, passing)?;
        *gathered = true;
        let kind = kind(call.rpc);
        let say = |out: &mut Fields<'_>| {
            match &peer {
                Peer::Unheard(None) => {}
                Peer::Unheard(Some(address)) => {
                    out.field("to", address);
                }
                Peer::Traced(host) => {
                    out.word("to", host.as_str());
                }
                Peer::Untraced => {
                    out.word("peer", "untraced");
                }
            }
            call.tell(passing, out);
        };
        if matches!(peer, Peer::Untraced) {
            recorder.local_event(call.level, kind, say);
            return None;
        }
        recorder.prepare_send(call.level, kind, say)
    }

    /// Records that a message has come.
    pub(crate) fn receives(&mut self, passing: &Passing<'_>, stamp: Option<&Stamp>) {
        let Self { recorder, peer, calls, .. } = self;
        let Some(call) = call(calls, passing) else { return };
        match (stamp, &*peer) {
            (Some(stamp), Peer::Traced(host)) if host == stamp.host() => {}
            (Some(stamp), _) => *peer = Peer::Traced(stamp.host().clone()),
            (None, _) => *peer = Peer::Untraced,
        }
        let kind = kind(call.rpc);
        match stamp {
            Some(stamp) => {
                let say = |out: &mut Fields<'_>| call.tell(passing, out);
                recorder.unpack_receive(stamp, call.level, kind, say);
            }
            None => recorder.local_event(call.level, kind, |out| {
                out.word("peer", "untraced");
                call.tell(passing, out);
            }),
        }
    }

    /// Brings what was recorded to the file. Called before anything leaves.
    pub(crate) fn flush(&mut self) {
        if std::mem::take(&mut self.gathered) {
            self.recorder.flush();
        }
    }
}

/// What a message belongs to: a request begins a call, a reply ends one.
fn call<'a>(calls: &'a mut BTreeMap<u64, Call>, passing: &Passing<'_>) -> Option<Cow<'a, Call>> {
    match passing {
        Passing::Request { id, said } => {
            if calls.len() >= IN_FLIGHT_MAX {
                calls.pop_first();
            }
            calls.insert(*id, Call::of(*said));
            calls.get(id).map(Cow::Borrowed)
        }
        Passing::Reply { id, .. } => calls.remove(id).map(Cow::Owned),
        Passing::Cancel { id } => {
            calls.remove(id);
            None
        }
        Passing::Other => None,
    }
}

/// `append` of `replica.append`.
fn kind(rpc: &'static str) -> &'static str {
    rpc.rsplit_once('.').map_or(rpc, |(_, name)| name)
}

impl Call {
    fn of(said: &dyn Told) -> Self {
        Self {
            rpc: said.rpc(),
            level: said.level(),
            key: said.key().map(|key| key.to_string().into()),
            token: said.token(),
        }
    }

    fn tell(&self, passing: &Passing<'_>, out: &mut Fields<'_>) {
        let is_request = matches!(passing, Passing::Request { .. });
        out.word("rpc", self.rpc).word("dir", if is_request { "request" } else { "reply" });
        if let Some(key) = &self.key {
            out.field("key", key);
        }
        if let Some(token) = &self.token {
            out.field("request", token.id());
        }
        match passing {
            Passing::Request { said, .. } | Passing::Reply { said: Ok(said), .. } => said.tell(out),
            Passing::Reply { said: Err(why), .. } => {
                out.field("failed", why);
            }
            Passing::Cancel { .. } | Passing::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use bytes::Bytes;
    use futures::{SinkExt, StreamExt};
    use quorate_traces::{Identity, Options};
    use tarpc::{ClientMessage, Request, Response};
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::ids::{ClientId, ClusterId, RequestNumber};
    use crate::record::KEY_SHOWN_BYTES_MAX;
    use crate::rpc::store::{
        Change, ChangeReply, Command, Read, ReadReply, Refused, StoreRequest, StoreResponse,
    };
    use crate::transport::connection::{ClientConnection, ServerConnection};
    use crate::transport::hello::{Hello, Service};
    use crate::transport::wire::context_in;
    use crate::version::Version;

    type Dialer = ClientConnection<StoreRequest, StoreResponse, DuplexStream>;
    type Acceptor = ServerConnection<StoreRequest, StoreResponse, DuplexStream>;

    fn recorder(dir: &Path, name: &str) -> Recorder {
        Recorder::start(dir, name, Identity::default(), Options::default()).unwrap()
    }

    /// What a log says of messages, without times and clocks.
    fn told(recorder: &Recorder) -> Vec<String> {
        let text = std::fs::read_to_string(recorder.file()).unwrap();
        let said = text.lines().skip(1).step_by(2).skip(1);
        said.map(str::to_owned).collect()
    }

    fn ends(a: Option<&Recorder>, b: Option<&Recorder>) -> (Dialer, Acceptor) {
        let (to_b, to_a) = duplex(1 << 16);
        let hello = Hello::new(Service::Store, ClusterId(1));
        let (mut dialer, mut acceptor) =
            (Dialer::new(to_b, hello, None), Acceptor::new(to_a, hello, None));
        if let Some(recorder) = a {
            dialer = dialer.told_by(Story::of(recorder.clone())).dialed("there:1");
        }
        if let Some(recorder) = b {
            acceptor = acceptor.told_by(Story::of(recorder.clone()));
        }
        (dialer, acceptor)
    }

    fn request(id: u64, message: StoreRequest) -> ClientMessage<StoreRequest> {
        let context = context_in(Duration::from_secs(1));
        ClientMessage::Request(Request { context, id, message })
    }

    fn write(request: u64) -> StoreRequest {
        let client = ClientId(0xc0ffee << 100);
        let token = Token { client, request: RequestNumber(request), born: Default::default() };
        let key = Key::from("k".to_owned());
        let value = Bytes::from_static(b"value").into();
        StoreRequest::Change { change: Change { token, command: Command::Write { key, value } } }
    }

    fn written() -> StoreResponse {
        let (version, answer) = (Version::new(1, 9), crate::entry::Answer::Written);
        StoreResponse::Change(ChangeReply::Applied { version, answer })
    }

    #[tokio::test]
    async fn both_ends_tell_of_a_call_and_its_reply() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (recorder(dir.path(), "a"), recorder(dir.path(), "b"));
        let (mut dialer, mut acceptor) = ends(Some(&a), Some(&b));
        for number in [1, 2] {
            dialer.send(request(number, write(number))).await.unwrap();
            assert!(acceptor.next().await.unwrap().is_ok());
            let reply = Response { request_id: number, message: Ok(written()) };
            acceptor.send(reply).await.unwrap();
            assert!(dialer.next().await.unwrap().is_ok());
        }
        a.flush();
        b.flush();
        let asks = "rpc=store.write dir=request key=k request=0c0ffee0.1 bytes=5";
        let says = "rpc=store.write dir=reply key=k request=0c0ffee0.1 version=1.9";
        // Each event is what its clock says: a has begun and sends its second.
        assert_eq!(
            told(&a)[..2],
            [format!("DEBUG write to=there:1 {asks}"), format!("DEBUG write from=b.1:3 {says}"),]
        );
        assert!(told(&a)[2].starts_with("DEBUG write to=b.1 "), "now it is known who is there");
        assert_eq!(
            told(&b)[..2],
            [format!("DEBUG write from=a.1:2 {asks}"), format!("DEBUG write to=a.1 {says}"),]
        );
    }

    #[tokio::test]
    async fn a_peer_that_is_not_traced_is_in_no_clock_and_gets_no_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let a = recorder(dir.path(), "a");
        let (mut dialer, mut acceptor) = ends(None, Some(&a));
        let read = Read { key: Key::from("k".to_owned()), level: Default::default() };
        dialer.send(request(1, StoreRequest::Read { read })).await.unwrap();
        assert!(acceptor.next().await.unwrap().is_ok());
        let reply = StoreResponse::Read(ReadReply::Refused(Refused::Busy));
        acceptor.send(Response { request_id: 1, message: Ok(reply) }).await.unwrap();
        assert!(dialer.next().await.unwrap().is_ok());
        a.flush();
        let what = "peer=untraced rpc=store.read";
        assert_eq!(
            told(&a),
            [
                format!("DEBUG read {what} dir=request key=k level=Majority"),
                format!(
                    "DEBUG read {what} dir=reply key=k refused=\"too many requests are waiting\""
                ),
            ]
        );

        // The other way round, the first request has one, for it cannot be known.
        let (mut dialer, mut acceptor) = ends(Some(&a), None);
        for number in [1, 2] {
            dialer.send(request(number, write(number))).await.unwrap();
            assert!(acceptor.next().await.unwrap().is_ok());
            let reply = Response { request_id: number, message: Ok(written()) };
            acceptor.send(reply).await.unwrap();
            assert!(dialer.next().await.unwrap().is_ok());
        }
        let sent = told(&a)[2..].iter().filter(|said| said.contains(" to=")).count();
        assert_eq!(sent, 1, "{:?}", told(&a));
    }

    #[tokio::test]
    async fn what_leaves_is_in_the_file_before() {
        let dir = tempfile::tempdir().unwrap();
        let a = recorder(dir.path(), "a");
        let (mut dialer, _acceptor) = ends(Some(&a), None);
        for number in 0..3 {
            dialer.feed(request(number, write(number))).await.unwrap();
        }
        assert!(told(&a).is_empty(), "nothing has left yet");
        dialer.flush().await.unwrap();
        assert_eq!(told(&a).len(), 3);
    }

    #[tokio::test]
    async fn calls_that_never_end_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut story = Story::of(recorder(dir.path(), "a"));
        let key = Key::from("k".repeat(1 << 20));
        let said = StoreRequest::Read { read: Read { key, level: Default::default() } };
        for id in 0..2 * IN_FLIGHT_MAX as u64 {
            story.receives(&Passing::Request { id, said: &said }, None);
        }
        assert_eq!(story.calls.len(), IN_FLIGHT_MAX);
        let kept = story.calls.values().filter_map(|call| call.key.as_ref());
        assert!(kept.map(|key| key.len()).max() < Some(2 * KEY_SHOWN_BYTES_MAX));
        story.receives(&Passing::Cancel { id: 2 * IN_FLIGHT_MAX as u64 - 1 }, None);
        assert_eq!(story.calls.len(), IN_FLIGHT_MAX - 1);
    }
}
