//! Files into pieces: what one file holds of one process.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::finding::{Finding, FindingKind, many};
use super::line::{self, FieldsOf, Header};
use super::words::{Word, Words};
use super::{Event, Limits, NO_EVENT};
use crate::chrome::SPANS_KIND;
use crate::record::LOG_KIND;

/// A longer line is no event.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// No trace is below a directory more deeply nested.
const DEPTH_MAX: usize = 4;

/// No more files are looked at.
const FILES_MAX: usize = 10_000;

/// What one file holds of one process.
pub(crate) struct Piece {
    /// Which of the directories that were asked for the file is in.
    pub(crate) directory: usize,
    pub(crate) host: Word,
    /// In the order of the file.
    pub(crate) events: Vec<Event>,
    /// The file ends within an event.
    pub(crate) torn: bool,
}

/// What is shared while files are read.
#[derive(Default)]
pub(crate) struct Sheaf {
    pub(crate) words: Words,
    /// What is said of the events, one behind the other.
    pub(crate) texts: String,
    /// Counts that differ from those of the process's event before, of one event behind those of
    /// another.
    pub(crate) changes: Vec<(Word, u64)>,
    pub(crate) findings: Vec<Finding>,
}

/// The files of a trace.
#[derive(Default)]
pub(crate) struct Files {
    /// Each with the place of its directory and how many bytes from its end are to be read.
    pub(crate) logs: Vec<(usize, PathBuf, u64)>,
    pub(crate) spans: Vec<PathBuf>,
}

/// Finds the files below the directories, and keeps the newest within the bound.
pub(crate) fn find(dirs: &[PathBuf], limits: &Limits, findings: &mut Vec<Finding>) -> Files {
    let mut found = Files::default();
    let mut logs = Vec::new();
    for (place, dir) in dirs.iter().enumerate() {
        if let Err(error) = walk(dir, place, DEPTH_MAX, &mut found.spans, &mut logs) {
            let text = format!("{} cannot be read: {error}", dir.display());
            findings.push(Finding::new(FindingKind::Unreadable, text));
        }
    }
    found.spans.sort();
    logs.sort();
    logs.dedup();
    let total: u64 = logs.iter().map(|log| log.2).sum();
    if total > limits.log_bytes_max {
        cut(&mut logs, limits.log_bytes_max);
        let text = format!(
            "these logs have {total} bytes, more than the {} that are read at once: the oldest \
            are left out",
            limits.log_bytes_max
        );
        findings.push(Finding::new(FindingKind::LeftOut, text));
    }
    found.logs = logs;
    found
}

type Log = (usize, PathBuf, u64);

fn walk(
    dir: &Path,
    place: usize,
    depth: usize,
    spans: &mut Vec<PathBuf>,
    logs: &mut Vec<Log>,
) -> io::Result<()> {
    // A single file may be named instead of a directory.
    let entries: Vec<PathBuf> = if dir.is_file() {
        vec![dir.to_owned()]
    } else {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?
    };
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if logs.len() + spans.len() >= FILES_MAX {
            return Err(io::Error::other(format!("there are more than {FILES_MAX} files")));
        }
        if path.is_dir() && depth > 0 {
            walk(&path, place, depth - 1, spans, logs)?;
        } else if name.ends_with(&format!(".{LOG_KIND}")) {
            logs.push((place, path.clone(), fs::metadata(&path)?.len()));
        } else if name.ends_with(&format!(".{SPANS_KIND}")) {
            spans.push(path);
        }
    }
    Ok(())
}

/// Keeps the files that were written last, of the last of them the end.
fn cut(logs: &mut Vec<Log>, bytes_max: u64) {
    let written = |path: &PathBuf| fs::metadata(path).and_then(|of| of.modified()).ok();
    logs.sort_by_cached_key(|(_, path, _)| (std::cmp::Reverse(written(path)), path.clone()));
    let mut left = bytes_max;
    for log in logs.iter_mut() {
        log.2 = log.2.min(left);
        left -= log.2;
    }
    logs.retain(|log| log.2 > 0);
    logs.sort();
}

/// Reads one log.
pub(crate) fn read(log: &Log, sheaf: &mut Sheaf) -> Vec<Piece> {
    let (directory, path, bytes) = log;
    let mut reading = Reading::new(*directory, sheaf);
    let outcome = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(*bytes)))?;
        reading.read(BufReader::with_capacity(256 * 1024, file.take(*bytes)), length > *bytes)
    });
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Reading { pieces, bad, first_bad, bare, torn, .. } = reading;
    if let Err(error) = outcome {
        let text = format!("{} cannot be read: {error}", path.display());
        sheaf.findings.push(Finding::new(FindingKind::Unreadable, text));
    }
    if bad > 0 {
        let text = format!(
            "{name}: {} no part of an event (the first is line {first_bad}): left out; was the \
            file edited?",
            if bad == 1 { "1 line is".to_owned() } else { format!("{bad} lines are") }
        );
        sheaf.findings.push(Finding::new(FindingKind::Edited, text));
    }
    if bare > 0 {
        let text = format!("{name}: of {} only the clock is there", many(bare, "event"));
        sheaf.findings.push(Finding::new(FindingKind::Edited, text));
    }
    if torn {
        let text = format!("{name}: its last event is there in part: left out");
        sheaf.findings.push(Finding::new(FindingKind::Torn, text));
    }
    pieces
}

