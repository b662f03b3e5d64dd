//! What the watched processes (`--pid`) have used, read from `/proc`.

use std::fs;
use std::io;

/// A process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// CPU seconds in user mode, all threads, also those that have ended.
    pub(crate) user_s: f64,
    /// CPU seconds in the kernel.
    pub(crate) system_s: f64,
    /// Bytes of resident memory.
    pub(crate) resident: u64,
    /// The most it has been.
    pub(crate) resident_peak: u64,
    /// Times that a thread which lives now has gone to sleep.
    pub(crate) voluntary_switches: u64,
    /// Times that one had to make room for another.
    pub(crate) involuntary_switches: u64,
}

/// A process that is watched.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

impl Watched {
    /// # Errors
    /// There is no such process, in words for people.
    pub(crate) fn new(pid: u32) -> Result<Self, String> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"))
            .map_err(|error| format!("--pid {pid}: {error}"))?
            .trim()
            .to_owned();
        Ok(Self { pid, name })
    }

    /// # Errors
    /// The process is gone, or is not ours to look at.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let pid = self.pid;
        let (user_s, system_s) = cpu_of(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
            .ok_or_else(|| io::Error::other("/proc/PID/stat is not as expected"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |name| field(&status, name).unwrap_or(0) * 1024;
        let (mut voluntary_switches, mut involuntary_switches) = (0, 0);
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            // A thread may end while we look.
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            voluntary_switches += field(&status, "voluntary_ctxt_switches").unwrap_or(0);
            involuntary_switches += field(&status, "nonvoluntary_ctxt_switches").unwrap_or(0);
        }
        Ok(Usage {
            user_s,
            system_s,
            resident: kib("VmRSS"),
            resident_peak: kib("VmHWM"),
            voluntary_switches,
            involuntary_switches,
        })
    }
}

/// User and system seconds of `/proc/PID/stat`. The name in it may hold anything, also blanks and parentheses.
fn cpu_of(stat: &str) -> Option<(f64, f64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
    let mut seconds = || Some(fields.next()?.parse::<u64>().ok()? as f64 / ticks_per_s);
    Some((seconds()?, seconds()?))
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_no_harm() {
        let stat = "17 (a) b (c) S 1 17 17 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 100 0 0";
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_of(stat), Some((250.0 / ticks_per_s, 50.0 / ticks_per_s)));
    }

    #[test]
    fn we_can_watch_ourselves() {
        let ourselves = Watched::new(std::process::id()).unwrap();
        let before = ourselves.usage().unwrap();
        assert!(before.resident > 1 << 20 && before.resident_peak >= before.resident, "{before:?}");
        let mut sum = 0_u64;
        while ourselves.usage().unwrap().user_s + ourselves.usage().unwrap().system_s
            <= before.user_s + before.system_s
        {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }

    #[test]
    fn nobody_is_refused_by_number() {
        let error = Watched::new(u32::MAX).unwrap_err();
        assert!(error.contains("4294967295"), "{error}");
    }
}
