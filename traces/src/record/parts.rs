//! The files of one process: one after the other, each of a bounded size, the oldest removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::chrome::TraceError;
use crate::clock::Host;

/// How large the files of one process become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// A file of this size is followed by the next.
    pub part_bytes: u64,
    /// Where there are more files than this, the oldest is removed. At least 1.
    pub parts: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { part_bytes: 64 << 20, parts: 8 }
    }
}

/// Takes a name that no process has had in `dir`: `NAME.1`, or the next number. The file is made
/// with it, so that two processes never have one name.
pub(crate) fn claim(dir: &Path, name: &str, kind: &str) -> Result<(Host, File), TraceError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-@:[]%".contains(&b);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(TraceError::BadName { name: name.to_owned() });
    }
    let unwritable = |path: &Path| {
        let path = path.to_owned();
        move |why| TraceError::Unwritable { path, why }
    };
    fs::create_dir_all(dir).map_err(unwritable(dir))?;
    let mut incarnation = 1 + last_incarnation(dir, name).map_err(unwritable(dir))?;
    loop {
        let host = Host::new(&format!("{name}.{incarnation}"))
            .map_err(|_| TraceError::BadName { name: name.to_owned() })?;
        let path = dir.join(file_name(host.as_str(), 1, kind));
        match File::options().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((host, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => incarnation += 1,
            Err(error) => return Err(unwritable(&path)(error)),
        }
    }
}

/// The highest incarnation of which any file is left, whatever its kind; the first part may have
/// been removed.
fn last_incarnation(dir: &Path, name: &str) -> io::Result<u32> {
    let mut last = 0;
    for entry in fs::read_dir(dir)? {
        let file = entry?.file_name();
        let rest = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.'));
        let number = rest.and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        last = last.max(number.unwrap_or(0));
    }
    Ok(last)
}

/// `HOST.KIND`, and from the second on `HOST.0002.KIND`.
pub(crate) fn file_name(host: &str, part: u32, kind: &str) -> String {
    if part == 1 { format!("{host}.{kind}") } else { format!("{host}.{part:04}.{kind}") }
}

/// The files of one process and kind.
pub(crate) struct Parts {
    dir: PathBuf,
    host: Host,
    kind: &'static str,
    bounds: Bounds,
    /// The number of the file that is written now.
    part: u32,
}

impl Parts {
    /// Where the first is there already.
    pub(crate) fn new(dir: &Path, host: &Host, kind: &'static str, bounds: Bounds) -> Self {
        Self { dir: dir.to_owned(), host: host.clone(), kind, bounds, part: 1 }
    }

    /// The file that is written now.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(file_name(self.host.as_str(), self.part, self.kind))
    }

    /// Whether a file of this size is to be followed by the next.
    pub(crate) fn full(&self, bytes: u64) -> bool {
        bytes >= self.bounds.part_bytes
    }

    /// Begins the next file, and removes the oldest where there are too many.
    pub(crate) fn next(&mut self) -> io::Result<File> {
        let path = self.dir.join(file_name(self.host.as_str(), self.part + 1, self.kind));
        let file = File::options().append(true).create_new(true).open(path)?;
        self.part += 1;
        if let Some(old @ 1..) = self.part.checked_sub(self.bounds.parts.max(1)) {
            // Somebody may have taken it away; then there is nothing to remove.
            let _ = fs::remove_file(self.dir.join(file_name(self.host.as_str(), old, self.kind)));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_incarnation_has_a_name_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let claim = || claim(dir.path(), "node-1", "govec").unwrap().0;
        assert_eq!((claim().as_str(), claim().as_str()), ("node-1.1", "node-1.2"));
        // The first part of the seventh has been removed; a chrome trace of the ninth is left.
        fs::write(dir.path().join("node-1.7.0004.govec"), "").unwrap();
        assert_eq!(claim().as_str(), "node-1.8");
        fs::write(dir.path().join("node-1.9.trace.json"), "").unwrap();
        fs::write(dir.path().join("node-10.99.govec"), "").unwrap();
        assert_eq!(claim().as_str(), "node-1.10");
    }

    #[test]
    fn the_oldest_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (host, _) = claim(dir.path(), "n", "govec").unwrap();
        let bounds = Bounds { part_bytes: 1, parts: 2 };
        let mut parts = Parts::new(dir.path(), &host, "govec", bounds);
        for _ in 0..3 {
            parts.next().unwrap();
        }
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["n.1.0003.govec", "n.1.0004.govec"]);
    }

    #[test]
    fn a_name_that_leaves_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "../node", "a/b", ".hidden", "a b", &"n".repeat(70)] {
            assert!(matches!(claim(dir.path(), name, "govec"), Err(TraceError::BadName { .. })));
        }
    }
}
