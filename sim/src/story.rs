//! What happened, in words, one line for each thing: kept only where somebody wants to read it.

/// The story of one run.
#[derive(Debug, Default)]
pub(crate) struct Story {
    lines: Option<String>,
}

impl Story {
    pub(crate) fn new(told: bool) -> Self {
        Self { lines: told.then(String::new) }
    }

    pub(crate) fn is_told(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push_str(&line());
            lines.push('\n');
        }
    }

    pub(crate) fn take(&mut self) -> Option<String> {
        self.lines.take()
    }
}
