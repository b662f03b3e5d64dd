//! What sockets cost the kernel, read from `/proc`: no process is charged for it.

use std::fs;

use serde::Serialize;

/// The whole machine at one moment, in bytes. What cannot be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct KernelMemory {
    /// Small objects of all kinds: sockets, their files, and what watches them (`/proc/meminfo`).
    pub(crate) slab: u64,
    /// Buffers of TCP sockets (`/proc/net/sockstat`, whole pages).
    pub(crate) tcp_buffers: u64,
    /// Buffers of UDP sockets.
    pub(crate) udp_buffers: u64,
}

impl KernelMemory {
    pub(crate) fn now() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let page = rustix::param::page_size() as u64;
        Self {
            slab: slab_kib(&meminfo).unwrap_or(0) * 1024,
            tcp_buffers: pages(&sockstat, "TCP:").unwrap_or(0) * page,
            udp_buffers: pages(&sockstat, "UDP:").unwrap_or(0) * page,
        }
    }

    pub(crate) fn buffers(&self) -> u64 {
        self.tcp_buffers + self.udp_buffers
    }
}

fn slab_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn pages(sockstat: &str, protocol: &str) -> Option<u64> {
    let mut words = sockstat.lines().find_map(|line| line.strip_prefix(protocol))?.split_whitespace();
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_read() {
        let sockstat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 3 alloc 7 mem 2\nUDP: inuse 1 mem 4\nUDPLITE: inuse 0\n";
        assert_eq!((pages(sockstat, "TCP:"), pages(sockstat, "UDP:")), (Some(2), Some(4)));
        assert_eq!((pages(sockstat, "UDPLITE:"), pages(sockstat, "RAW:")), (None, None));
        assert_eq!(slab_kib("MemTotal:  100 kB\nSlab:  12 kB\n"), Some(12));
        assert!(KernelMemory::now().slab > 0);
    }
}
