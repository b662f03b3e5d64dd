//! What the watched processes (`--pid`) have used, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// A process at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// Nanoseconds of CPU of each thread that lives now, by its number: finer than the ticks of `user_s` and `system_s`.
    threads: BTreeMap<u32, u64>,
}

impl Usage {
    /// CPU seconds since an earlier look: to the nanosecond if no thread has ended in between, else to the tick.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> f64 {
        let is_whole = earlier.threads.keys().all(|thread| self.threads.contains_key(thread));
        if is_whole && !self.threads.is_empty() {
            let nanos = |usage: &Self| usage.threads.values().sum::<u64>();
            return nanos(self).saturating_sub(nanos(earlier)) as f64 / 1e9;
        }
        self.user_s + self.system_s - earlier.user_s - earlier.system_s
    }
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
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            threads.extend(thread_cpu(&task.path()));
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
            threads,
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

/// A thread's number and its nanoseconds on a CPU (first field of `schedstat`); `None` if it ends while we look, or if the kernel
/// does not say.
fn thread_cpu(task: &Path) -> Option<(u32, u64)> {
    let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
    let nanos = schedstat.split_whitespace().next()?.parse().ok()?;
    Some((task.file_name()?.to_str()?.parse().ok()?, nanos))
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
    fn a_thread_that_has_ended_leaves_the_ticks_to_count() {
        let usage = |user_s, threads: &[(u32, u64)]| Usage {
            user_s,
            threads: threads.iter().copied().collect(),
            ..Usage::default()
        };
        let before = usage(1.0, &[(7, 1_000_000_000), (8, 5)]);
        let after = usage(3.0, &[(7, 2_500_000_000), (8, 5), (9, 250_000_000)]);
        assert_eq!(after.cpu_since(&before), 1.75);
        assert_eq!(usage(3.0, &[(7, 2_500_000_000)]).cpu_since(&before), 2.0);
        assert_eq!(usage(3.0, &[]).cpu_since(&usage(1.0, &[])), 2.0);
    }

    #[test]
    fn nobody_is_refused_by_number() {
        let error = Watched::new(u32::MAX).unwrap_err();
        assert!(error.contains("4294967295"), "{error}");
    }
}
