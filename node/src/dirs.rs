//! Directories that a power loss does not take away.
//!
//! What is in a file is durable when the file is synced; that the file is there, when its directory
//! is; and that the directory is there, when the one above it is.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes a directory where there is none, and all above it that are missing. Each is durable in the
/// one above it on return.
pub(crate) fn make(dir: &Path) -> io::Result<()> {
    make_and(dir, &mut sync)
}

/// Makes durable which files and directories are in `dir`.
pub(crate) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The directory that `dir` is in.
pub(crate) fn above(dir: &Path) -> &Path {
    match dir.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        // The root is in itself.
        None => dir,
    }
}

fn make_and(dir: &Path, sync: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = above(dir);
    if above != dir {
        make_and(above, sync)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !dir.is_dir() => {
            return Err(error);
        }
        _ => {}
    }
    sync(above)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_made_is_synced_in_what_it_is_in() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b/c");
        let mut synced = Vec::new();
        let mut note = |dir: &Path| {
            synced.push(dir.to_owned());
            sync(dir)
        };
        make_and(&dir, &mut note).unwrap();
        make_and(&dir, &mut note).unwrap();
        assert!(dir.is_dir());
        let made = ["", "a", "a/b"].map(|above| root.path().join(above));
        assert_eq!(synced, made, "once each, and nothing where it is there");
    }

    #[test]
    fn a_file_in_its_place_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "file").unwrap();
        assert!(make(&root.path().join("a")).is_err());
        assert!(make(&root.path().join("a/b")).is_err());
        assert_eq!(above(Path::new("a")), Path::new("."));
        assert_eq!(above(Path::new("/")), Path::new("/"));
    }
}
