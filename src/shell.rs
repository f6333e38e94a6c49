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

/// A line, or why it is none.
pub(crate) type Line = Result<String, NoLine>;

/// Why there is no line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoLine {
    /// What stands there cannot be one. The next may be.
    Bad(String),
    /// No other comes.
    Broken(String),
}

impl NoLine {
    pub(crate) fn too_long() -> Self {
        Self::Bad(format!("a line of more than {LINE_BYTES_MAX} bytes; it was not done"))
    }

    pub(crate) fn broken(error: &impl ToString) -> Self {
        Self::Broken(format!("cannot read on: {}", error.to_string()))
    }
}

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
    let mut is_first = true;
    while let Some(mut line) = read_line(&mut from) {
        // A mark that some editors put before everything, and that nobody sees.
        if let (true, Ok(text)) = (std::mem::take(&mut is_first), &mut line)
            && let Some(rest) = text.strip_prefix('\u{feff}')
        {
            *text = rest.to_owned();
        }
        let last = matches!(line, Err(NoLine::Broken(_)));
        if lines.blocking_send(line).is_err() || last {
            return;
        }
    }
}

/// The next line; `None` at the end.
pub(crate) fn read_line(mut from: impl BufRead) -> Option<Line> {
    let mut line = Vec::new();
    let limit = LINE_BYTES_MAX as u64 + 1;
    match from.by_ref().take(limit).read_until(b'\n', &mut line) {
        Ok(0) => None,
        Ok(_) if line.len() > LINE_BYTES_MAX => {
            let ended = line.ends_with(b"\n");
            Some(Err(match if ended { Ok(()) } else { skip_line(from) } {
                Ok(()) => NoLine::too_long(),
                Err(error) => NoLine::broken(&error),
            }))
        }
        Ok(_) => Some(
            String::from_utf8(line)
                .map_err(|_| NoLine::Bad("a line that is not UTF-8; it was not done".to_owned())),
        ),
        Err(error) => Some(Err(NoLine::broken(&error))),
    }
}

/// Reads up to the end of the line and keeps nothing of it.
fn skip_line(mut from: impl BufRead) -> io::Result<()> {
    loop {
        let buffered = match from.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffered => buffered?,
        };
        let (used, ended) = match buffered.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffered.len(), buffered.is_empty()),
        };
        from.consume(used);
        if ended {
            return Ok(());
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
        let parsed = match line {
            Ok(line) => parse_line(&line),
            Err(NoLine::Bad(why) | NoLine::Broken(why)) => Err(why),
        };
        let outcome = match parsed {
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

    async fn lines(text: &[u8]) -> Vec<Line> {
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
        let read = lines("\u{feff}a\n\u{feff}b".as_bytes()).await;
        assert_eq!(read, [Ok("a\n".to_owned()), Ok("\u{feff}b".to_owned())], "a mark in front");
    }

    #[tokio::test]
    async fn what_cannot_be_a_line_is_told_and_the_next_is_read() {
        let more = || Ok("more\n".to_owned());
        let read = lines(b"\xff\nmore\n").await;
        let [Err(NoLine::Bad(why)), next] = read.as_slice() else { panic!("{read:?}") };
        assert!(why.contains("UTF-8") && *next == more(), "{read:?}");
        for length in [LINE_BYTES_MAX, LINE_BYTES_MAX + 1, LINE_BYTES_MAX + 70_000] {
            let read = lines(&[&vec![b'x'; length][..], b"\nmore\n"].concat()).await;
            assert_eq!(read, [Err(NoLine::too_long()), more()], "{length}");
        }
        let read = lines(&vec![b'x'; LINE_BYTES_MAX + 5]).await;
        assert_eq!(read, [Err(NoLine::too_long())], "without an end");
    }
}
