//! Flame graphs: the samples of `perf script` as stacks, and the stacks as an SVG.
//!
//! Written by hand rather than by a crate: colours here say whose code it is, light and dark are both
//! readable, and a page that shows the image runs no script.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::perf::{self, Frame, Sample};

#[derive(Debug, Args)]
pub(crate) struct Typed {
    /// What `perf script` wrote
    samples: PathBuf,
    /// The image
    svg: PathBuf,
    #[arg(long)]
    title: String,
    /// How often a second a thread was looked at
    #[arg(long)]
    hertz: f64,
    /// For how long
    #[arg(long)]
    seconds: f64,
    /// What the process of a number does
    #[arg(long = "role", value_name = "PID=NAME", value_parser = role)]
    roles: Vec<(u32, String)>,
}

fn role(typed: &str) -> Result<(u32, String)> {
    let (pid, name) = typed.split_once('=').context("not PID=NAME")?;
    Ok((pid.parse()?, name.to_owned()))
}

/// Draws the image, and prints the summary.
pub(crate) fn run(typed: &Typed) -> Result<()> {
    let Typed { samples, svg, title, hertz, seconds, roles } = typed;
    let text = fs::read_to_string(samples).with_context(|| format!("{}", samples.display()))?;
    let samples = perf::read(&text, &roles.iter().cloned().collect())?;
    let subtitle = format!(
        "{} samples of processor time in {seconds} s; width is time, what a function calls stands above it",
        samples.len()
    );
    fs::write(svg, draw(title, &subtitle, &samples))
        .with_context(|| format!("{}", svg.display()))?;
    print!("{}", perf::summary(&samples, *hertz, *seconds));
    Ok(())
}

const WIDTH: f64 = 1_600.0;
const ROW: f64 = 17.0;
const HEAD: f64 = 62.0;
const LETTER: f64 = 6.3;
/// An image is no longer than this: what is narrowest is left out first.
const BYTES_MAX: usize = 380_000;

/// Whose code it is, with its class in the style sheet.
const OWNERS: &[(&str, &str)] = &[
    ("k", "kernel"),
    ("q", "Quorate"),
    ("r", "calls (tarpc, postcard, serde)"),
    ("t", "runtime (tokio, futures)"),
    ("v", "spans (tracing)"),
    ("e", "state engine (fjall)"),
    ("m", "memory (malloc, memcpy)"),
    ("o", "other"),
];

const STYLE: &str = "text{font:11px monospace;fill:#111}.h{font-size:17px}.s,.l{fill:#444}\
    rect{stroke:#fff;stroke-width:.5}.b{fill:#fff;stroke:none}\
    .g{fill:#c9ced6}.k{fill:#f0a58f}.q{fill:#8fc79a}.r{fill:#93b7e6}.t{fill:#c5b1e6}.e{fill:#e6cf7f}.v{fill:#f2f28a}\
    .m{fill:#e8a6c8}.o{fill:#d9d9d2}\
    @media(prefers-color-scheme:dark){.h,.s,.l{fill:#ddd}.b{fill:#15181c}rect{stroke:#15181c}}";

#[derive(Debug, Default)]
struct Node {
    samples: u64,
    children: BTreeMap<String, Node>,
    class: &'static str,
}

/// Draws the samples: their process and thread at the root.
pub(crate) fn draw(title: &str, subtitle: &str, samples: &[Sample]) -> String {
    let mut root = Node { class: "g", ..Node::default() };
    for sample in samples {
        let mut at = &mut root;
        at.samples += 1;
        for name in [&sample.role, &sample.thread] {
            at = at.children.entry(name.clone()).or_default();
            (at.samples, at.class) = (at.samples + 1, "g");
        }
        for frame in sample.telling() {
            at = at.children.entry(frame.symbol.clone()).or_default();
            (at.samples, at.class) = (at.samples + 1, owner(frame));
        }
    }
    let mut narrowest = 0.5;
    loop {
        let text = image(title, subtitle, &root, narrowest);
        if text.len() <= BYTES_MAX {
            return text;
        }
        narrowest *= 1.2;
    }
}

