//! Dialing: from an address to a connection that has had its hello, or to the reason why not.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Message;
use super::connection::{ClientConnection, prepare};
use super::hello::{self, HELLO_TIMEOUT_MS, Hello, NoHello, Service, Status};
use crate::ids::{ClusterId, StoreId};

/// How many requests may be on their way over one connection. Further calls wait their turn at
/// the dialer; the acceptor stops reading where a dialer does not keep to it.
pub const IN_FLIGHT_MAX: usize = 4_096;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The address is not one, or its name is not known.
    #[error(
        "{address:?} is not an address that can be reached ({why}); write HOST:PORT, as in 127.0.0.1:4747"
    )]
    BadAddress {
        /// The address as given.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody listens there.
    #[error(
        "nobody listens at {address}; start the process there, or check the address and the port"
    )]
    Refused {
        /// Where.
        address: String,
    },
    /// No answer in time.
    #[error(
        "no answer from {address} within {after_ms} ms; check that the process there runs and that the network lets you through"
    )]
    TimedOut {
        /// Where.
        address: String,
        /// How long the wait was.
        after_ms: u64,
    },
    /// No dial could be made in time, as the link rested after one that failed.
    #[error("{why}; {address} was not dialed again within {after_ms} ms")]
    NotDialed {
        /// Where.
        address: String,
        /// How long the wait was.
        after_ms: u64,
        /// How the dial before failed.
        why: String,
    },
    /// The connection could not be made for another reason.
    #[error("cannot connect to {address}: {why}; check the address and the network")]
    Failed {
        /// Where.
        address: String,
        /// The system's words for it.
        why: String,
    },
    /// The other end hung up before it said anything.
    #[error("{address} hung up without a word; it is stopping, or no Quorate process")]
    HungUp {
        /// Where.
        address: String,
    },
    /// The other end speaks another protocol altogether.
    #[error("what listens at {address} is not Quorate; check the address and the port")]
    NotQuorate {
        /// Where.
        address: String,
    },
    /// The other end is of another version.
    #[error(
        "{address} speaks version {theirs} of the protocol, this program version {ours}; run the same release on both ends"
    )]
    OtherVersion {
        /// Where.
        address: String,
        /// This program's version.
        ours: u16,
        /// The other end's.
        theirs: u16,
    },
    /// The other end belongs to another cluster.
    #[error(
        "{address} belongs to cluster {theirs}, not to {ours}; give the address of a process of your own cluster"
    )]
    OtherCluster {
        /// Where.
        address: String,
        /// The cluster this process belongs to.
        ours: ClusterId,
        /// The other end's.
        theirs: ClusterId,
    },
    /// Another process answers there than the one that is meant. No proof that the one that is
    /// meant is dead: it may only have moved.
    #[error(
        "another process answers at {address}: its store is {found}, not {expected}; start the node that belongs there on its own data directory, or give the process there another address"
    )]
    OtherStore {
        /// Where.
        address: String,
        /// Whose process was meant.
        expected: StoreId,
        /// Whose process answers.
        found: StoreId,
    },
    /// The process there serves its peers once it has registered.
    #[error(
        "the node at {address} has not registered yet; try again, and if it lasts, check that it reaches the server"
    )]
    NotRegistered {
        /// Where.
        address: String,
    },
    /// This process was turned away because it does not know its own cluster.
    #[error(
        "{address} serves {service} to its own cluster only, and this process does not know which it belongs to; let it register first"
    )]
    NoCluster {
        /// Where.
        address: String,
        /// What was asked for.
        service: Service,
    },
    /// The process there does not do this.
    #[error("{address} does not serve {service}; {}", serves(*service))]
    NotServed {
        /// Where.
        address: String,
        /// What was asked for.
        service: Service,
    },
    /// The process there has all the connections it takes.
    #[error("{address} has all the connections it can take; try again, or close some")]
    Busy {
        /// Where.
        address: String,
    },
}

