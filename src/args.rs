//! The command line as typed. What it means is found out by `discover`, `roles`, `up` and the
//! commands.
//!
//! Every flag can be given in the environment as well; a flag wins. Only the two that give data
//! up cannot: left behind in a service's environment, they would do so at every start.

mod bench;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use quorate_node::log::disk::{SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use quorate_node::state::{MEMTABLE_BYTES_DEFAULT, MEMTABLE_BYTES_MAX, MEMTABLE_BYTES_MIN};

use crate::script::Whom;

pub(crate) use bench::{Bench, CONNECTIONS_MAX, Workload};

/// Where `quorate up` keeps a cluster unless told otherwise.
pub(crate) const DATA_DEFAULT: &str = ".quorate";

const EXIT_CODES: &str = "Exit codes: 0 done, 1 no such key, 2 usage, 3 refused, \
4 outcome unknown, 5 unavailable.";

/// A small, durable, linearizable key-value store for a handful of machines.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Typed {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a whole cluster on this machine, and a shell or script on it
    Up(Up),
    /// Stop a cluster that `quorate up` started
    Down(Down),
    /// Run the server, the registry of a cluster
    Server(Server),
    /// Run one node
    Node(Node),
    /// Print what a key holds
    #[command(alias = "get")]
    Read(Read),
    /// Write a value
    #[command(alias = "put")]
    Write(Write),
    /// Delete a key
    #[command(alias = "del")]
    Delete(Delete),
    /// Do nothing for some milliseconds
    Sleep {
        /// How many milliseconds
        ms: u64,
    },
    /// Read commands from the terminal, or lines from a pipe
    Shell(Shell),
    /// Run a script: a file, `-` for standard input, or steps such as R,k W,k,v D,k T,500
    Run(Run),
    /// Show the server and every node, as far as they can be reached; ends with 0 only where the
    /// cluster serves
    Status(Status),
    /// Show the cluster's settings, or change one
    Settings(Settings),
    /// Measure a cluster: load it with requests, and tell how fast it answers
    Bench(Bench),
    /// Check the files of a stopped server, node or `quorate up`, and change none
    Verify(Verify),
    /// Show what traced processes wrote: as a timeline, as a page, or in words
    #[command(subcommand)]
    Trace(TraceCommand),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// How to find a cluster.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Find {
    /// Addresses of the server; to read and write, and for `status`, those of nodes do as well
    /// [default: the cluster that `quorate up` runs in ./.quorate, else 127.0.0.1:4747]
    #[arg(long, env = "QUORATE_SERVER", value_name = "ADDR[,ADDR]", value_delimiter = ',')]
    #[arg(global = true)]
    pub(crate) server: Vec<String>,
}

/// What every command takes that talks to a cluster.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Reach {
    #[command(flatten)]
    pub(crate) find: Find,
    #[command(flatten)]
    pub(crate) tracing: Tracing,
}

/// Whether and how a process is traced.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Tracing {
    /// Write what the process does into this directory, for `quorate trace`
    #[arg(long, env = "QUORATE_TRACE", value_name = "DIR", global = true)]
    pub(crate) trace: Option<PathBuf>,
    /// What the process is called in the trace [default: its role, with its address or a number]
    #[arg(long, env = "QUORATE_TRACE_NAME", value_name = "NAME", global = true)]
    pub(crate) trace_name: Option<String>,
}

/// How to ask.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Ask {
    /// How long to try, such as 500ms, 10s or 1m
    #[arg(long, env = "QUORATE_TIMEOUT", value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = parse_time)]
    pub(crate) timeout: Duration,
    /// How to print
    #[arg(short, long, env = "QUORATE_OUTPUT", value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
    /// Tell which node answered, and at which version
    #[arg(short, long, env = "QUORATE_VERBOSE", value_parser = FalseyValueParser::new())]
    pub(crate) verbose: bool,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct How {
    /// How sure a read must be: `majority` is linearizable, `weak` may be stale
    #[arg(long, env = "QUORATE_LEVEL", default_value = "majority")]
    pub(crate) level: Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    Majority,
    Weak,
}

