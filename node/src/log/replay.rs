//! Reading the groups of a chain of segments, one after the other.

use bytes::Bytes;
use quorate_protocol::ids::StoreId;
use quorate_protocol::version::Version;

use super::LogOp;
use super::book::Book;
use super::chain::{Chain, Found};
use super::files::LogFile;
use super::group;
use super::ledger::Ledger;
use super::recover::{OpenError, Rot, Rotten};
use super::segment::{self, SegmentHeader};
use super::shape::Shape;

/// Groups read so far, in order.
pub(super) struct Replay {
    pub(super) ledger: Ledger,
    pub(super) sequence: u64,
    pub(super) groups: u64,
    pub(super) torn_bytes: u64,
    pub(super) last_group: Option<(u64, Bytes)>,
    /// Where the groups of each segment end.
    pub(super) used: Vec<u64>,
    pub(super) rot: Option<Rot>,
}

impl Replay {
    pub(super) fn run<File: LogFile>(
        found: &[Found<File>],
        chain: &Chain,
        store: StoreId,
    ) -> Result<Self, OpenError> {
        let mut replay = Self {
            ledger: Ledger::default(),
            sequence: 1,
            groups: 0,
            torn_bytes: 0,
            last_group: None,
            used: Vec::new(),
            rot: None,
        };
        let header = |at: usize| found[at].header.as_ref().expect("a chain has good headers");
        for (nth, at) in chain.members.iter().enumerate() {
            let end = chain.members.get(nth + 1).map(|next| header(*next).sequence);
            replay.segment(&found[*at], header(*at), end, store)?;
            if replay.rot.is_some() {
                break;
            }
        }
        Ok(replay)
    }

    /// Reads one segment, up to the group before `end`, or as far as there are groups.
    fn segment<File: LogFile>(
        &mut self,
        found: &Found<File>,
        header: &SegmentHeader,
        end: Option<u64>,
        store: StoreId,
    ) -> Result<(), OpenError> {
        self.start(header, &found.name)?;
        let salt = segment::salt(store, header.number);
        let content = found.read()?;
        let mut at = segment::HEADER_BYTES;
        self.last_group = None;
        while end.is_none_or(|end| self.sequence < end) {
            let rest = &content[at..];
            let next = group::Header::find(rest, salt).filter(|it| it.sequence == self.sequence);
            let whole = next.and_then(|next| Some((next, next.whole(rest)?)));
            let Some((next, whole)) = whole else {
                self.stop(rest, at, salt, end, &found.name);
                break;
            };
            let group = content.slice_ref(whole);
            self.group(next, &group, header.number, at).map_err(|rule| OpenError::Broken {
                file: found.name.clone(),
                offset: at as u64,
                rule,
            })?;
            at += group.len();
            self.last_group = Some((at as u64 - group.len() as u64, group));
        }
        // A copy, so that it does not keep the whole segment in memory.
        let last = self.last_group.take();
        self.last_group = last.map(|(at, group)| (at, Bytes::copy_from_slice(&group)));
        self.used.push(at as u64);
        Ok(())
    }

    /// A log never begins beyond durable applied. Where this one does, an acknowledged group that
    /// told of it is cut off with the torn tail, or older segments are missing.
    pub(super) fn check_base<File>(&self, chain: &Chain, found: &[Found<File>]) -> Option<Rot> {
        let oldest = &found[*chain.members.first()?];
        let Book { meta, shape } = &self.ledger.book;
        let what = Rotten::Start;
        let rot = || Rot { file: oldest.name.clone(), offset: 0, what };
        (shape.base() > meta.durable_applied).then(rot)
    }

    /// Takes over what a segment's header says.
    fn start(&mut self, header: &SegmentHeader, name: &str) -> Result<(), OpenError> {
        let book = &mut self.ledger.book;
        if self.used.is_empty() {
            self.sequence = header.sequence;
            book.shape = Shape::empty(header.last);
        } else if header.sequence != self.sequence || header.last != book.shape.last() {
            let rule = "a segment goes on where the one before it ends";
            return Err(OpenError::Broken { file: name.to_owned(), offset: 0, rule });
        }
        book.meta = header.meta;
        book.check().map_err(|rule| OpenError::Broken { file: name.to_owned(), offset: 0, rule })
    }

    fn group(
        &mut self,
        header: group::Header,
        group: &Bytes,
        segment: u64,
        at: usize,
    ) -> Result<(), &'static str> {
        let ops = header.ops(group).ok_or("a group consists of ops")?;
        let mut at = at as u64 + header.batches_at();
        for op in &ops {
            if let LogOp::Append { prev, .. } = op {
                self.reach(*prev);
            }
            self.ledger.apply(std::slice::from_ref(op), segment, at)?;
            if let LogOp::Append { batch, .. } = op {
                at += batch.len() as u64;
            }
        }
        self.sequence = self.sequence.checked_add(1).ok_or("sequence numbers do not wrap")?;
        self.groups += 1;
        Ok(())
    }

    /// Where the oldest segment's beginning is cut off later, into what was dropped since, the
    /// log begins at the cut. (That it does not begin too late is checked at the end.)
    fn reach(&mut self, prev: Version) {
        let shape = &mut self.ledger.book.shape;
        if prev.index < shape.base().index {
            self.ledger.restart(prev);
        }
    }

    /// Says what it means that no group begins at `at`.
    fn stop(&mut self, rest: &[u8], at: usize, salt: u64, end: Option<u64>, name: &str) {
        if end.is_some() || group::any_within(rest, salt, self.sequence) {
            let what = Rotten::Group;
            self.rot = Some(Rot { file: name.to_owned(), offset: at as u64, what });
        } else if let Some(torn) = group::Header::find(rest, salt) {
            self.torn_bytes = torn.group_bytes().min(rest.len() as u64);
        }
    }
}
