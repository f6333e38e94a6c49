//! The shell and scripts: lines in, one answer a line out.
//!
//! On a terminal lines are edited (`terminal`) and nothing that goes wrong ends the session. Anything
//! else is a script: it goes on after a failure, names the line of each, and ends with the first
//! failure's code. A missing key is an answer and no failure.

use std::io::{self, BufRead, IsTerminal, Read};

use tokio::sync::mpsc;

use crate::exit::{Code, Failure};
use crate::output::talk;
use crate::script::{LINE_BYTES_MAX, Step, parse_line};
use crate::session::{Next, Session};
use crate::terminal::{self, Restore};

/// A line, or why there is none; then no other comes.
pub(crate) type Line = Result<String, String>;

/// Lines, each when it is wanted. Threads of their own read them, so that everything else goes on
/// meanwhile.
pub(crate) struct Lines {
    lines: mpsc::Receiver<Line>,
    /// On a terminal, which shows a prompt for each wish.
    wishes: Option<mpsc::Sender<()>>,
    _terminal: Option<Restore>,
}

impl Lines {
    fn spawn(read: impl FnOnce(&mpsc::Sender<Line>) + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel(1);
        std::thread::spawn(move || read(&sender));
        Self { lines, wishes: None, _terminal: None }
    }

    async fn next(&mut self) -> Option<Line> {
        if let Some(wishes) = &self.wishes {
            // A reader that has ended is told by the other channel.
            let _ = wishes.send(()).await;
        }
        self.lines.recv().await
    }
}

/// Whether a person sits at standard input.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// What a person types, or else the lines of standard input.
pub(crate) fn input() -> Lines {
    if !is_interactive() {
        return standard_input();
    }
    let restore = Restore::prepare();
    let (wishes, wished) = mpsc::channel(1);
    let lines = Lines::spawn(move |lines| terminal::read_lines(wished, lines));
    Lines { wishes: Some(wishes), _terminal: Some(restore), ..lines }
}

/// The lines of standard input as they come.
pub(crate) fn standard_input() -> Lines {
    Lines::spawn(|lines| read_lines(io::stdin().lock(), lines))
}

/// The lines of a script that is there already.
pub(crate) fn lines_of(text: Vec<u8>) -> Lines {
    Lines::spawn(|lines| read_lines(io::Cursor::new(text), lines))
}

fn read_lines(mut from: impl BufRead, lines: &mpsc::Sender<Line>) {
    loop {
        let mut line = Vec::new();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let read = match from.by_ref().take(limit).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) if line.len() > LINE_BYTES_MAX => {
                Err(format!("a line of more than {LINE_BYTES_MAX} bytes; the rest is not read"))
            }
            Ok(_) => String::from_utf8(line).map_err(|_| "a line that is not UTF-8".to_owned()),
            Err(error) => Err(format!("cannot read on: {error}")),
        };
        let last = read.is_err();
        if lines.blocking_send(read).is_err() || last {
            return;
        }
    }
}

/// Runs lines until they end or say `quit`; gives the code to end with.
pub(crate) async fn run(session: &Session, mut lines: Lines, interactive: bool) -> Code {
    let mut first_failure = Code::Done;
    let mut number = 0;
    loop {
        let Some(line) = lines.next().await else { break };
        number += 1;
        let outcome = match line.and_then(|line| parse_line(&line)) {
            Ok(None) => continue,
            Ok(Some(step)) => session.perform(step).await,
            Err(why) => Err(Failure::usage(why)),
        };
        match outcome {
            Ok(Next::Go) => {}
            Ok(Next::Quit) => break,
            // Nobody reads what the rest would say.
            Err(failure) if failure.is_quiet() => break,
            Err(failure) if interactive => talk(&failure.to_string()),
            Err(failure) => {
                talk(&format!("line {number}: {failure}"));
                first_failure = first(first_failure, failure.code);
            }
        }
    }
    if interactive { Code::Done } else { first_failure }
}

/// Runs steps that are parsed already.
pub(crate) async fn run_steps(session: &Session, steps: Vec<Step>) -> Code {
    let mut first_failure = Code::Done;
    for (at, step) in steps.into_iter().enumerate() {
        if let Err(failure) = session.perform(step).await {
            if failure.is_quiet() {
                break;
            }
            talk(&format!("step {}: {failure}", at + 1));
            first_failure = first(first_failure, failure.code);
        }
    }
    first_failure
}

fn first(first: Code, next: Code) -> Code {
    if first == Code::Done { next } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8]) -> Vec<Result<String, String>> {
        let mut lines = lines_of(text.to_vec());
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn lines_end_where_they_end() {
        let read = lines(b"a\r\nb").await;
        assert_eq!(read, [Ok("a\r\n".to_owned()), Ok("b".to_owned())]);
    }

    #[tokio::test]
    async fn what_cannot_be_a_line_ends_the_reading() {
        let read = lines(b"\xff\nmore\n").await;
        assert!(matches!(read.as_slice(), [Err(why)] if why.contains("UTF-8")));
        let read = lines(&vec![b'x'; LINE_BYTES_MAX + 5]).await;
        assert!(matches!(read.as_slice(), [Err(why)] if why.contains("more than")));
    }
}