impl From<Level> for quorate_client::Level {
    fn from(typed: Level) -> Self {
        match typed {
            Level::Majority => Self::Majority,
            Level::Weak => Self::Weak,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Read {
    /// The key
    pub(crate) key: String,
    /// Print the value byte for byte, without a newline behind it
    #[arg(long, env = "QUORATE_RAW", value_parser = FalseyValueParser::new())]
    #[arg(conflicts_with = "output")]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) ask: Ask,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Write {
    /// The key
    pub(crate) key: String,
    /// The value; `-` takes it from standard input, `@FILE` from a file; `@@x` is the text `@x`, and
    /// `@=TEXT` is TEXT whatever it begins with, so `@=-` is a dash and `@=-v` no flag
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: String,
    #[command(flatten)]
    pub(crate) ask: Ask,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The key
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) ask: Ask,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Shell {
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) ask: Ask,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A file of shell lines, `-` for standard input, or the steps themselves
    #[arg(required = true, value_name = "FILE | STEP")]
    pub(crate) script: Vec<String>,
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) ask: Ask,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show it again every second until interrupted
    #[arg(short, long, env = "QUORATE_WATCH", value_parser = FalseyValueParser::new())]
    pub(crate) watch: bool,
    /// How long to wait for those that do not answer, such as 500ms or 2s
    #[arg(long, env = "QUORATE_TIMEOUT", value_name = "TIME", default_value = "1s")]
    #[arg(value_parser = parse_time)]
    pub(crate) timeout: Duration,
    /// How to print
    #[arg(short, long, env = "QUORATE_OUTPUT", value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The data directory
    pub(crate) dir: PathBuf,
    /// How to print
    #[arg(short, long, env = "QUORATE_OUTPUT", value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = false)]
pub(crate) struct Settings {
    #[command(subcommand)]
    pub(crate) change: Option<SettingsChange>,
    /// How long to try, such as 500ms, 10s or 1m
    #[arg(
        long,
        env = "QUORATE_TIMEOUT",
        value_name = "TIME",
        default_value = "10s",
        global = true
    )]
    #[arg(value_parser = parse_time)]
    pub(crate) timeout: Duration,
    /// How to print
    #[arg(short, long, env = "QUORATE_OUTPUT", value_name = "FORMAT", default_value = "text")]
    #[arg(global = true)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SettingsChange {
    /// Change one setting while the cluster runs
    Set {
        /// Its name, as `quorate settings` prints it
        name: String,
        /// Its new value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// One trace of all processes, for Perfetto and chrome://tracing
    Merge(Merge),
    /// A page with the space-time diagram, for any browser
    View(View),
    /// The log that ShiViz and TSViz read
    Shiviz(Shiviz),
    /// The story of a key, of a request or of the elections, in words and in causal order; ends
    /// with 1 where there is none
    Explain(Explain),
}

#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// Directories that processes were given with --trace, of one machine or brought from several
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Where to write; `-` is standard output
    #[arg(short, long, env = "QUORATE_OUT", value_name = "FILE", default_value = "trace.json")]
    pub(crate) out: PathBuf,
    /// Write the page too
    #[arg(long, env = "QUORATE_HTML", value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct View {
    /// Directories that processes were given with --trace, of one machine or brought from several
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Where to write; `-` is standard output
    #[arg(short, long, env = "QUORATE_OUT", value_name = "FILE", default_value = "trace.html")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Shiviz {
    /// Directories that processes were given with --trace, of one machine or brought from several
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Where to write; `-` is standard output
    #[arg(short, long, env = "QUORATE_OUT", value_name = "FILE", default_value = "trace.log")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Directories that processes were given with --trace, of one machine or brought from several
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) about: About,
}

/// What is to be told.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct About {
    /// What happened to this key
    #[arg(long, env = "QUORATE_KEY", value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
    /// What happened to this request, named as the logs name it: 0c0ffee0.12
    #[arg(long, env = "QUORATE_REQUEST", value_name = "REQUEST")]
    pub(crate) request: Option<String>,
    /// How coordinators came and went
    #[arg(long, env = "QUORATE_ELECTION", value_parser = FalseyValueParser::new())]
    pub(crate) election: bool,
}