fn serves(service: Service) -> &'static str {
    match service {
        Service::Registry => "it may be a node: give the server's address",
        _ => "it may be the server: give a node's address",
    }
}

impl ConnectError {
    /// Whether a process answered and turned this one away: trying again changes nothing until
    /// an operator does something.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        matches!(
            self,
            Self::NotQuorate { .. }
                | Self::OtherVersion { .. }
                | Self::OtherCluster { .. }
                | Self::OtherStore { .. }
                | Self::NoCluster { .. }
                | Self::NotServed { .. }
        )
    }

    /// Of the errors of several addresses the one with the highest rank is told: that somebody
    /// was there at all, before that nothing is known. A refusal comes last: it speaks for the
    /// whole only where every address refuses, for it may count towards a proof (design §2, †).
    fn rank(&self) -> u8 {
        match self {
            _ if self.is_rejection() => 3,
            Self::Busy { .. } | Self::HungUp { .. } | Self::NotRegistered { .. } => 3,
            Self::TimedOut { .. } | Self::Failed { .. } => 2,
            Self::Refused { .. } => 1,
            _ => 0,
        }
    }

    fn io(address: &str, error: &io::Error) -> Self {
        let address = address.to_owned();
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { address },
            _ => Self::Failed { address, why: error.to_string() },
        }
    }
}

/// Dials `address` (`HOST:PORT`; every address of a name is tried) and exchanges hellos.
///
/// # Errors
/// Why not, with what to do about it. Of several addresses that fail, the error of one where
/// somebody answered is told rather than of one where nobody did, and
/// [`Refused`](ConnectError::Refused) only where every one of them refuses.
pub async fn connect<Req: Message, Resp: Message>(
    address: &str,
    hello: Hello,
    timeout: Duration,
) -> Result<ClientConnection<Req, Resp>, ConnectError> {
    let deadline = Instant::now() + timeout;
    let late = || ConnectError::TimedOut {
        address: address.to_owned(),
        after_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
    };
    let bad = |why: String| ConnectError::BadAddress { address: address.to_owned(), why };
    let found = timeout_at(deadline, tokio::net::lookup_host(address)).await;
    let found = found.map_err(|_| bad("its name could not be looked up in time".to_owned()))?;
    let places: Vec<SocketAddr> = found.map_err(|error| bad(error.to_string()))?.collect();
    let mut error = bad("its name has no address".to_owned());
    for (tried, &place) in places.iter().enumerate() {
        // Each address gets its share of the time left, so that one black hole leaves some to
        // the next.
        let share = deadline.saturating_duration_since(Instant::now())
            / u32::try_from(places.len() - tried).unwrap_or(u32::MAX);
        let attempt = timeout_at(Instant::now() + share, try_place(address, place, hello)).await;
        match attempt.unwrap_or_else(|_| Err(late())) {
            Ok(connection) => return Ok(connection),
            Err(next) if error.rank() > next.rank() => {}
            Err(next) => error = next,
        }
    }
    Err(error)
}

async fn try_place<Req: Message, Resp: Message>(
    address: &str,
    place: SocketAddr,
    hello: Hello,
) -> Result<ClientConnection<Req, Resp>, ConnectError> {
    let failed = |error: io::Error| ConnectError::io(address, &error);
    let mut stream = TcpStream::connect(place).await.map_err(failed)?;
    prepare(&stream).map_err(failed)?;
    let peer = greet(address, &mut stream, hello).await?;
    Ok(ClientConnection::new(stream, peer, None).dialed(address))
}

