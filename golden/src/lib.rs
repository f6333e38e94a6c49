//! What the golden scripts of the cores share: one way to run a folder of them, one way to write
//! the words of the protocol in them, one way to print its types.
//!
//! * [`run_all`]: every script of a folder, each a claim named by its file.
//! * [`Args`]: the arguments of one command. Lists are written with commas, a flag as `word=`.
//! * [`members`], [`promise`], [`view`], [`directory`]: what is not one word in the protocol.
//! * [`mod@print`]: records and digests as a few words.
//!
//! What it does not do: it knows no core, no event and no effect. Those are each runner's own. It
//! is a dev-dependency only, so that no product build carries it.

pub mod print;

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use goldenscript::{ArgumentConsumer, Command, Runner};
use quorate_protocol::ids::{History, NodeId, StoreId};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Members, Registration, View};

/// What reading a script gives, or what is wrong with the script.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Runs every script in a folder, each with a runner of its own, and fails with the names of
/// those whose output differs: a change of a rule shows in several. `UPDATE_GOLDENFILES=1` writes
/// the outputs anew.
///
/// # Panics
///
/// If a script fails, or there is none.
pub fn run_all<R: Runner>(folder: &str, runner: impl Fn() -> R) {
    let entries = std::fs::read_dir(folder).expect("the folder of scripts is there");
    let mut scripts: Vec<_> =
        entries.map(|entry| entry.expect("the folder can be listed").path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no script in {folder}");
    let passes = |script: &std::path::PathBuf| {
        let run = || goldenscript::run(&mut runner(), script).expect("the script can be run");
        catch_unwind(AssertUnwindSafe(run)).is_ok()
    };
    let failed: Vec<_> = scripts.iter().filter(|script| !passes(script)).collect();
    let names: Vec<_> = failed.iter().filter_map(|script| script.file_name()).collect();
    assert!(names.is_empty(), "these scripts failed: {names:?}");
}

/// The arguments of one command, each taken once.
pub struct Args<'a>(ArgumentConsumer<'a>);

impl<'a> Args<'a> {
    /// Those of `command`.
    #[must_use]
    pub fn of(command: &'a Command) -> Self {
        Self(command.consume_args())
    }

    /// The next word, if there is one.
    pub fn word(&mut self) -> Option<&'a str> {
        self.0.next_pos()
    }

    /// The next word, read as a `T`.
    ///
    /// # Errors
    ///
    /// If there is none, or it is no `T`.
    pub fn take<T: FromStr<Err: Error + 'static>>(&mut self) -> Outcome<T> {
        self.take_as(parse)
    }

    /// The next word, read by `read`.
    ///
    /// # Errors
    ///
    /// If there is none, or `read` cannot read it.
    pub fn take_as<T>(&mut self, read: impl FnOnce(&str) -> Outcome<T>) -> Outcome<T> {
        read(self.word().ok_or("an argument is missing")?)
    }

    /// The words left.
    ///
    /// # Errors
    ///
    /// If one of them is no `T`.
    pub fn rest<T, C>(&mut self) -> Outcome<C>
    where
        T: FromStr<Err: Error + 'static>,
        C: FromIterator<T>,
    {
        std::iter::from_fn(|| self.word()).map(parse).collect()
    }

    /// What is written `key=…`, read as a `T`.
    ///
    /// # Errors
    ///
    /// If it is no `T`.
    pub fn key<T: FromStr<Err: Error + 'static>>(&mut self, key: &str) -> Outcome<Option<T>> {
        self.key_as(key, parse)
    }

    /// What is written `key=…`, read by `read`.
    ///
    /// # Errors
    ///
    /// If `read` cannot read it.
    pub fn key_as<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&str) -> Outcome<T>,
    ) -> Outcome<Option<T>> {
        self.text(key).map(read).transpose()
    }

    /// What is written `key=…`.
    pub fn text(&mut self, key: &str) -> Option<&'a str> {
        self.0.take_key(key)
    }

    /// Whether `word=` is there.
    pub fn flag(&mut self, word: &str) -> bool {
        self.text(word).is_some()
    }

    /// The next of the keys left, and what is written behind it.
    pub fn pair(&mut self) -> Option<(&'a str, &'a str)> {
        self.0.next_key()
    }

    /// Ends the command.
    ///
    /// # Errors
    ///
    /// If an argument was not taken: a script that says what nobody hears is wrong.
    pub fn finish(self) -> Outcome<()> {
        self.0.reject_next()
    }
}

/// Reads one word.
///
/// # Errors
///
/// If it is no `T`; says which word.
pub fn parse<T: FromStr<Err: Error + 'static>>(text: &str) -> Outcome<T> {
    Ok(text.parse::<T>().map_err(|error| format!("{text}: {error}"))?)
}

/// Reads `a,b,c`; of nothing come none.
///
/// # Errors
///
/// If one of them cannot be read.
pub fn list<T, C>(text: &str) -> Outcome<C>
where
    T: FromStr<Err: Error + 'static>,
    C: FromIterator<T>,
{
    text.split(',').filter(|word| !word.is_empty()).map(parse).collect()
}

/// Reads `n1,n2`.
///
/// # Errors
///
/// If one of them is no node.
pub fn members(text: &str) -> Outcome<Members> {
    list::<NodeId, _>(text)
}

/// Reads `e3/n1`.
///
/// # Errors
///
/// If it is no promise.
pub fn promise(text: &str) -> Outcome<Promise> {
    let (epoch, coordinator) = text.split_once('/').ok_or("a promise is EPOCH/NODE")?;
    Ok(Promise { epoch: parse(epoch)?, coordinator: parse(coordinator)? })
}

/// The view that a promise and members make.
#[must_use]
pub fn view(history: History, promise: Promise, members: Members) -> View {
    let Promise { epoch, coordinator } = promise;
    View { history, epoch, coordinator, members }
}

/// Every node where a script expects it: `n2` at `host2`, with a disk and a store of its number.
#[must_use]
pub fn directory(nodes: &Members) -> Directory {
    let registration = |node: NodeId| Registration {
        address: format!("host{}", node.0),
        store: StoreId(node.0.into()),
        durable: true,
        floor: Version::ZERO,
        marked: false,
    };
    nodes.iter().map(|node| (node, registration(node))).collect()
}
