//! Lines typed by a person: with editing, history, and completion of command names.
//!
//! A thread reads, a line at a time and only when one is wanted, so that the answer to one line
//! stands before the prompt for the next. The prompt is written to the terminal itself: standard
//! output stays data, also where it is sent elsewhere. Where the terminal cannot be edited on,
//! lines are read as they come.
//!
//! The history is kept in `$XDG_STATE_HOME/quorate/history`, or `~/.local/state/quorate/history`:
//! the last [`HISTORY_LINES_MAX`] lines, readable to their owner only, for lines hold values. A
//! line that begins with a blank is not kept. That it cannot be read or written is no failure.

use std::io::{self, Write};
use std::path::PathBuf;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::config::Behavior;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use tokio::sync::mpsc;

use crate::script::{COMMANDS, LINE_BYTES_MAX};
use crate::shell::{Line, NoLine, read_line};

const PROMPT: &str = "quorate> ";

/// How many lines the history keeps.
const HISTORY_LINES_MAX: usize = 1_000;

/// The terminal as it was found. It is put back when this is dropped: the reading thread may then
/// still wait in the midst of a line.
pub(crate) struct Restore(Option<Termios>);

impl Restore {
    pub(crate) fn prepare() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(found) = &self.0 {
            // A terminal that is gone needs nothing put back.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, found);
        }
    }
}

/// Reads a line for each wish, until the end of the input.
pub(crate) fn read_lines(mut wishes: mpsc::Receiver<()>, lines: &mpsc::Sender<Line>) {
    let mut keyboard = Keyboard::open();
    while wishes.blocking_recv().is_some() {
        let Some(line) = keyboard.read() else { return };
        let last = matches!(line, Err(NoLine::Broken(_)));
        if lines.blocking_send(line).is_err() || last {
            return;
        }
    }
}

enum Keyboard {
    Edited { editor: Box<Editor<Commands, FileHistory>>, history: Option<PathBuf> },
    Plain,
}

impl Keyboard {
    fn open() -> Self {
        let config = Config::builder()
            .behavior(Behavior::PreferTerm)
            .completion_type(CompletionType::List)
            // What is pasted is many lines, as in a script.
            .bracketed_paste(false)
            .history_ignore_space(true)
            .max_history_size(HISTORY_LINES_MAX);
        let Ok(config) = config else { return Self::Plain };
        let Ok(mut editor) = Editor::with_config(config.build()) else { return Self::Plain };
        editor.set_helper(Some(Commands));
        let history = history_file();
        if let Some(file) = &history {
            // Not there yet, or of somebody else: then it begins empty.
            let _ = editor.load_history(file);
        }
        Self::Edited { editor: Box::new(editor), history }
    }

    /// The next line; `None` where there will be none.
    fn read(&mut self) -> Option<Line> {
        match self {
            Self::Plain => read_plain(),
            Self::Edited { editor, history } => match editor.readline(PROMPT) {
                Ok(line) if line.len() > LINE_BYTES_MAX => Some(Err(NoLine::too_long())),
                Ok(line) => {
                    remember(editor, history.as_ref(), &line);
                    Some(Ok(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => None,
                Err(error) => Some(Err(NoLine::broken(&error))),
            },
        }
    }
}

fn read_plain() -> Option<Line> {
    let mut out = io::stderr().lock();
    // Without a prompt the shell still works.
    let _ = write!(out, "{PROMPT}").and_then(|()| out.flush());
    read_line(io::stdin().lock())
}

fn remember(editor: &mut Editor<Commands, FileHistory>, file: Option<&PathBuf>, line: &str) {
    if !editor.add_history_entry(line).unwrap_or(false) {
        return;
    }
    if let Some(file) = file {
        if let Some(dir) = file.parent() {
            let _ = std::fs::create_dir_all(dir);
        }
        // After each line, so that a shell that is killed loses none. It makes the file for its
        // owner only.
        let _ = editor.append_history(file);
    }
}

fn history_file() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local").join("state")))?;
    Some(state.join("quorate").join("history"))
}

/// Completes the first word of a line.
struct Commands;

fn candidates(line: &str, at: usize) -> (usize, Vec<String>) {
    let typed = line.get(..at).unwrap_or_default();
    let word = typed.trim_start();
    if word.contains(char::is_whitespace) {
        return (at, Vec::new());
    }
    let fitting = COMMANDS.iter().filter(|name| name.starts_with(&word.to_ascii_lowercase()));
    (typed.len() - word.len(), fitting.map(|name| format!("{name} ")).collect())
}

impl Completer for Commands {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(candidates(line, at))
    }
}

impl Hinter for Commands {
    type Hint = String;
}

impl Highlighter for Commands {}

impl Validator for Commands {}

impl Helper for Commands {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_completed() {
        let table: [(&str, usize, &[&str]); 6] = [
            ("wr", 0, &["write "]),
            ("  DEL", 2, &["delete "]),
            ("re", 0, &["read ", "restart "]),
            ("xyz", 0, &[]),
            ("read wr", 7, &[]),
            ("write k é", 10, &[]),
        ];
        for (line, start, names) in table {
            let (at, found) = candidates(line, line.len());
            assert_eq!((at, found), (start, names.iter().map(|n| (*n).to_owned()).collect()));
        }
        assert_eq!(candidates("", 0).1.len(), COMMANDS.len());
    }
}
