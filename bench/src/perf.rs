//! What `perf script` wrote, read; and what it comes to, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::{Result, bail};

use crate::flame::{owner, owners};

/// The role of whoever loads the cluster: it counts for no share of it.
pub(crate) const GENERATOR: &str = "generator";

/// How many symbols the summary names.
const TOP: usize = 30;

/// What every thread of the runtime stands in, and nobody needs to see.
const PLUMBING: &[&str] = &[
    "[unknown]",
    "_start",
    "__libc_start",
    "main",
    "clone",
    "start_thread",
    "std::",
    "<std::",
    "core::",
    "<core::",
    "alloc::",
    "<alloc::",
    "__rust",
    "tokio::",
    "<tokio::",
    "quorate::main",
    "quorate::run",
    "quorate::block_on",
    "quorate::roles",
];

/// One frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) symbol: String,
    pub(crate) is_kernel: bool,
}

/// Where a thread was when it was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// What its process does.
    pub(crate) role: String,
    pub(crate) thread: String,
    /// From the first caller on.
    pub(crate) frames: Vec<Frame>,
}

impl Sample {
    /// Its frames without those that lead to everything, but for the last.
    pub(crate) fn telling(&self) -> &[Frame] {
        let is_plumbing = |frame: &Frame| {
            !frame.is_kernel && PLUMBING.iter().any(|start| frame.symbol.starts_with(start))
        };
        let skipped = self.frames.iter().take_while(|frame| is_plumbing(frame)).count();
        &self.frames[skipped.min(self.frames.len().saturating_sub(1))..]
    }

    /// The system call it is in.
    fn call(&self) -> Option<&str> {
        self.frames.iter().find_map(|frame| frame.symbol.strip_prefix("__x64_sys_"))
    }

    fn is_in_kernel(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.is_kernel)
    }
}

/// Reads what `perf script --no-inline -F comm,pid,tid,ip,sym,dso` writes. Processes are told apart by
/// their numbers.
pub(crate) fn read(text: &str, roles: &BTreeMap<u32, String>) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for block in text.split("\n\n") {
        let mut lines = block.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let Some(head) = lines.next() else { continue };
        let Some((comm, numbers)) = head.trim().rsplit_once(' ') else {
            bail!("no sample: {head}")
        };
        let Some((pid, tid)) = numbers.split_once('/') else { bail!("no process: {head}") };
        let Some(role) = roles.get(&pid.parse()?) else { continue };
        let thread = match comm.trim() {
            _ if pid == tid => "core",
            "state" => "state feeder",
            "tokio-rt-worker" => "readers",
            name => name,
        };
        let mut frames: Vec<_> = lines.filter_map(frame).collect();
        frames.reverse();
        samples.push(Sample { role: role.clone(), thread: thread.to_owned(), frames });
    }
    if samples.is_empty() {
        bail!("there is no sample of any of these processes");
    }
    Ok(samples)
}

fn frame(line: &str) -> Option<Frame> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (symbol, object) = rest.rsplit_once(" (")?;
    let is_kernel = object.starts_with("[kernel") || object.starts_with("[guest");
    Some(Frame { symbol: clean(symbol), is_kernel })
}

/// A symbol as people write it.
fn clean(symbol: &str) -> String {
    const ESCAPES: &[(&str, &str)] = &[
        ("$LT$", "<"),
        ("$GT$", ">"),
        ("$C$", ","),
        ("$RF$", "&"),
        ("$BP$", "*"),
        ("$u20$", " "),
        ("$u7b$", "{"),
        ("$u7d$", "}"),
        ("$u5b$", "["),
        ("$u5d$", "]"),
        ("$u27$", "'"),
        ("$LP$", "("),
        ("$RP$", ")"),
        ("..", "::"),
    ];
    let mut name = symbol.split(".llvm.").next().unwrap_or(symbol).to_owned();
    if let Some((path, hash)) = name.rsplit_once("::h")
        && hash.len() == 16
    {
        name.truncate(path.len());
    }
    for (from, to) in ESCAPES {
        name = name.replace(from, to);
    }
    name.strip_prefix("_<").map_or(name.clone(), |rest| format!("<{rest}"))
}

