//! A browser that shows one page after the other.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::browser::{self, Browser};

/// One browser at a time: several would only wait for each other.
static ONE: Mutex<()> = Mutex::new(());

pub(crate) struct Stage {
    pub(crate) browser: Browser,
    dir: tempfile::TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Stage {
    /// None, with the reason said, where there is no browser.
    pub(crate) fn new() -> Option<Self> {
        let Some(program) = browser::find() else {
            let must = std::env::var_os("QUORATE_BROWSER").is_some();
            assert!(!must, "QUORATE_BROWSER is set, but there is no chromium in the path");
            eprintln!("skipped: there is no chromium in the path (apt-get install chromium)");
            return None;
        };
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut browser = Browser::start(&program);
        browser.size(1440, 900, false);
        Some(Self { browser, dir: tempfile::tempdir().unwrap(), _one: one })
    }

    pub(crate) fn show(&mut self, document: &str, hash: &str) -> Value {
        let file = self.dir.path().join("page.html");
        fs::write(&file, quorate_traces::view::page(document, "A trace of a test")).unwrap();
        self.browser.open(&file, hash)
    }

    pub(crate) fn run(&mut self, expression: &str) -> Value {
        self.browser.run(expression)
    }

    pub(crate) fn state(&mut self) -> Value {
        self.run("quorate.state()")
    }

    /// Waits until the page says so.
    pub(crate) fn until(&mut self, condition: &str) {
        let done = format!(
            "new Promise((resolve) => {{
               const end = performance.now() + 60000;
               const look = () => {{
                 if ({condition}) resolve(true);
                 else if (performance.now() > end) resolve(false);
                 else setTimeout(look, 10);
               }};
               look();
             }})"
        );
        assert_eq!(self.run(&done), true, "waited for {condition}");
    }

    pub(crate) fn picture(&mut self, name: &str) {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("view");
        fs::create_dir_all(&dir).unwrap();
        self.run("quorate.draw && quorate.draw()");
        let picture = self.browser.picture();
        assert!(picture.len() > 10_000, "{name}: a picture of something");
        fs::write(dir.join(format!("{name}.png")), picture).unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let problems = self.browser.problems();
            assert!(problems.is_empty(), "the page failed in silence: {problems:#?}");
        }
    }
}
