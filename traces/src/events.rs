//! The events of `tracing`, in the log of a process.
//!
//! What a program tells its people is part of its story too. The layer takes each event as a step
//! of the process: its message, made one word, is the kind; its fields are the fields.
//!
//! ```
//! use quorate_traces::{EventLayer, Identity, Options, Recorder};
//! use tracing_subscriber::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let recorder = Recorder::start(dir.path(), "node", Identity::default(), Options::default())?;
//! let subscriber = tracing_subscriber::registry().with(EventLayer::new(recorder.clone()));
//! tracing::subscriber::with_default(subscriber, || {
//!     tracing::info!(epoch = 3, "took over");
//! });
//! recorder.flush();
//! assert!(std::fs::read_to_string(recorder.file())?.contains("INFO took_over epoch=3"));
//! # Ok(())
//! # }
//! ```

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::level::Level;
use crate::record::Recorder;

/// Takes events into a log. Filter it as any layer: what libraries say need not be in the story.
pub struct EventLayer {
    recorder: Recorder,
}

impl EventLayer {
    /// A layer that writes to this log.
    #[must_use]
    pub fn new(recorder: Recorder) -> Self {
        Self { recorder }
    }
}

impl<S: Subscriber> Layer<S> for EventLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = level(*event.metadata().level());
        if !self.recorder.records(level) {
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let kind = if said.kind.is_empty() { event.metadata().name() } else { &said.kind };
        self.recorder.local_event(level, kind, |out| {
            for (name, value) in &said.fields {
                out.field(name, value);
            }
        });
    }
}

fn level(level: tracing::Level) -> Level {
    match level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}

/// What one event says.
#[derive(Default)]
struct Said {
    kind: String,
    fields: Vec<(&'static str, String)>,
}

impl Said {
    fn put(&mut self, field: &Field, value: String) {
        let name = field.name();
        if name == "message" {
            self.kind = word(&value);
        } else if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            self.fields.push((name, value));
        }
    }
}

/// The message as one word: up to where it goes into particulars.
fn word(message: &str) -> String {
    let short = message.split([';', ':', ',']).next().unwrap_or_default();
    short.trim().replace(' ', "_")
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::prelude::*;

    use super::*;
    use crate::record::{Identity, Options};

    #[test]
    fn events_become_steps_as_far_as_their_level_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { level: Level::Info, ..Options::default() };
        let recorder = Recorder::start(dir.path(), "a", Identity::default(), options).unwrap();
        let subscriber = tracing_subscriber::registry().with(EventLayer::new(recorder.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(node = %"n 2", why = "it\nhangs", count = 3, "a node is silent; see there");
            tracing::debug!("left out");
            tracing::info!(a.b = 1, only = true);
        });
        recorder.flush();
        let text = std::fs::read_to_string(recorder.file()).unwrap();
        let said: Vec<_> = text.lines().skip(1).step_by(2).skip(1).collect();
        assert_eq!(said[0], "WARN a_node_is_silent node=\"n 2\" why=\"it\\nhangs\" count=3");
        assert!(
            said[1].starts_with("INFO event_") && said[1].ends_with(" only=true"),
            "{}",
            said[1]
        );
        assert_eq!(said.len(), 2);
    }
}