/// What both roles take.
#[derive(Clone, Debug, Args)]
pub(crate) struct Running {
    /// The address others should call, where it is not the one listened on
    #[arg(long, env = "QUORATE_ADVERTISE", value_name = "ADDR")]
    pub(crate) advertise: Option<String>,
    /// What to log on standard error: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, env = "QUORATE_LOG", value_name = "LEVEL", default_value = "info")]
    pub(crate) log: String,
    #[command(flatten)]
    pub(crate) tracing: Tracing,
    #[command(flatten)]
    pub(crate) child: Child,
}

/// How `quorate up` runs its children.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Child {
    /// Stop when standard input ends: whoever holds its other end is gone
    #[arg(long, hide = true)]
    pub(crate) parent_pipe: bool,
    /// Move to a session of its own
    #[arg(long, hide = true)]
    pub(crate) own_session: bool,
    /// Print the address listened on as one line on standard output
    #[arg(long, hide = true)]
    pub(crate) announce: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Server {
    /// Where to listen
    #[arg(long, env = "QUORATE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4747")]
    pub(crate) listen: String,
    /// Where the server keeps its state
    #[arg(long, env = "QUORATE_DATA", value_name = "DIR", default_value = "quorate-server")]
    pub(crate) data: PathBuf,
    /// A new cluster takes letters and digits only, as keys and as values
    #[arg(long, env = "QUORATE_ALPHANUMERIC", value_parser = FalseyValueParser::new())]
    pub(crate) alphanumeric: bool,
    /// Go on without the majority, where too many members are gone for good: tells what may be
    /// lost, asks, and lets the cluster start over from the first node that answers. Not taken
    /// from the environment, nor is --yes
    #[arg(long)]
    pub(crate) abandon_data: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) running: Running,
}

#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(flatten)]
    pub(crate) find: Find,
    /// Where to listen; port 0 takes any
    #[arg(long, env = "QUORATE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: String,
    /// Where the node keeps its data [default: quorate-node]
    #[arg(long, env = "QUORATE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Keep everything in memory: the node comes back as a new one
    #[arg(long, env = "QUORATE_MEMORY", value_parser = FalseyValueParser::new())]
    pub(crate) memory: bool,
    #[command(flatten)]
    pub(crate) pieces: Pieces,
    #[command(flatten)]
    pub(crate) running: Running,
}

/// How large the pieces of a node's files are: for tests, which make them small.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Pieces {
    /// The length of a segment of the log, in bytes
    #[arg(long, hide = true, value_name = "BYTES", conflicts_with = "memory")]
    #[arg(default_value_t = SEGMENT_BYTES_DEFAULT)]
    #[arg(value_parser = value_parser!(u64).range(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX))]
    pub(crate) log_segment_bytes: u64,
    /// How much is new when the state writes a table, in bytes; kept from when the state was made
    #[arg(long, hide = true, value_name = "BYTES", conflicts_with = "memory")]
    #[arg(default_value_t = MEMTABLE_BYTES_DEFAULT)]
    #[arg(value_parser = value_parser!(u64).range(MEMTABLE_BYTES_MIN..=MEMTABLE_BYTES_MAX))]
    pub(crate) memtable_bytes: u64,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_precedence_over_arg = true)]
