//! The machine, from `/proc` and `/sys`; never its name.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_gb: u64,
    pub(crate) kernel: String,
    pub(crate) filesystem: String,
    pub(crate) disk: String,
}

impl Machine {
    /// Looks at the machine, and at the disk that a directory is on.
    pub(crate) fn look(scratch: &Path) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_owned()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kb: u64 = memory.split_whitespace().next().unwrap_or("0").parse().unwrap_or(0);
        let device = fs::metadata(scratch)?.dev();
        // As glibc packs them: twelve bits of the major number, eight of the minor.
        let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            memory_gb: (kb + (1 << 19)) >> 20,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            filesystem: filesystem(&read("/proc/self/mountinfo"), major, minor),
            disk: disk(major, minor),
        })
    }
}

/// The kind of file system with that number, and how it is mounted.
fn filesystem(mounts: &str, major: u64, minor: u64) -> String {
    let number = format!("{major}:{minor}");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&number));
    let Some((mount, source)) = line.and_then(|line| line.split_once(" - ")) else {
        return "unknown".to_owned();
    };
    let kind = source.split(' ').next().unwrap_or("unknown");
    format!("{kind} ({})", mount.split(' ').nth(5).unwrap_or("unknown"))
}

/// What `/sys` says of a block device.
fn disk(major: u64, minor: u64) -> String {
    let own = format!("/sys/dev/block/{major}:{minor}");
    // A partition's queue is that of its disk.
    let queue = [format!("{own}/queue"), format!("{own}/../queue")];
    let Some(queue) = queue.iter().find(|path| Path::new(path.as_str()).exists()) else {
        return "no block device".to_owned();
    };
    let read = |path: String| fs::read_to_string(path).map(|text| text.trim().to_owned());
    let said = |name: &str| read(format!("{queue}/{name}")).unwrap_or_else(|_| "?".to_owned());
    let link = fs::read_link(&own).unwrap_or_default();
    let name = link.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (rotates, cache) = (said("rotational"), said("write_cache"));
    format!("{name}, rotational: {rotates}, cache: {cache}, scheduler: {}", said("scheduler"))
}
