//! Running as the server, or as a node, until told to stop.
//!
//! SIGTERM, SIGINT, and, for a child of `quorate up`, the end of standard input ask for a planned
//! stop; a second signal, or [`STOP_TIMEOUT`] gone by, ends the process as it is.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use quorate_client::{DEFAULT_PORT, parse_address};
use quorate_node::OpenFailed;
use quorate_protocol::settings::Settings;
use quorate_protocol::transport::told;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::args::{Child, DATA_DEFAULT, Node, Pieces, Running, Server};
use crate::discover::Found;
use crate::exit::{Code, Failure};
use crate::output::{data, talk};
use crate::{logging, shell};

/// The longest a planned stop may take: above the largest that the setting `stop_timeout` may be.
const STOP_TIMEOUT: Duration = Duration::from_secs(660);

/// Where a node keeps its data unless told otherwise.
const NODE_DATA_DEFAULT: &str = "quorate-node";

/// Runs the server.
///
/// # Errors
/// When a flag cannot be meant, or the server ends by itself.
pub(crate) fn server(typed: Server) -> Result<Code, Failure> {
    prepare_child(typed.running.child)?;
    // Before anything is founded.
    if let Some(typed) = &typed.running.advertise {
        parse_address(&with_port(typed, DEFAULT_PORT)).map_err(Failure::usage)?;
    }
    let listen = with_port(&typed.listen, DEFAULT_PORT);
    let known_as = typed.running.advertise.as_deref().unwrap_or(&listen);
    let _trace = logging::start("server", known_as, &typed.running.log, &typed.running.tracing)?;
    if typed.abandon_data {
        confirm_abandon(&typed)?;
    }
    if typed.alphanumeric {
        tell_founded(&typed.data);
    }
    let config = quorate_server::Config {
        listen,
        data: typed.data,
        alphanumeric: typed.alphanumeric,
        abandon_data: typed.abandon_data,
    };
    crate::block_on(async {
        let server = quorate_server::Server::open(&config).await.map_err(server_failure)?;
        if let Some(recorder) = told::recorder() {
            recorder.named(None, &server.cluster().to_string());
        }
        let bound = server.local_address().map_err(server_failure)?;
        let stop = stop(typed.running.child)?;
        announce("server", bound, typed.running.child)?;
        // Nobody is told by the server where it is; so this is for the people who start nodes.
        talk(&format!("nodes and clients reach it with --server {}", named(&typed.running, bound)));
        server.run(stop).await.map_err(|error| Failure::from(anyhow::Error::new(error)))?;
        Ok(Code::Done)
    })
}