struct Reading<'a> {
    directory: usize,
    sheaf: &'a mut Sheaf,
    pieces: Vec<Piece>,
    /// The last clock of each piece.
    clocks: Vec<Vec<(Word, u64)>>,
    line: usize,
    bad: usize,
    first_bad: usize,
    bare: usize,
    torn: bool,
}

impl<'a> Reading<'a> {
    fn new(directory: usize, sheaf: &'a mut Sheaf) -> Self {
        Self {
            directory,
            sheaf,
            pieces: Vec::new(),
            clocks: Vec::new(),
            line: 0,
            bad: 0,
            first_bad: 0,
            bare: 0,
            torn: false,
        }
    }

    /// `cut`: the input begins somewhere within a line.
    fn read(&mut self, mut input: impl BufRead, cut: bool) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut waiting: Option<(usize, usize)> = None;
        let mut begun = !cut;
        loop {
            bytes.clear();
            let whole = next_line(&mut input, &mut bytes)?;
            if bytes.is_empty() && whole == Line::End {
                break;
            }
            self.line += 1;
            if whole == Line::End {
                // The half line of an event that was being written when the process died.
                self.torn = true;
                waiting = None;
                break;
            }
            let text = String::from_utf8_lossy(&bytes);
            let header = if whole == Line::Whole { line::header(&text) } else { None };
            match (header, waiting.take()) {
                (Some(header), before) => {
                    self.bare += usize::from(before.is_some());
                    waiting = self.begin(&header);
                    begun = true;
                    if waiting.is_none() {
                        self.bad_line();
                    }
                }
                (None, Some((piece, event))) if whole == Line::Whole => {
                    self.tell(piece, event, &text);
                }
                (None, _) if begun && !text.trim().is_empty() => self.bad_line(),
                (None, _) => {}
            }
        }
        if let Some((piece, _)) = waiting {
            self.pieces[piece].events.pop();
            self.torn = true;
        }
        if self.torn
            && let Some(piece) = self.pieces.last_mut()
        {
            piece.torn = true;
        }
        Ok(())
    }

    fn bad_line(&mut self) {
        if self.bad == 0 {
            self.first_bad = self.line;
        }
        self.bad += 1;
    }

    /// Takes the first line of an event; `None` where the clock does not count it.
    fn begin(&mut self, header: &Header<'_>) -> Option<(usize, usize)> {
        let count = header.counts.iter().find(|(host, _)| *host == header.host)?.1;
        if count == 0 {
            return None;
        }
        let host = self.sheaf.words.add(header.host);
        let piece = self.pieces.iter().position(|piece| piece.host == host).unwrap_or_else(|| {
            let directory = self.directory;
            self.pieces.push(Piece { directory, host, events: Vec::new(), torn: false });
            self.clocks.push(Vec::new());
            self.pieces.len() - 1
        });
        let first_change = self.sheaf.changes.len();
        let clock = &mut self.clocks[piece];
        for (place, (name, count)) in header.counts.iter().enumerate() {
            let word = self.sheaf.words.add(name);
            if clock.get(place) != Some(&(word, *count)) {
                let known = clock.iter().position(|(known, _)| *known == word);
                if word != host && known.is_none_or(|known| clock[known].1 != *count) {
                    self.sheaf.changes.push((word, *count));
                }
                match known {
                    Some(known) => clock[known].1 = *count,
                    None => clock.insert(place.min(clock.len()), (word, *count)),
                }
            }
        }
        let kind = self.sheaf.words.add("event");
        let events = &mut self.pieces[piece].events;
        events.push(Event {
            process: 0,
            count,
            unix_ns: header.unix_ns,
            at: 0,
            level: crate::Level::Info,
            kind,
            text: (self.sheaf.texts.len(), 0),
            from_host: None,
            from_count: 0,
            from: NO_EVENT,
            key: None,
            request: None,
            sends: false,
            changes: (first_change, self.sheaf.changes.len() - first_change),
        });
        Some((piece, events.len() - 1))
    }

    /// Takes the second line of an event.
    fn tell(&mut self, piece: usize, event: usize, line: &str) {
        let said = line::said(line);
        let Sheaf { words, texts, .. } = &mut *self.sheaf;
        let event = &mut self.pieces[piece].events[event];
        event.level = said.level;
        event.kind = words.add(said.kind);
        event.text = (texts.len(), said.rest.len());
        texts.push_str(said.rest);
        for (name, value) in FieldsOf::new(said.rest) {
            match name {
                "from" => {
                    if let Some((host, count)) = line::sender(&value) {
                        event.from_host = Some(words.add(host));
                        event.from_count = count;
                    }
                }
                "to" => event.sends = true,
                "key" => event.key = Some(words.add(&value)),
                "request" => event.request = Some(words.add(&value)),
                _ => {}
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Whole,
    /// Longer than any event; what is over the bound is skipped.
    Long,
    /// The file ends before the line does.
    End,
}

/// Reads to the end of a line, of a long one the beginning.
fn next_line(input: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<Line> {
    let mut kind = Line::Whole;
    loop {
        let available = input.fill_buf()?;
        if available.is_empty() {
            return Ok(Line::End);
        }
        let end = available.iter().position(|&b| b == b'\n');
        let taken = &available[..end.unwrap_or(available.len())];
        if bytes.len() + taken.len() > LINE_BYTES_MAX {
            kind = Line::Long;
        } else {
            bytes.extend_from_slice(taken);
        }
        let used = taken.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            return Ok(kind);
        }
    }
}
