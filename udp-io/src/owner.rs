//! Who holds a port: a guess from `/proc`, for an error message. Only when binding has failed, so it may be
//! slow.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// The process that has a socket on local port `port`, as `name (pid 123)`. `None` if there is none, or if it
/// is another user's, whose descriptors we may not read.
pub(crate) fn port_owner(transport: Transport, port: u16) -> Option<String> {
    let tables = match transport {
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
    };
    let inodes: BTreeSet<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| {
            table.lines().skip(1).filter_map(|line| inode_on_port(line, transport, port)).collect::<Vec<_>>()
        })
        .collect();
    if inodes.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds_one_of(&entry.path(), &inodes).then(|| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let name = name.trim();
            if name.is_empty() { format!("pid {pid}") } else { format!("{name} (pid {pid})") }
        })
    })
}

/// The inode in a line of a `/proc/net` table, if its socket is on the port (and listens, if it is of TCP).
fn inode_on_port(line: &str, transport: Transport, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let local_port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
    let serves = transport == Transport::Udp || *state == TCP_LISTEN;
    (local_port == port && serves).then(|| format!("socket:[{inode}]"))
}

fn holds_one_of(process: &Path, inodes: &BTreeSet<String>) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path())
            .is_ok_and(|target| target.to_str().is_some_and(|name| inodes.contains(name)))
    })
}

/// State `TCP_LISTEN` of `include/net/tcp_states.h`, as the table prints it.
const TCP_LISTEN: &str = "0A";

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "   1: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0 100 0";

    #[test]
    fn a_listener_on_the_port_is_found() {
        assert_eq!(inode_on_port(LINE, Transport::Tcp, 1883), Some("socket:[31337]".to_owned()));
    }

    #[test]
    fn other_ports_other_states_and_broken_lines_are_passed_over() {
        assert_eq!(inode_on_port(LINE, Transport::Tcp, 1884), None);
        assert_eq!(inode_on_port(&LINE.replace(" 0A ", " 06 "), Transport::Tcp, 1883), None);
        assert_eq!(inode_on_port("1: 0100007F", Transport::Udp, 1883), None);
    }
}