/// Says hello and reads the answer.
pub(crate) async fn greet(
    address: &str,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ours: Hello,
) -> Result<Hello, ConnectError> {
    let address = || address.to_owned();
    // Whatever ends the writing is told better by what there is to read.
    let sent = stream.write_all(&ours.encode(Status::Welcome)).await;
    let limit = Instant::now() + Duration::from_millis(HELLO_TIMEOUT_MS);
    let theirs = match timeout_at(limit, hello::read_hello(stream)).await {
        Err(_) => {
            return Err(ConnectError::TimedOut { address: address(), after_ms: HELLO_TIMEOUT_MS });
        }
        Ok(Ok(theirs)) => theirs,
        Ok(Err(NoHello::Garbage)) => return Err(ConnectError::NotQuorate { address: address() }),
        Ok(Err(NoHello::Closed)) => return Err(ConnectError::HungUp { address: address() }),
        Ok(Err(NoHello::Io(error))) => return Err(ConnectError::io(&address(), &error)),
    };
    if theirs.version != ours.version {
        let (ours, theirs) = (ours.version, theirs.version);
        return Err(ConnectError::OtherVersion { address: address(), ours, theirs });
    }
    if hello::differ(ours.cluster, theirs.cluster) {
        let (ours, theirs) = (ours.cluster, theirs.cluster);
        return Err(ConnectError::OtherCluster { address: address(), ours, theirs });
    }
    match Status::from_byte(theirs.status) {
        Some(Status::Welcome) => {}
        Some(status) => return Err(turned_away(address(), status, &ours, theirs.store)),
        None => return Err(ConnectError::NotQuorate { address: address() }),
    }
    sent.map_err(|error| ConnectError::io(&address(), &error))?;
    let Hello { version, service, .. } = ours;
    let hello::RawHello { flags, cluster, store, .. } = theirs;
    Ok(Hello { version, service, flags, cluster, store })
}