/// Runs a node.
///
/// # Errors
/// When a flag cannot be meant, or the node ends by itself.
pub(crate) fn node(typed: Node) -> Result<Code, Failure> {
    prepare_child(typed.running.child)?;
    let data = match (typed.memory, typed.data) {
        (true, Some(dir)) => {
            return Err(Failure::usage(format!(
                "--memory keeps nothing, so it needs no directory; leave out --data {} or --memory",
                dir.display()
            )));
        }
        (true, None) => None,
        (false, dir) => Some(dir.unwrap_or_else(|| NODE_DATA_DEFAULT.into())),
    };
    // Not in its own --data: `up` keeps a cluster in another.
    let servers = Found::look(&typed.find, Path::new(DATA_DEFAULT))?.addresses;
    logging::check(&typed.running.log)?;
    crate::block_on(async {
        let (listener, bound) = listen(&with_port(&typed.listen, 0)).await?;
        let advertise = advertised(&typed.running, bound)?;
        let Running { log, tracing, .. } = &typed.running;
        let _trace = logging::start("node", &advertise, log, tracing)?;
        let Pieces { log_segment_bytes, memtable_bytes } = typed.pieces;
        let sizes = quorate_node::Sizes { log_segment_bytes, memtable_bytes };
        let config = quorate_node::Config { servers, advertise, data, sizes };
        let stop = stop(typed.running.child)?;
        announce("node", bound, typed.running.child)?;
        // In a task of its own: the future that the runtime blocks on is polled only after one more look
        // at the sockets, which is a system call for each time that the node is woken.
        let node = tokio::spawn(quorate_node::run(config, listener, stop));
        match node.await {
            Ok(ended) => ended.map_err(node_failure)?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
        Ok(Code::Done)
    })
}

/// Says so where `--alphanumeric` comes too late: the cluster in `data` has patterns of its own.
pub(crate) fn tell_founded(data: &Path) {
    // What cannot be read is told by the start.
    let Ok(Some(state)) = quorate_server::store::inspect(data) else { return };
    let wanted = Settings::alphanumeric();
    let has = &state.settings;
    if (&has.key_pattern, &has.value_pattern) != (&wanted.key_pattern, &wanted.value_pattern) {
        talk(&format!(
            "careful: --alphanumeric is for new clusters, and this one keeps its patterns; change \
             them with `quorate settings set key_pattern '{}'`, and value_pattern likewise",
            wanted.key_pattern
        ));
    }
}

/// Says what giving the majority up means, and asks whether to. Done by the server when it opens.
fn confirm_abandon(typed: &Server) -> Result<(), Failure> {
    let preview = quorate_server::abandon_preview(&typed.data).map_err(server_failure)?;
    talk(&preview.to_string());
    if typed.yes || !preview.loses_data() {
        return Ok(());
    }
    if !shell::is_interactive() {
        return Err(Failure::usage(
            "nobody is here to be asked; add --yes to go on without the majority",
        ));
    }
    if ask("Go on without the majority?")? {
        Ok(())
    } else {
        Err(Failure::usage("nothing was changed"))
    }
}

/// Why a server does not start: what cannot be used is for the user to change. Whatever ends it
/// later is an outage.
fn server_failure(error: quorate_server::Error) -> Failure {
    match error {
        quorate_server::Error::Listen(error) => {
            Failure::usage(format!("{error}; or give another address with --listen HOST:PORT"))
        }
        quorate_server::Error::Store(error) => Failure::usage(error),
        error => Failure::from(anyhow::Error::new(error)),
    }
}

fn node_failure(error: quorate_node::Error) -> Failure {
    match error {
        // A full disk may also come later: a node opens its files anew when they are damaged.
        quorate_node::Error::Open(
            error @ (OpenFailed::Write { .. } | OpenFailed::StateFailed(_)),
        ) => Failure::unavailable(error),
        quorate_node::Error::Open(error) => Failure::usage(error),
        quorate_node::Error::Register(error) => Failure::refused(error),
        error => Failure::from(anyhow::Error::new(error)),
    }
}

/// Asks a person; anything but yes is no.
pub(crate) fn ask(question: &str) -> Result<bool, Failure> {
    talk(&format!("{question} [y/N]"));
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|error| Failure::usage(format!("no answer: {error}")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Listens, or says why not.
async fn listen(address: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, bound))
    };
    bound.await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::usage(format!(
            "{address} is taken by another process; give another address with --listen HOST:PORT"
        )),
        std::io::ErrorKind::PermissionDenied => Failure::usage(format!(
            "this user may not listen at {address}; take a port of 1024 or above with --listen"
        )),
        _ => Failure::usage(format!(
            "cannot listen at {address}: {error}; give an address of this machine with \
             --listen HOST:PORT"
        )),
    })
}

/// How people name a server that is bound like this.
fn named(running: &Running, bound: SocketAddr) -> String {
    match &running.advertise {
        Some(typed) => with_port(typed, bound.port()),
        None if bound.ip().is_unspecified() => {
            format!("HOST:{}, where HOST is a name or an address of this machine", bound.port())
        }
        None => bound.to_string(),
    }
}

/// The address that others should call.
fn advertised(running: &Running, bound: SocketAddr) -> Result<String, Failure> {
    match &running.advertise {
        Some(typed) => parse_address(&with_port(typed, bound.port())).map_err(Failure::usage),
        None if bound.ip().is_unspecified() => Err(Failure::usage(format!(
            "nobody can call {bound}; say with --advertise HOST:PORT where others reach this process"
        ))),
        None => Ok(bound.to_string()),
    }
}