fn image(title: &str, subtitle: &str, root: &Node, narrowest: f64) -> String {
    let scale = WIDTH / root.samples.max(1) as f64;
    let rows = depth(root, scale, narrowest) - 1;
    let height = HEAD + ROW * rows as f64 + 6.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\"><style>{STYLE}\
         </style><rect class=\"b\" width=\"{WIDTH}\" height=\"{height}\"/>\
         <text class=\"h\" x=\"8\" y=\"22\">{}</text><text class=\"s\" x=\"8\" y=\"38\">{}</text>\n",
        escaped(title),
        escaped(subtitle),
    );
    let mut x = 8.0;
    for (class, name) in OWNERS {
        put(
            &mut text,
            format_args!("<rect class=\"{class}\" x=\"{x}\" y=\"45\" width=\"11\" height=\"11\"/>"),
        );
        put(&mut text, format_args!("<text class=\"l\" x=\"{}\" y=\"54\">{name}</text>", x + 15.0));
        x += 32.0 + LETTER * name.len() as f64;
    }
    text.push('\n');
    let canvas = Canvas { total: root.samples, scale, narrowest, bottom: height - 6.0 };
    canvas.children(&mut text, root, 0.0, 1);
    text.push_str("</svg>\n");
    text
}

fn depth(node: &Node, scale: f64, narrowest: f64) -> usize {
    let wide = node.children.values().filter(|child| child.samples as f64 * scale >= narrowest);
    1 + wide.map(|child| depth(child, scale, narrowest)).max().unwrap_or(0)
}

struct Canvas {
    total: u64,
    scale: f64,
    narrowest: f64,
    bottom: f64,
}

impl Canvas {
    fn children(&self, text: &mut String, node: &Node, mut x: f64, row: usize) {
        for (name, child) in &node.children {
            let width = child.samples as f64 * self.scale;
            if width >= self.narrowest {
                self.frame(text, name, child, (x, width), row);
                self.children(text, child, x, row + 1);
            }
            x += width;
        }
    }

    fn frame(
        &self,
        text: &mut String,
        name: &str,
        node: &Node,
        (x, width): (f64, f64),
        row: usize,
    ) {
        let y = self.bottom - ROW * row as f64;
        let percent = node.samples as f64 * 100.0 / self.total as f64;
        put(
            text,
            format_args!(
                "<g><title>{} {percent:.2}%</title><rect class=\"{}\" x=\"{x:.1}\" y=\"{y}\" \
                 width=\"{width:.1}\" height=\"{ROW}\"/>",
                escaped(name),
                node.class,
            ),
        );
        let room = ((width - 4.0) / LETTER) as usize;
        if room >= 4 {
            let label = label(name, room);
            put(text, format_args!("<text x=\"{:.1}\" y=\"{}\">", x + 2.0, y + 12.5));
            put(text, format_args!("{}</text>", escaped(&label)));
        }
        text.push_str("</g>\n");
    }
}

/// As much of a name as there is room for: the end of its path first.
fn label(name: &str, room: usize) -> String {
    if name.chars().count() <= room {
        return name.to_owned();
    }
    let plain = !name.starts_with('<');
    let start = name.rmatch_indices("::").map(|(at, _)| at + 2).nth(1).unwrap_or(0);
    let short = if plain { &name[start..] } else { name };
    if short.chars().count() <= room {
        return short.to_owned();
    }
    short.chars().take(room - 1).chain(['~']).collect()
}

/// Whose code a frame is, as a class of the style sheet.
pub(crate) fn owner(frame: &Frame) -> &'static str {
    if frame.is_kernel {
        return "k";
    }
    let name = frame.symbol.trim_start_matches(['<', '&', '_', '(']);
    let is_of = |crates: &[&str]| crates.iter().any(|owner| name.starts_with(owner));
    if is_of(&["quorate"]) {
        "q"
    } else if is_of(&["tarpc", "postcard", "serde"]) {
        "r"
    } else if is_of(&["tokio", "futures", "mio"]) {
        "t"
    } else if is_of(&["tracing", "sharded_slab"]) {
        "v"
    } else if is_of(&["fjall", "lsm_tree", "sfa", "crossbeam_skiplist", "byteview"]) {
        "e"
    } else if is_of(&["mem", "malloc", "calloc", "realloc", "free", "cfree", "int_", "libc_"]) {
        "m"
    } else {
        "o"
    }
}

/// What the owners of [`owner`] are called.
pub(crate) fn owners() -> impl Iterator<Item = (&'static str, &'static str)> {
    OWNERS.iter().copied()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn put(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_keeps_the_end_of_a_path() {
        let table = [
            ("short", 10, "short"),
            ("quorate_node::shell::Shell::settle", 15, "Shell::settle"),
            ("quorate_node::shell::Shell::settle", 8, "Shell::~"),
            ("<a::B as c::D>::e", 8, "<a::B a~"),
        ];
        for (name, room, shown) in table {
            assert_eq!(label(name, room), shown);
        }
    }
}
