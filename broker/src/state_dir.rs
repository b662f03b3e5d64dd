//! The data directory: what a broker keeps between two runs, and the lock that keeps it alone there.
//!
//! ```text
//!   $XDG_STATE_HOME/quelea/            0700
//!   ├── lock                           pid of the owner; held by flock(2) for the life of the process
//!   ├── reset.key                      64 random bytes, 0600: stateless resets (RFC 9000 §10.3)
//!   ├── token.key                      64 random bytes, 0600: Retry and address tokens (RFC 9000 §8.1)
//!   └── development{,.crt}.pem         key and certificate, the certificate alone: see [`crate::certificate`]
//! ```
//!
//! The lock is the kernel's: it ends with its process, however that ends. The lock file itself is never removed, because
//! a removed one could be locked by a broker that still holds its open descriptor while a new one is created. The pid in
//! it is only a hint for the operator.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A locked data directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Held open for the life of the value: closing it gives the lock back.
    _lock: File,
}

/// Keys that outlive a process, so that a restarted broker can reset the connections of the one before it.
#[derive(Clone, PartialEq, Eq)]
pub struct StateKeys {
    /// Key of stateless reset tokens.
    pub reset_key: [u8; KEY_BYTES],
    /// Key of Retry and address-validation tokens.
    pub token_key: [u8; KEY_BYTES],
}

/// Length of each key file.
pub const KEY_BYTES: usize = 64;

/// Why the data directory cannot be used.
#[derive(Debug)]
pub enum StateError {
    /// Neither a setting nor the environment names a directory.
    NoDirectory,
    /// Another broker has it.
    Locked {
        /// The directory.
        path: PathBuf,
        /// Process id of the owner, as it wrote it.
        pid: Option<u32>,
    },
    /// A key file is not 64 bytes long.
    KeyLength {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The kernel refused.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDirectory => f.write_str(
                "no data directory: neither XDG_STATE_HOME nor HOME is set; name one with --data-dir",
            ),
            Self::Locked { path, pid } => {
                write!(f, "{}: in use by another broker", path.display())?;
                match pid {
                    Some(pid) => write!(f, " (pid {pid})")?,
                    None => f.write_str(" (pid unknown)")?,
                }
                f.write_str("; stop it, or give this one a directory of its own with --data-dir")
            }
            Self::KeyLength { path, bytes } => write!(
                f,
                "{}: {bytes} bytes long, expected {KEY_BYTES}; remove it and a new key is made \
                 (connections of an earlier run are then not reset at once)",
                path.display()
            ),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for StateError {}

/// The directory used when none is configured: `$STATE_DIRECTORY` (a systemd service with `StateDirectory=quelea` has
/// `/var/lib/quelea` there), `$XDG_STATE_HOME/quelea`, or `~/.local/state/quelea`.
///
/// # Errors
/// [`StateError::NoDirectory`] where the environment names none of them.
pub fn default_path(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<PathBuf, StateError> {
    // The XDG specification says to ignore relative paths; the same holds for an empty variable.
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(path) = absolute("STATE_DIRECTORY") {
        return Ok(path);
    }
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return Ok(state.join("quelea"));
    }
    absolute("HOME").map(|home| home.join(".local/state/quelea")).ok_or(StateError::NoDirectory)
}

impl StateDir {
    /// Creates the directory where needed and takes its lock.
    ///
    /// # Errors
    /// [`StateError::Locked`] while another process has it, [`StateError::Io`] where the kernel refuses.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_at(path))?;
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(&lock_path).map_err(io_at(&lock_path))?;
        if let Err(errno) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if errno == rustix::io::Errno::WOULDBLOCK {
                return Err(StateError::Locked { path: path.to_owned(), pid: read_pid(&mut lock) });
            }
            return Err(io_at(&lock_path)(errno.into()));
        }
        lock.set_len(0).map_err(io_at(&lock_path))?;
        writeln!(lock, "{}", std::process::id()).map_err(io_at(&lock_path))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the keys, and makes those that are missing.
    ///
    /// # Errors
    /// [`StateError::KeyLength`] for a damaged file (it is not replaced silently), [`StateError::Io`].
    pub fn keys(&self) -> Result<StateKeys, StateError> {
        Ok(StateKeys { reset_key: self.key("reset.key")?, token_key: self.key("token.key")? })
    }

    fn key(&self, name: &str) -> Result<[u8; KEY_BYTES], StateError> {
        let path = self.path.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let length = bytes.len();
                bytes.try_into().map_err(|_| StateError::KeyLength { path, bytes: length })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; KEY_BYTES];
                getrandom::fill(&mut key).map_err(|error| io_at(&path)(io::Error::other(error)))?;
                self.write_secret(name, &key)?;
                Ok(key)
            }
            Err(error) => Err(io_at(&path)(error)),
        }
    }

    /// Writes `name` whole or not at all, readable by its owner only.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn write_secret(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        let unfinished = self.path.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&unfinished)?;
            // A file left over from an interrupted run keeps its old mode when it is opened again.
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(io_at(&path))
    }
}

fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |error| StateError::Io { path, error }
}

impl fmt::Debug for StateKeys {
    /// Keys do not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKeys(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_random_private_and_the_same_after_a_restart() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/quelea");
        let first = StateDir::open(&path).unwrap().keys().unwrap();
        assert_ne!(first.reset_key, first.token_key);
        assert_eq!(StateDir::open(&path).unwrap().keys().unwrap(), first);
        assert_eq!(mode(&path), 0o700);
        for name in ["lock", "reset.key", "token.key"] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn a_second_broker_is_refused_with_the_pid_of_the_first_until_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDir::open(directory.path()).unwrap();
        let refusal = StateDir::open(directory.path()).unwrap_err();
        let expected = format!(
            "{}: in use by another broker (pid {}); stop it, or give this one a directory of its own with --data-dir",
            directory.path().display(),
            std::process::id()
        );
        assert_eq!(refusal.to_string(), expected);
        drop(first);
        StateDir::open(directory.path()).unwrap();
    }

    #[test]
    fn a_damaged_key_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        std::fs::write(directory.path().join("token.key"), b"short").unwrap();
        let refusal = state.keys().unwrap_err().to_string();
        assert!(refusal.contains("token.key: 5 bytes long, expected 64"), "{refusal}");
        assert_eq!(std::fs::read(directory.path().join("token.key")).unwrap(), b"short");
    }

    #[test]
    fn an_unfinished_write_is_replaced_and_ends_private() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        let unfinished = directory.path().join("secret.new");
        std::fs::write(&unfinished, b"half").unwrap();
        std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o644)).unwrap();
        state.write_secret("secret", b"whole").unwrap();
        assert_eq!(std::fs::read(directory.path().join("secret")).unwrap(), b"whole");
        assert_eq!(mode(&directory.path().join("secret")), 0o600);
        assert!(!unfinished.exists());
    }

    #[test]
    fn the_default_directory_follows_the_environment() {
        let with = |set: &'static [(&str, &str)]| {
            default_path(move |name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
        };
        let state = ("XDG_STATE_HOME", "/x/state");
        assert_eq!(with(&[("HOME", "/h")]).unwrap(), Path::new("/h/.local/state/quelea"));
        const BOTH: &[(&str, &str)] = &[("HOME", "/h"), ("XDG_STATE_HOME", "/x/state")];
        assert_eq!(with(BOTH).unwrap(), Path::new(state.1).join("quelea"));
        assert_eq!(with(&[("STATE_DIRECTORY", "/var/lib/quelea")]).unwrap(), Path::new("/var/lib/quelea"));
        let relative: &[(&str, &str)] = &[("HOME", ""), ("XDG_STATE_HOME", "relative")];
        assert!(matches!(with(relative), Err(StateError::NoDirectory)));
    }
}