/// The address with a port, where it has none.
fn with_port(typed: &str, port: u16) -> String {
    if let Ok(ip) = typed.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>() {
        return format!("[{ip}]:{port}");
    }
    if typed.contains(':') { typed.to_owned() } else { format!("{typed}:{port}") }
}

/// Says where it listens: to people, and to a parent that asked.
fn announce(role: &str, bound: SocketAddr, child: Child) -> Result<(), Failure> {
    talk(&format!("quorate {role} listens at {bound}"));
    if child.announce {
        data(format!("{bound}\n").as_bytes())?;
    }
    Ok(())
}

fn prepare_child(child: Child) -> Result<(), Failure> {
    if child.own_session {
        rustix::process::setsid()
            .map_err(|error| Failure::unavailable(format!("no session of its own: {error}")))?;
    }
    Ok(())
}

/// Comes when the process should stop.
fn stop(child: Child) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let failed = |error| Failure::unavailable(format!("cannot listen for signals: {error}"));
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate()).map_err(failed)?,
        interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
    };
    let mut parent = child.parent_pipe.then(watch_parent);
    Ok(async move {
        let why = tokio::select! {
            name = signals.next() => name,
            () = gone(&mut parent) => "the parent is gone",
        };
        talk(&format!("stopping: {why}"));
        tokio::spawn(async move {
            tokio::select! {
                name = signals.next() => talk(&format!("ending at once: {name} again")),
                () = tokio::time::sleep(STOP_TIMEOUT) => {
                    talk(&format!("ending at once: the stop took over {} s", STOP_TIMEOUT.as_secs()));
                }
            }
            std::process::exit(i32::from(Code::Unavailable as u8));
        });
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A thread that waits for the end of standard input.
fn watch_parent() -> watch::Receiver<()> {
    let (alive, gone) = watch::channel(());
    std::thread::spawn(move || {
        let mut byte = [0];
        // A parent sends nothing; its end, clean or not, is all there is to hear.
        while matches!(std::io::stdin().read(&mut byte), Ok(read) if read > 0) {}
        drop(alive);
    });
    gone
}

async fn gone(parent: &mut Option<watch::Receiver<()>>) {
    match parent {
        Some(parent) => while parent.changed().await.is_ok() {},
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Tracing;

    fn running() -> Running {
        let (tracing, child) = (Tracing::default(), Child::default());
        Running { advertise: None, log: String::new(), tracing, child }
    }

    #[test]
    fn an_address_gets_the_port_it_lacks() {
        let table = [
            ("127.0.0.1", "127.0.0.1:9"),
            ("127.0.0.1:5", "127.0.0.1:5"),
            ("host", "host:9"),
            ("::1", "[::1]:9"),
            ("[::1]", "[::1]:9"),
            ("[::1]:5", "[::1]:5"),
        ];
        for (typed, meant) in table {
            assert_eq!(with_port(typed, 9), meant);
        }
    }

    #[test]
    fn a_server_is_named_as_others_reach_it() {
        let mut running = running();
        let any = "0.0.0.0:7".parse().unwrap();
        assert!(named(&running, any).starts_with("HOST:7, where HOST is"));
        assert_eq!(named(&running, "127.0.0.1:7".parse().unwrap()), "127.0.0.1:7");
        running.advertise = Some("db".to_owned());
        assert_eq!(named(&running, any), "db:7");
    }

    #[test]
    fn what_nobody_can_call_is_not_advertised() {
        let mut running = running();
        let any = "0.0.0.0:7".parse().unwrap();
        assert!(advertised(&running, any).unwrap_err().to_string().contains("--advertise"));
        assert_eq!(advertised(&running, "127.0.0.1:7".parse().unwrap()).unwrap(), "127.0.0.1:7");
        running.advertise = Some("db.example".to_owned());
        assert_eq!(advertised(&running, any).unwrap(), "db.example:7");
    }
}
