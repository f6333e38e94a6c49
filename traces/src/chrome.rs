//! One Chrome trace file a process.
//!
//! The file opens in `chrome://tracing` and in Perfetto. It is written by a thread of its own;
//! a process that is killed leaves what was flushed, and the viewers take a file without its
//! end. A disk that fills up ends the trace, not the process.
//!
//! ```
//! use quorate_traces::ChromeTrace;
//! use tracing_subscriber::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let (layer, trace) = ChromeTrace::start(dir, "node")?;
//! let subscriber = tracing_subscriber::registry().with(layer);
//! tracing::subscriber::with_default(subscriber, || tracing::info_span!("step").in_scope(|| ()));
//! let file = trace.file().to_owned();
//! drop(trace); // writes the rest and closes the file
//! assert!(std::fs::read_to_string(file)?.contains("step"));
//! # Ok(())
//! # }
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tracing_chrome::{ChromeLayer, ChromeLayerBuilder, FlushGuard};
use tracing_subscriber::registry::LookupSpan;

/// A trace being written. Keep it for as long as the process runs: dropping it writes the rest
/// and closes the file.
pub struct ChromeTrace {
    file: PathBuf,
    guard: FlushGuard,
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The directory or the file cannot be made.
    #[error("cannot write a trace to {}: {why}; name a directory this user may write to", path.display())]
    Unwritable {
        /// What could not be made.
        path: PathBuf,
        /// Why not.
        #[source]
        why: io::Error,
    },
    /// The name cannot be part of a file's name.
    #[error("{name:?} cannot be part of a file's name: use letters, digits, '.', '_' and '-'")]
    BadName {
        /// The name as given.
        name: String,
    },
}

impl ChromeTrace {
    /// Begins the trace `<process_name>-<pid>.json` in `dir`, which is made where it is missing.
    /// The layer is to be added to the process's subscriber, beside whatever else is there.
    ///
    /// # Errors
    /// When the file cannot be made, or could not be of that name.
    pub fn start<S>(dir: &Path, process_name: &str) -> Result<(ChromeLayer<S>, Self), TraceError>
    where
        S: tracing_subscriber::layer::SubscriberExt + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if process_name.is_empty() || !process_name.bytes().all(plain) {
            return Err(TraceError::BadName { name: process_name.to_owned() });
        }
        let unwritable = |path: &Path| {
            let path = path.to_owned();
            move |why| TraceError::Unwritable { path, why }
        };
        fs::create_dir_all(dir).map_err(unwritable(dir))?;
        let file = dir.join(format!("{process_name}-{}.json", std::process::id()));
        let writer = UntilItFails(Some(File::create(&file).map_err(unwritable(&file))?));
        let (layer, guard) = ChromeLayerBuilder::new().writer(writer).include_args(true).build();
        Ok((layer, Self { file, guard }))
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Asks the writing thread to bring everything so far to the file; does not wait for it.
    pub fn flush(&self) {
        self.guard.flush();
    }
}

/// A file that swallows everything from its first failure on: the thread that writes the trace
/// would panic on an error, and a trace is not worth that.
struct UntilItFails(Option<File>);

impl Write for UntilItFails {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = &mut self.0 {
            match file.write(bytes) {
                Ok(written) if written > 0 => return Ok(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                _ => self.0 = None,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // A file has nothing to flush: every write has reached the system.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::Registry;
    use tracing_subscriber::prelude::*;

    use super::*;

    #[test]
    fn a_trace_is_one_json_file_named_after_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, trace) = ChromeTrace::start(&dir.path().join("new"), "node-1").unwrap();
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("step", epoch = 7).in_scope(|| tracing::info!("inside"));
        });
        let file = trace.file().to_owned();
        assert_eq!(
            file.file_name().unwrap().to_str().unwrap(),
            format!("node-1-{}.json", std::process::id())
        );
        drop(trace);
        let events: Vec<serde_json::Value> =
            serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        assert!(events.iter().any(|e| e["name"] == "step" && e["args"]["epoch"] == "7"));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("file");
        fs::write(&blocked, "").unwrap();
        let Err(error) = ChromeTrace::start::<Registry>(&blocked.join("traces"), "node") else {
            panic!("started below a plain file");
        };
        let text = error.to_string();
        assert!(text.contains("file/traces") && text.contains("may write to"), "{text}");
    }

    #[test]
    fn a_name_that_leaves_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "../node", "a/b"] {
            assert!(matches!(
                ChromeTrace::start::<Registry>(dir.path(), name),
                Err(TraceError::BadName { .. })
            ));
        }
    }

    #[test]
    fn a_full_disk_ends_the_trace_and_not_the_process() {
        let Ok(full) = File::options().write(true).open("/dev/full") else { return };
        let mut writer = UntilItFails(Some(full));
        writer.write_all(b"lost").unwrap();
        assert!(writer.0.is_none());
        writer.write_all(b"lost too").unwrap();
    }
}