pub(crate) struct Up {
    #[command(subcommand)]
    pub(crate) control: Option<Control>,
    #[command(flatten)]
    pub(crate) start: Start,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// How many nodes [default: as many as there were, else 3]
    #[arg(long, env = "QUORATE_NODES", value_name = "N")]
    #[arg(value_parser = value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
    pub(crate) nodes: Option<u32>,
    /// Keep nothing on disk
    #[arg(long, env = "QUORATE_MEMORY", value_parser = FalseyValueParser::new())]
    pub(crate) memory: bool,
    /// Where the cluster's files are
    #[arg(long, env = "QUORATE_DATA", value_name = "DIR", default_value = DATA_DEFAULT)]
    pub(crate) data: PathBuf,
    /// A new cluster takes letters and digits only, as keys and as values
    #[arg(long, env = "QUORATE_ALPHANUMERIC", value_parser = FalseyValueParser::new())]
    pub(crate) alphanumeric: bool,
    /// Return once the cluster serves; `quorate down` stops it
    #[arg(long, env = "QUORATE_DETACH", value_parser = FalseyValueParser::new())]
    pub(crate) detach: bool,
    /// What the processes log into the data directory
    #[arg(long, env = "QUORATE_LOG", value_name = "LEVEL", default_value = "info")]
    pub(crate) log: String,
    /// Write what each process does into this directory, for `quorate trace`
    #[arg(long, env = "QUORATE_TRACE", value_name = "DIR")]
    pub(crate) trace: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// The most nodes `quorate up` starts.
pub(crate) const NODES_MAX: u32 = 10;

#[derive(Debug, Subcommand)]
pub(crate) enum Control {
    /// Start a node or the server again, killing it first if it runs
    Restart(Which),
    /// Kill a node or the server, as with kill -9
    Kill(Which),
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The node's number, as `quorate status` shows it, or `server`
    #[arg(value_name = "NODE | server")]
    pub(crate) whom: Whom,
    /// Where the cluster's files are
    #[arg(long, env = "QUORATE_DATA", value_name = "DIR", default_value = DATA_DEFAULT)]
    pub(crate) data: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Where the cluster's files are
    #[arg(long, env = "QUORATE_DATA", value_name = "DIR", default_value = DATA_DEFAULT)]
    pub(crate) data: PathBuf,
}

/// A length of time: a number with `ms`, `s` or `m`, or seconds.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        _ => return Err("write a time such as 500ms, 10s or 1m".to_owned()),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    match number.map(Duration::from_millis) {
        Some(time) if time.is_zero() => Err("no time is too short a time".to_owned()),
        Some(time) if time <= quorate_client::DEADLINE_MAX => Ok(time),
        Some(_) => Err("at most 60m".to_owned()),
        None => Err("write a time such as 500ms, 10s or 1m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Typed::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_variable_of_its_name() {
        fn check(command: &clap::Command) {
            for flag in command.get_arguments() {
                let Some(long) = flag.get_long() else { continue };
                let never = matches!(long, "help" | "version" | "abandon-data" | "yes");
                if flag.is_hide_set() || never {
                    continue;
                }
                let wanted = format!("QUORATE_{}", long.to_uppercase().replace('-', "_"));
                let found = flag.get_env().map(|name| name.to_string_lossy().into_owned());
                assert_eq!(found, Some(wanted), "--{long} of {}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Typed::command());
    }

    #[test]
    fn times_are_read_with_their_units() {
        let table = [("500ms", 500), ("2s", 2_000), ("2", 2_000), ("1m", 60_000)];
        for (text, ms) in table {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "0", "1h", "-1", "1.5s", "99999999999999999999", "61m", "µs"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pieces_of_files_have_bounds() {
        let node = |args: &[&str]| Typed::try_parse_from([&["quorate", "node"], args].concat());
        let small = ["--log-segment-bytes", "8192", "--memtable-bytes", "16384"];
        let Command::Node(typed) = node(&small).unwrap().command else { panic!("a node") };
        assert_eq!((typed.pieces.log_segment_bytes, typed.pieces.memtable_bytes), (8192, 16384));
        for wrong in [
            ["--log-segment-bytes", "8191"].as_slice(),
            &["--log-segment-bytes", "1073741825"],
            &["--memtable-bytes", "16383"],
            &["--memtable-bytes", "268435457"],
            &["--memory", "--memtable-bytes", "16384"],
        ] {
            assert!(node(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_cluster_is_controlled_or_started() {
        let typed = Typed::try_parse_from(["quorate", "up", "restart", "n2"]).unwrap();
        let Command::Up(Up { control: Some(Control::Restart(which)), .. }) = typed.command else {
            panic!("{typed:?}")
        };
        assert_eq!(which.whom, Whom::Node(quorate_protocol::ids::NodeId(2)));
        let typed = Typed::try_parse_from(["quorate", "up", "--nodes", "5"]).unwrap();
        let Command::Up(Up { control: None, start }) = typed.command else { panic!("{typed:?}") };
        assert_eq!(start.nodes, Some(5));
        for wrong in [["quorate", "up", "--nodes", "0"], ["quorate", "up", "--nodes", "11"]] {
            assert!(Typed::try_parse_from(wrong).is_err());
        }
    }
}
