//! A file system of its own for one directory: small, so that it can be filled, and one that can be
//! made larger, or read-only, under whoever uses it.
//!
//! It is a tmpfs, which takes the right to mount. Where there is none, a test that needs it is
//! skipped and says so.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// One such file system. Unmounted when dropped, also while it is in use; a test run that is killed
/// leaves it behind.
#[derive(Debug)]
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// A new one of this many mebibytes; none where nobody lets us mount, and the reason is printed.
    pub(crate) fn mount(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let args = ["-t", "tmpfs", "-o", &size, "quorate-test"].map(OsStr::new);
        match run("mount", args.into_iter().chain([dir.path().as_os_str()])) {
            Ok(()) => Some(Self(dir)),
            Err(why) => {
                eprintln!("skipped: this needs the right to mount a small disk: {why}");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Gives it this many mebibytes from now on.
    pub(crate) fn resize(&self, mib: u32) {
        self.remount(&format!("size={mib}m"));
    }

    /// Takes all room but this.
    pub(crate) fn leave(&self, bytes: u64) {
        let room = rustix::fs::statvfs(self.path()).unwrap();
        let taken = (room.f_bavail * room.f_frsize).saturating_sub(bytes);
        std::fs::write(self.path().join("filler"), vec![0; usize::try_from(taken).unwrap()])
            .unwrap();
    }

    /// Nobody can write to it any more.
    pub(crate) fn protect(&self) {
        self.remount("ro");
    }

    fn remount(&self, how: &str) {
        let how = format!("remount,{how}");
        let args = [OsStr::new("-o"), OsStr::new(&how), self.path().as_os_str()];
        run("mount", args).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that still uses it is about to end.
        if let Err(why) = run("umount", [OsStr::new("-l"), self.path().as_os_str()]) {
            eprintln!("{} stays mounted: {why}", self.path().display());
        }
    }
}

fn run<'a>(program: &str, args: impl IntoIterator<Item = &'a OsStr>) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
