//! Memory of this process and machine, asked of the system.
//!
//! Only *anonymous* memory counts: pages of files are the system's cache and go when they are needed.

use std::{fs, path::Path};

/// Anonymous bytes of this process that are in memory.
pub(crate) fn anonymous() -> Option<u64> {
    kib(&fs::read_to_string("/proc/self/status").ok()?, "RssAnon:")
}

/// The most bytes of this process that were in memory at once, files included.
pub(crate) fn most_resident() -> Option<u64> {
    kib(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes of memory that this process could have beside what it has: what the system could give without swapping, or what its control
/// group leaves, if that is less.
pub(crate) fn free() -> Option<u64> {
    let machine = kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let group = fs::read_to_string("/proc/self/cgroup").ok();
    let group = group.and_then(|groups| left_of_group(Path::new(&limit_file(&groups)?)));
    Some(group.map_or(machine, |group| group.min(machine)))
}

/// Bytes that a control group leaves: its limit less what is used, of which files that are not in use go when they are needed.
fn left_of_group(limit: &Path) -> Option<u64> {
    let number = |file: &Path| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let (used, inactive) = match limit.ends_with("memory.max") {
        true => ("memory.current", "inactive_file "),
        false => ("memory.usage_in_bytes", "total_inactive_file "),
    };
    let used = number(&limit.with_file_name(used))?;
    let stat = fs::read_to_string(limit.with_file_name("memory.stat")).ok()?;
    let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive));
    let inactive: u64 = inactive?.trim().parse().ok()?;
    Some(number(limit)?.saturating_sub(used.saturating_sub(inactive)))
}

/// Bytes of memory that this process may use: the machine's, or less where a container or a limit of the process says so.
pub(crate) fn available() -> Option<u64> {
    let machine = kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    let limits = [container(), limit()].into_iter().flatten();
    Some(limits.fold(machine, u64::min))
}

/// Addresses that the system's allocator reserves for each thread, and its stack.
#[cfg(target_os = "linux")]
const OF_A_THREAD: u64 = 72 << 20;

/// Threads of a load beside those that convert.
#[cfg(target_os = "linux")]
const THREADS_BESIDE: u64 = 4;

/// Bytes that the limits of this process leave to it now; `None` where it has none.
#[cfg(target_os = "linux")]
pub(crate) fn left() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    let limits = [(Resource::Data, "VmData:"), (Resource::As, "VmSize:")];
    let limits = limits.map(|(resource, counted)| Some((getrlimit(resource).current?, counted)));
    let mut limits = limits.into_iter().flatten().peekable();
    limits.peek()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let left = |(limit, counted): (u64, &str)| Some(limit.saturating_sub(kib(&status, counted)?));
    limits.filter_map(left).min()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn left() -> Option<u64> {
    None
}

/// The limits of this process on its data and its addresses. Both count more than what is in memory, such as the stacks
/// of threads: what there is of that so far is taken off, and what threads reserve that a load starts.
#[cfg(target_os = "linux")]
fn limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let reserved = (threads + THREADS_BESIDE) * OF_A_THREAD;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let anonymous = kib(&status, "RssAnon:")?;
    let left = |resource, counted: &str| {
        let limit = getrlimit(resource).current?;
        let beside = kib(&status, counted)?.saturating_sub(anonymous);
        Some(limit.saturating_sub(beside))
    };
    let limits = [
        left(Resource::Data, "VmData:"),
        left(Resource::As, "VmSize:").map(|left| left.saturating_sub(reserved)),
    ];
    limits.into_iter().flatten().min()
}

#[cfg(not(target_os = "linux"))]
fn limit() -> Option<u64> {
    None
}

/// The limit of this process's control group, if it has one.
fn container() -> Option<u64> {
    let limit = limit_file(&fs::read_to_string("/proc/self/cgroup").ok()?)?;
    // A group without a limit says `max`, or a number that no machine has.
    fs::read_to_string(limit).ok()?.trim().parse().ok()
}

/// Where the limit of the group among `groups` stands, in either version of control groups.
fn limit_file(groups: &str) -> Option<String> {
    let group = |of: &str| {
        groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let mut controllers = controllers.split(',');
            controllers
                .any(|controller| controller == of)
                .then_some(path.trim_end_matches('/'))
        })
    };
    let first =
        group("memory").map(|path| format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"));
    first.or_else(|| group("").map(|path| format!("/sys/fs/cgroup{path}/memory.max")))
}

/// `RssAnon:     1234 kB` among other lines.
fn kib(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as Linux writes them, of version 2 alone, of version 1, and of both side by side.
    #[test]
    fn limits_are_found_in_both_versions_of_control_groups() {
        let first = "/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes";
        for (groups, expected) in [
            (
                "0::/user.slice/a.scope\n",
                Some("/sys/fs/cgroup/user.slice/a.scope/memory.max"),
            ),
            ("0::/\n", Some("/sys/fs/cgroup/memory.max")),
            ("5:cpu,cpuacct:/x\n4:memory:/jobs\n", Some(first)),
            ("4:memory:/jobs\n0::/user\n", Some(first)),
            ("5:cpu,cpuacct:/x\n", None),
        ] {
            assert_eq!(limit_file(groups).as_deref(), expected, "{groups}");
        }
    }

    /// Files as Linux writes them, in both versions. Would catch a cache of files that counts as used, and a group without a limit
    /// that leaves nothing.
    #[test]
    fn a_group_leaves_its_limit_without_what_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let write =
            |file: &str, text: &str| fs::write(folder.path().join(file), text).expect("writable");
        let second = folder.path().join("memory.max");
        write("memory.max", "1000\n");
        write("memory.current", "700\n");
        write(
            "memory.stat",
            "anon 400\ninactive_file 300\ntotal_inactive_file 200\n",
        );
        assert_eq!(left_of_group(&second), Some(600));
        write("memory.max", "max\n");
        assert_eq!(left_of_group(&second), None);
        let first = folder.path().join("memory.limit_in_bytes");
        write("memory.limit_in_bytes", "2000\n");
        write("memory.usage_in_bytes", "1700\n");
        assert_eq!(left_of_group(&first), Some(500));
    }

    #[test]
    fn fields_are_in_kibibytes() {
        assert_eq!(
            kib("Name:\tx\nRssAnon:\t    1234 kB\n", "RssAnon:"),
            Some(1_263_616)
        );
        assert_eq!(kib("Name:\tx\n", "RssAnon:"), None);
    }
}
