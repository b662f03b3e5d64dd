//! Which back end a ring stands on: what is wanted, what the kernel allows, and why.

use std::fmt;
use std::io;

use crate::uring::{self, Mode};

/// A back end, or the wish for the better one that works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or nothing. Needs Linux 6.0, and no seccomp filter or sysctl against it.
    IoUring,
    /// epoll, `recvmmsg` and `sendmmsg`: every Linux.
    Epoll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Auto => "auto",
            Backend::IoUring => "io_uring",
            Backend::Epoll => "epoll",
        })
    }
}

/// A back end that works here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Never `Auto`.
    pub backend: Backend,
    /// Why this one, for the log.
    pub why: String,
}

impl Choice {
    /// Finds out which back end a ring will stand on, by making an io_uring and letting it go again.
    ///
    /// # Errors
    /// io_uring is wanted and cannot be had; the error says why.
    pub fn of(wanted: Backend) -> io::Result<Choice> {
        if wanted == Backend::Epoll {
            return Ok(Choice { backend: Backend::Epoll, why: "it was asked for".to_owned() });
        }
        match uring::probe() {
            Ok(mode) => {
                let mode = match mode {
                    Mode::Deferred => "deferred task work",
                    Mode::Cooperative => "cooperative task work",
                };
                let why = match wanted {
                    Backend::IoUring => format!("it was asked for ({mode})"),
                    _ => format!("the kernel allows it ({mode})"),
                };
                Ok(Choice { backend: Backend::IoUring, why })
            }
            Err(error) if wanted == Backend::IoUring => Err(refusal(&error)),
            Err(error) => Ok(Choice { backend: Backend::Epoll, why: refusal(&error).to_string() }),
        }
    }
}

/// The kernel's refusal of io_uring, as a sentence that says where it comes from.
pub(crate) fn refusal(error: &io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if is_disabled_by_sysctl() => {
            "disabled by the sysctl kernel.io_uring_disabled".to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => "forbidden, probably by a seccomp filter".to_owned(),
        Some(libc::ENOSYS) => "this kernel has none".to_owned(),
        Some(libc::EINVAL) => "this kernel's is too old".to_owned(),
        _ => return io::Error::new(error.kind(), format!("io_uring cannot be used: {error}")),
    };
    io::Error::new(error.kind(), format!("io_uring cannot be used: {why} ({error})"))
}

fn is_disabled_by_sysctl() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    !matches!(setting.trim(), "" | "0")
}
