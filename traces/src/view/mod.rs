//! The page of `quorate trace view`: a space-time diagram in one HTML file.
//!
//! The file needs nothing besides itself: it opens from a disk, asks no network for anything (its
//! content security policy forbids that), and holds the trace as one JSON document. What the parts do:
//!
//! * `page.html`, `page.css`: the frame, in light and dark.
//! * `model.js`: the document in typed arrays; causality; filters. Knows nothing of the page.
//! * `draw.js`, `shapes.js`: what a canvas shows of a window of time. Its cost is that of the pixels, not of the events:
//!   where events would touch, they are drawn as a density.
//! * `overview.js`, `panel.js`, `menus.js`, `input.js`: what is around the diagram, and pointer and keys.
//! * `page.js`: holds them together, and has `window.quorate`, by which tests drive the page.
//!
//! The document, in columns; events are sorted by `at`, and those of one process are in the order of
//! its clock:
//!
//! ```json
//! {"title": "…", "start_unix_ns": "1700000000000000000",
//!  "processes": [{"name": "node-1.2", "host": "node-1", "incarnation": 2, "role": "node", "node": "n1",
//!                 "lostHead": false, "lostTail": true, "note": "", "first": 1}],
//!  "kinds": ["send"], "strings": ["rpc=replica.append to=node-2.1", "k"],
//!  "events": {"process": [0], "at": [12.5], "kind": [0], "level": [2], "from": [-1],
//!             "text": [0], "key": [1], "request": [-1]},
//!  "spans": {"process": [0], "name": [0], "start": [10.0], "end": [14.0], "request": [-1], "text": [0]},
//!  "findings": ["…"]}
//! ```
//!
//! Times are microseconds since the start; `level` is 0 (error) to 4 (trace); `from` is the event that sent
//! what this one received, or -1; the others are indices, or -1 for none. `first` is the count in its
//! clock of a process's first event, 1 where it is left out.

use std::borrow::Cow;

const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
/// In the order of their use; they share one scope.
const SCRIPTS: &str = concat!(
    include_str!("model.js"),
    include_str!("shapes.js"),
    include_str!("draw.js"),
    include_str!("overview.js"),
    include_str!("panel.js"),
    include_str!("menus.js"),
    include_str!("input.js"),
    include_str!("page.js"),
);

/// The page of a trace, given its document (see the module) and a title for the window.
///
/// The document may hold any text: what could end its script element is escaped.
#[must_use]
pub fn page(data_json: &str, title: &str) -> String {
    let data = in_script(data_json);
    let title = in_html(title);
    let parts = HTML.len() + 2 * title.len() + CSS.len() + SCRIPTS.len();
    let mut page = String::with_capacity(parts + data.len());
    // One pass over the frame: what is put in is never looked at again.
    for (number, piece) in HTML.split("{{").enumerate() {
        let (name, text) = match number {
            0 => ("", piece),
            _ => piece.split_once("}}").expect("the frame closes its braces"),
        };
        page.push_str(match name {
            "" => "",
            "title" => &title,
            "css" => CSS,
            "data" => &data,
            "scripts" => SCRIPTS,
            other => unreachable!("the frame names {other}"),
        });
        page.push_str(text);
    }
    page
}

/// JSON that can stand in a script element. In JSON, `<` occurs in strings only, where it may be
/// written as an escape; without it nothing ends the element or opens a comment in it.
fn in_script(json: &str) -> Cow<'_, str> {
    if json.contains('<') { json.replace('<', "\\u003c").into() } else { json.into() }
}

fn in_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document as the page's script element holds it.
    fn data(page: &str) -> &str {
        let (_, rest) = page.split_once("id=\"data\">").unwrap();
        rest.split_once("</script>").unwrap().0
    }

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "</script><script>alert(1)</script><!-- {{css}} \u{2028} & \"";
        let document = serde_json::json!({ "strings": [hostile], "title": "{{data}}" }).to_string();
        let page = page(&document, "a < b & </title><script>");
        let back: serde_json::Value = serde_json::from_str(data(&page)).unwrap();
        assert_eq!(back["strings"][0], hostile);
        assert_eq!(back["title"], "{{data}}");
        assert_eq!(page.matches("<script").count(), 2, "its own two");
        assert!(page.contains("<title>a &lt; b &amp; &lt;/title&gt;&lt;script&gt;</title>"));
    }

    #[test]
    fn the_page_needs_nothing_besides_itself() {
        let page = page("{}", "t");
        for outside in ["src=", "@import", "url(", "fetch(", "XMLHttpRequest", "<link rel=\"style"]
        {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
        assert!(!SCRIPTS.contains("</script") && !SCRIPTS.contains("<!--"));
    }
}
