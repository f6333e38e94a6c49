//! The one binary of Quorate.
//!
//! * `args`: the command line as typed; `discover`: finding the cluster that is meant.
//! * `commands`, `session`, `status`: talking to a cluster; `script`, `shell`, `terminal`: many
//!   commands; `value`: values as typed.
//! * `roles`: running as the server or as a node; `logging`: their log and traces.
//! * `bench`: measuring a cluster.
//! * `verify`: checking the files of what is stopped; `trace`: showing what was traced.
//! * `up`: a whole cluster on this machine, as real processes.
//! * `output`, `exit`: what is printed, and the exit codes.
//!
//! What is deliberately absent: anything of the protocol. That is in the libraries.

mod args;
mod bench;
mod commands;
mod discover;
mod exit;
mod logging;
mod output;
mod roles;
mod script;
mod session;
mod shell;
mod status;
mod terminal;
mod trace;
mod up;
mod value;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Command, Reach, Typed};
use exit::{Code, Failure};

fn main() -> ExitCode {
    let typed = Typed::try_parse().unwrap_or_else(|error| {
        if error.kind() == clap::error::ErrorKind::InvalidUtf8 {
            output::talk(
                "quorate: keys and words are UTF-8; write a value of other bytes from standard input \
                 (-) or from a file (@FILE)",
            );
        }
        error.exit()
    });
    let code = match run(typed.command) {
        Ok(code) => code,
        Err(failure) if failure.is_quiet() => failure.code,
        Err(failure) => {
            output::talk(&format!("quorate: {failure}"));
            failure.code
        }
    };
    code.into()
}

fn run(command: Command) -> Result<Code, Failure> {
    match command {
        Command::Up(typed) => up::up(typed),
        Command::Down(typed) => up::down(&typed),
        Command::Server(typed) => roles::server(typed),
        Command::Node(typed) => roles::node(typed),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Typed::command(), "quorate", &mut script);
            output::data(&script)?;
            Ok(Code::Done)
        }
        Command::Sleep { ms } => {
            if ms > script::SLEEP_MS_MAX {
                return Err(Failure::usage(format!("{} ms is the most", script::SLEEP_MS_MAX)));
            }
            std::thread::sleep(std::time::Duration::from_millis(ms));
            Ok(Code::Done)
        }
        Command::Verify(typed) => verify::verify(&typed),
        Command::Bench(typed) => client(&typed.reach.clone(), bench::bench(typed)),
        Command::Trace(typed) => trace::trace(&typed),
        Command::Read(typed) => client(&typed.reach.clone(), commands::read(typed)),
        Command::Write(typed) => client(&typed.reach.clone(), commands::write(typed)),
        Command::Delete(typed) => client(&typed.reach.clone(), commands::delete(typed)),
        Command::Shell(typed) => client(&typed.reach.clone(), commands::shell(typed)),
        Command::Run(typed) => client(&typed.reach.clone(), commands::run(typed)),
        Command::Status(typed) => client(&typed.reach.clone(), commands::status(typed)),
        Command::Settings(typed) => client(&typed.reach.clone(), commands::settings(typed)),
    }
}

/// Runs a command that talks to a cluster, with a trace where one is asked for.
fn client(
    reach: &Reach,
    work: impl Future<Output = Result<Code, Failure>>,
) -> Result<Code, Failure> {
    let _trace = logging::trace_only("client", &reach.tracing);
    block_on(work)
}

/// Runs `work` on this thread.
fn block_on(work: impl Future<Output = Result<Code, Failure>>) -> Result<Code, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::unavailable(format!("cannot start: {error}")))?.block_on(work)
}
