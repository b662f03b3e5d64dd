//! How much memory the broker may use: a share of the machine, or of what the control group leaves it.
//!
//! Inside a container the machine's memory is not ours. Version 2 of control groups limits at every level from our group
//! to the root, and the lowest limit counts; version 1 has a hierarchy of its own for memory.

use std::path::Path;

use crate::config::MemoryMax;

/// The ceiling in bytes of all memory that peers can cause, as `wanted` says, on this machine.
#[must_use]
pub fn ceiling(wanted: MemoryMax) -> u64 {
    match wanted {
        MemoryMax::Bytes(bytes) => bytes.0,
        // Divided first: the product of a large machine would not overflow, that of "no limit" would.
        MemoryMax::Percent(percent) => available(Path::new("/")) / 100 * u64::from(percent),
    }
}

/// Memory of the machine, or of the control group where that is less. `root` is `/` outside of tests. Where neither can
/// be read, a machine of 1 GiB is assumed.
fn available(root: &Path) -> u64 {
    let read = |path: &Path| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let machine = mem_total(&read(Path::new("proc/meminfo"))).unwrap_or(ASSUMED);
    let groups = read(Path::new("proc/self/cgroup"));
    let limits = groups.lines().filter_map(Group::parse).flat_map(|group| group.limits(root));
    limits.fold(machine, u64::min)
}

const ASSUMED: u64 = 1 << 30;

/// `MemTotal:       24602104 kB` of `/proc/meminfo`, in bytes.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// One line of `/proc/self/cgroup` that can limit memory: where its files are mounted, and our place in it.
struct Group<'a> {
    mount: &'static str,
    file: &'static str,
    path: &'a str,
}

impl<'a> Group<'a> {
    /// `0::/system.slice/quelea.service` is version 2, `5:cpu,memory:/docker/1234` is version 1.
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if hierarchy == "0" && controllers.is_empty() {
            return Some(Self { mount: "sys/fs/cgroup", file: "memory.max", path });
        }
        let has_memory = controllers.split(',').any(|controller| controller == "memory");
        has_memory.then_some(Self { mount: "sys/fs/cgroup/memory", file: "memory.limit_in_bytes", path })
    }

    /// The limits from our group up to the mount. In a container the path may not exist below the mount, which then shows
    /// our own group as its root.
    fn limits(&self, root: &Path) -> Vec<u64> {
        let mount = root.join(self.mount);
        let own = mount.join(self.path.trim_start_matches('/'));
        let up = own.ancestors().take_while(|path| path.starts_with(&mount));
        // Version 2 says "max" where there is no limit, version 1 a number near 2⁶³.
        up.filter_map(|path| std::fs::read_to_string(path.join(self.file)).ok()?.trim().parse().ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    const MEMINFO: &str = "MemTotal:        8388608 kB\nMemFree:         1 kB\n";
    const GIB: u64 = 1 << 30;

    fn machine(files: &[(&str, &str)]) -> u64 {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [("proc/meminfo", MEMINFO)].iter().chain(files) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        available(root.path())
    }

    #[test]
    fn without_a_control_group_the_machine_counts() {
        assert_eq!(machine(&[]), 8 * GIB);
        assert_eq!(
            machine(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")]),
            8 * GIB
        );
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts_in_version_2() {
        let group = ("proc/self/cgroup", "0::/a.slice/b.service\n");
        let own = "sys/fs/cgroup/a.slice/b.service/memory.max";
        let parent = "sys/fs/cgroup/a.slice/memory.max";
        assert_eq!(machine(&[group, (own, "3221225472\n"), (parent, "max\n")]), 3 * GIB);
        assert_eq!(machine(&[group, (own, "max\n"), (parent, "2147483648\n")]), 2 * GIB);
        assert_eq!(machine(&[group, (own, "99999999999999\n")]), 8 * GIB);
    }

    #[test]
    fn version_1_has_its_own_hierarchy() {
        let group =
            ("proc/self/cgroup", "12:cpu,cpuacct:/x\n5:hugetlb,memory:/docker/12\n1:name=systemd:/\n");
        let own = "sys/fs/cgroup/memory/docker/12/memory.limit_in_bytes";
        assert_eq!(machine(&[group, (own, "1073741824\n")]), GIB);
        assert_eq!(machine(&[group, (own, "9223372036854771712\n")]), 8 * GIB);
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let group = ("proc/self/cgroup", "4:memory:/docker/unseen\n");
        assert_eq!(machine(&[group, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n")]), GIB);
    }

    #[test]
    fn a_machine_that_cannot_be_read_is_taken_for_a_small_one() {
        assert_eq!(available(tempfile::tempdir().unwrap().path()), ASSUMED);
    }

    #[test]
    fn a_share_is_taken_of_what_is_there_and_a_size_as_it_is() {
        assert_eq!(ceiling(MemoryMax::Bytes(ByteSize(5 * GIB))), 5 * GIB);
        assert_eq!(ceiling(MemoryMax::Percent(70)), available(Path::new("/")) / 100 * 70);
    }
}