/// What an acceptor's refusal means for the dialer.
fn turned_away(address: String, status: Status, ours: &Hello, found: StoreId) -> ConnectError {
    let (service, expected) = (ours.service, ours.store);
    match status {
        Status::Busy => ConnectError::Busy { address },
        Status::NotServed => ConnectError::NotServed { address, service },
        Status::OtherStore => ConnectError::OtherStore { address, expected, found },
        Status::NotRegistered => ConnectError::NotRegistered { address },
        Status::NoCluster => ConnectError::NoCluster { address, service },
        // It refuses for a reason that its own hello contradicts.
        Status::Welcome | Status::OtherVersion | Status::OtherCluster => {
            ConnectError::NotQuorate { address }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::hello::{HELLO_BYTES, PROTOCOL_VERSION};
    use super::*;

    fn ours() -> Hello {
        Hello::new(Service::Store, ClusterId(1)).with_store(StoreId(3))
    }

    /// What the dialer makes of an acceptor that sends these bytes and then waits.
    async fn answered_by(bytes: &[u8]) -> Result<Hello, ConnectError> {
        let (mut dialer, mut acceptor) = duplex(1024);
        acceptor.write_all(bytes).await.unwrap();
        greet("there:1", &mut dialer, ours()).await
    }

    fn with(change: impl FnOnce(&mut Hello), status: Status) -> [u8; HELLO_BYTES] {
        let mut hello = ours();
        change(&mut hello);
        hello.encode(status)
    }

    #[tokio::test(start_paused = true)]
    async fn every_answer_to_a_hello_is_told_apart() {
        let address = || "there:1".to_owned();
        let welcome = with(|hello| hello.flags = 6, Status::Welcome);
        assert_eq!(answered_by(&welcome).await, Ok(Hello { flags: 6, ..ours() }));
        let unknown = with(|hello| hello.cluster = ClusterId(0), Status::Welcome);
        assert!(answered_by(&unknown).await.is_ok());

        let cases = [
            (
                with(|hello| hello.version = 9, Status::OtherVersion),
                ConnectError::OtherVersion {
                    address: address(),
                    ours: PROTOCOL_VERSION,
                    theirs: 9,
                },
                "run the same release",
            ),
            (
                with(|hello| hello.cluster = ClusterId(2), Status::OtherCluster),
                ConnectError::OtherCluster {
                    address: address(),
                    ours: ClusterId(1),
                    theirs: ClusterId(2),
                },
                "of your own cluster",
            ),
            (
                with(|_| (), Status::NotServed),
                ConnectError::NotServed { address: address(), service: Service::Store },
                "give a node's address",
            ),
            (with(|_| (), Status::Busy), ConnectError::Busy { address: address() }, "try again"),
            (
                with(|hello| hello.store = StoreId(9), Status::OtherStore),
                ConnectError::OtherStore {
                    address: address(),
                    expected: StoreId(3),
                    found: StoreId(9),
                },
                "another process answers",
            ),
            (
                with(|_| (), Status::NotRegistered),
                ConnectError::NotRegistered { address: address() },
                "try again",
            ),
            (
                with(|_| (), Status::NoCluster),
                ConnectError::NoCluster { address: address(), service: Service::Store },
                "let it register first",
            ),
        ];
        for (bytes, error, fix) in cases {
            assert!(error.to_string().contains(fix), "{error}");
            assert_eq!(answered_by(&bytes).await, Err(error));
        }
    }

    #[test]
    fn a_refusal_speaks_for_a_name_only_where_all_its_addresses_refuse() {
        let address = || "there:1".to_owned();
        let refused = ConnectError::Refused { address: address() };
        let late = ConnectError::TimedOut { address: address(), after_ms: 1 };
        let busy = ConnectError::Busy { address: address() };
        assert!(late.rank() > refused.rank() && busy.rank() > late.rank());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_quorate_is_found_out_by_its_first_bytes() {
        let not_ours = ConnectError::NotQuorate { address: "there:1".to_owned() };
        for garbage in [&b"S"[..], b"SSH-2.0-OpenSSH", b"QUORUM", &[0; 100]] {
            assert_eq!(answered_by(garbage).await, Err(not_ours.clone()), "{garbage:?}");
        }
        let mut unknown_status = with(|_| (), Status::Welcome);
        unknown_status[11] = 77;
        assert_eq!(answered_by(&unknown_status).await, Err(not_ours));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_a_slow_trickle_run_into_the_deadline() {
        let (mut dialer, mut acceptor) = duplex(1024);
        let trickle = tokio::spawn(async move {
            for byte in with(|_| (), Status::Welcome) {
                if acceptor.write_u8(byte).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(HELLO_TIMEOUT_MS / 10)).await;
            }
            panic!("the whole hello was waited for");
        });
        let outcome = greet("there:1", &mut dialer, ours()).await;
        let after_ms = HELLO_TIMEOUT_MS;
        let late = ConnectError::TimedOut { address: "there:1".to_owned(), after_ms };
        assert_eq!(outcome, Err(late));
        drop(dialer);
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn an_acceptor_that_hangs_up_is_said_to() {
        let (mut dialer, mut acceptor): (DuplexStream, _) = duplex(1024);
        acceptor.write_all(&with(|_| (), Status::Welcome)[..20]).await.unwrap();
        drop(acceptor);
        let outcome = greet("there:1", &mut dialer, ours()).await;
        assert_eq!(outcome, Err(ConnectError::HungUp { address: "there:1".to_owned() }));
    }

    #[tokio::test]
    async fn the_hello_sent_is_the_one_in_the_head() {
        let (mut dialer, mut acceptor) = duplex(1024);
        let mut sent = [0; HELLO_BYTES];
        let greeting = greet("there:1", &mut dialer, ours());
        let hearing = async {
            acceptor.read_exact(&mut sent).await.unwrap();
            drop(acceptor);
        };
        let _ = tokio::join!(greeting, hearing);
        let expected =
            [&b"QUORATE\n"[..], &[3, 0], &[6], &[0], &[0; 4], &[1], &[0; 15], &[3], &[0; 15]]
                .concat();
        assert_eq!(sent[..], expected);
    }
}