/// What the samples come to. `hertz` and `seconds`: how often and how long each thread was looked at.
pub(crate) fn summary(samples: &[Sample], hertz: f64, seconds: f64) -> String {
    let (loading, cluster): (Vec<_>, Vec<_>) =
        samples.iter().partition(|sample| sample.role == GENERATOR);
    let mut text = String::new();
    let busy = |count: usize| count as f64 / hertz / seconds;
    put(&mut text, format_args!("{:.2} processors busy with the cluster, ", busy(cluster.len())));
    put(&mut text, format_args!("{:.2} with the generator\n", busy(loading.len())));
    let total = cluster.len();
    let mut threads: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for sample in &cluster {
        let entry = threads.entry((&sample.role, &sample.thread)).or_default();
        entry.0 += 1;
        entry.1 += usize::from(sample.is_in_kernel());
    }
    put(&mut text, format_args!("\nthread: share of the cluster, how much of it in the kernel\n"));
    for ((role, thread), (all, kernel)) in threads {
        let (share, inside) = (percent(all, total), percent(kernel, all));
        if share >= 0.1 {
            let name = format!("{role} / {thread}");
            put(&mut text, format_args!("{share:6.1}%  {inside:5.1}%  {name}\n"));
        }
    }
    let kernel = cluster.iter().filter(|sample| sample.is_in_kernel()).count();
    put(&mut text, format_args!("{:6.1}%  of all in the kernel\n", percent(kernel, total)));
    let calls = cluster.iter().filter_map(|sample| sample.call());
    shares(&mut text, "in system calls", count(calls), total, 12);
    let names: BTreeMap<_, _> = owners().collect();
    let whose = cluster.iter().filter_map(|sample| Some(names[owner(sample.frames.last()?)]));
    shares(&mut text, "whose code ran", count(whose), total, TOP);
    let own = cluster.iter().filter_map(|sample| sample.frames.last());
    let own = own.map(|frame| (frame.symbol.as_str(), frame.is_kernel));
    let own = own.filter(|(_, is_kernel)| !is_kernel).map(|(symbol, _)| symbol);
    shares(&mut text, "functions of their own, outside of the kernel", count(own), total, TOP);
    let leading = cluster.iter().filter(|sample| sample.role.contains("coordinator"));
    let leading: Vec<_> = leading.filter(|sample| sample.thread == "core").copied().collect();
    let within = leading.iter().flat_map(|sample| {
        let frames =
            sample.telling().iter().filter(|frame| matches!(owner(frame), "q" | "r" | "v"));
        let each: BTreeSet<_> = frames.map(|frame| frame.symbol.as_str()).collect();
        each
    });
    let title = "functions with all they call, of the coordinator's core thread";
    shares(&mut text, title, count(within), leading.len(), TOP);
    text
}

fn count<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}

fn shares(text: &mut String, title: &str, of: BTreeMap<&str, usize>, total: usize, most: usize) {
    put(text, format_args!("\n{title}\n"));
    let mut sorted: Vec<_> = of.into_iter().collect();
    sorted.sort_by_key(|(name, count)| (usize::MAX - count, *name));
    for (name, count) in sorted.into_iter().take(most) {
        put(text, format_args!("{:6.1}%  {name}\n", percent(count, total)));
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

fn put(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "quorate 10/10 \n\tffff8 __x64_sys_write ([kernel.kallsyms])\n\
        \t55d quorate_node::shell::Shell::settle::h0123456789abcdef (/bin/quorate)\n\
        \t55c main (/bin/quorate)\n\nlog 10/11 \n\t7f fdatasync (/lib/libc.so.6)\n\nother 9/9 \n";

    #[test]
    fn samples_come_back_with_their_thread() {
        let roles = BTreeMap::from([(10, "node 1 (coordinator)".to_owned())]);
        let samples = read(SCRIPT, &roles).expect("it is well formed");
        assert_eq!(samples.len(), 2, "others are left out");
        assert_eq!((samples[0].thread.as_str(), samples[0].call()), ("core", Some("write")));
        let names: Vec<_> = samples[0].telling().iter().map(|f| f.symbol.as_str()).collect();
        assert_eq!(names, ["quorate_node::shell::Shell::settle", "__x64_sys_write"]);
        assert_eq!(samples[1].thread, "log");
    }

    #[test]
    fn symbols_are_as_people_write_them() {
        let mangled = "_$LT$alloc..boxed..Box$LT$F$GT$$u20$as$u20$A$GT$::call::h0123456789abcdef";
        assert_eq!(clean(mangled), "<alloc::boxed::Box<F> as A>::call");
    }
}
