//! What a container may use of memory, from its control group: version 2 (`memory.max`) or
//! version 1 (`memory.limit_in_bytes`).

use std::fs;
use std::path::{Path, PathBuf};

/// The least limit that holds for this process, in bytes; `None` where nothing limits it or nothing
/// tells.
pub fn memory_limit() -> Option<u64> {
    limit_below(
        Path::new("/sys/fs/cgroup"),
        &fs::read_to_string("/proc/self/cgroup").ok()?,
    )
}

/// `groups` is the text of `/proc/self/cgroup`; `mounted` is where the groups' files are.
fn limit_below(mounted: &Path, groups: &str) -> Option<u64> {
    groups
        .lines()
        .filter_map(|line| limit_of(mounted, line))
        .min()
}

/// `0::/path` in version 2, `4:memory:/path` in version 1. A group's own limit and those of all
/// above it hold. Inside a container the path may be one of the host's, which is not there: then
/// the group that is mounted is the container's.
fn limit_of(mounted: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (top, file) = match controllers {
        "" => (mounted.to_path_buf(), "memory.max"),
        named if named.split(',').any(|name| name == "memory") => {
            (mounted.join("memory"), "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let own: PathBuf = top.join(path.trim_start_matches('/'));
    own.ancestors()
        .take_while(|group| group.starts_with(&top))
        .filter_map(|group| fs::read_to_string(group.join(file)).ok())
        // `max`, or in version 1 a number near the largest, is no limit.
        .filter_map(|text| text.trim().parse().ok())
        .filter(|limit| *limit < UNLIMITED)
        .min()
}

/// Version 1 says "no limit" with the largest number of whole pages.
const UNLIMITED: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: PathBuf, text: &str) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn the_least_limit_on_the_way_up_holds_in_both_versions() {
        let top = std::env::temp_dir().join(format!("hoody-cgroup-{}", std::process::id()));
        write(top.join("memory.max"), "max\n");
        write(top.join("a/memory.max"), "67108864\n");
        write(top.join("a/b/memory.max"), "max\n");
        write(
            top.join("memory/memory.limit_in_bytes"),
            "9223372036854771712\n",
        );
        write(
            top.join("memory/docker/memory.limit_in_bytes"),
            "33554432\n",
        );
        for (groups, limit) in [
            ("0::/\n", None),
            ("0::/a/b\n", Some(64 << 20)),
            ("0::/a\n", Some(64 << 20)),
            ("0::/not/here\n", None),
            (
                "5:cpu,cpuacct:/docker\n4:memory:/docker\n1:name=systemd:/\n",
                Some(32 << 20),
            ),
            ("4:memory:/somewhere/else\n", None),
            ("4:memory:/docker\n0::/a\n", Some(32 << 20)),
            ("nonsense\n\n::\n", None),
        ] {
            assert_eq!(limit_below(&top, groups), limit, "{groups}");
        }
        fs::remove_dir_all(&top).unwrap();
    }
}
