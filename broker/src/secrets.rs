//! What lies in files and is exchanged while running: certificates, and the authorities that vouch for clients.
//!
//! ```text
//!   SIGHUP ─► each file once ─┬─ other than before ─► exchanged, for handshakes from now on
//!                             ├─ the same          ─► nothing
//!                             └─ not usable        ─► what was in use before stays
//! ```
//! Listeners that name the same files share what was loaded from them, and the log names them together.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::broker::StartError;
use crate::certificate::{Certificate, CertificateError, CurrentAuthorities, CurrentCertificate, Source};
use crate::config::{Config, Placed};
use crate::entrances::source_of;
use crate::state_dir::StateDir;

/// Everything that a reload reads again.
pub(crate) struct Secrets {
    /// The node's own in front, if anything shows it; then those of single listeners.
    certificates: Vec<Shared<CurrentCertificate>>,
    authorities: Vec<Shared<CurrentAuthorities>>,
    has_own: bool,
}

/// Something that several listeners may use.
struct Shared<T> {
    users: Vec<String>,
    current: Arc<T>,
}

/// What a reload has done.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// What is another now.
    pub exchanged: Vec<Exchanged>,
    /// What is the same as before.
    pub unchanged: usize,
    /// What cannot be used: what was in use before stays.
    pub refused: Vec<Refused>,
}

/// Something that was exchanged.
#[derive(Debug)]
pub struct Exchanged {
    /// Who uses it: `quic`, `listeners[2]`.
    pub listeners: Vec<String>,
    /// What it is now.
    pub secret: Secret,
}

/// What can be exchanged.
#[derive(Debug)]
pub enum Secret {
    /// The certificate that is shown.
    Certificate(Arc<Certificate>),
    /// The authorities of this file.
    Authorities(PathBuf),
}

/// Something that could not be exchanged.
#[derive(Debug)]
pub struct Refused {
    /// Who would have used it.
    pub listeners: Vec<String>,
    /// The file, and what is wrong with it.
    pub error: CertificateError,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (used by {})", self.error, self.listeners.join(", "))
    }
}

impl<T> Shared<T> {
    fn used_by(&mut self, listener: &str) -> Arc<T> {
        if !self.users.iter().any(|user| user == listener) {
            self.users.push(listener.to_owned());
        }
        Arc::clone(&self.current)
    }
}

impl Secrets {
    /// Loads the node's certificate, if a listener shows it.
    pub(crate) fn load(config: &Config, listeners: &[Placed], state: &StateDir) -> Result<Self, StartError> {
        let shows_it =
            |placed: &Placed| placed.listener.transport.has_tls() && placed.listener.certificate.is_none();
        let has_own = listeners.iter().any(shows_it);
        let mut secrets = Self { certificates: Vec::new(), authorities: Vec::new(), has_own };
        if let Some(first) = listeners.iter().find(|placed| shows_it(placed)) {
            secrets.certificate(first.name(), source_of(config, None), state)?;
        }
        Ok(secrets)
    }

    /// The node's certificate.
    pub(crate) fn own(&self) -> Option<&Arc<CurrentCertificate>> {
        self.certificates.first().filter(|_| self.has_own).map(|shared| &shared.current)
    }

    /// Every certificate in use.
    pub(crate) fn certificates(&self) -> Vec<Arc<CurrentCertificate>> {
        self.certificates.iter().map(|shared| Arc::clone(&shared.current)).collect()
    }

    /// The certificate from `source` that `listener` shows: one for all that name the same files.
    pub(crate) fn certificate(
        &mut self,
        listener: &str,
        source: Source,
        state: &StateDir,
    ) -> Result<Arc<CurrentCertificate>, StartError> {
        if let Some(known) = self.certificates.iter_mut().find(|known| *known.current.source() == source) {
            return Ok(known.used_by(listener));
        }
        let loaded = CurrentCertificate::load(source, state, SystemTime::now());
        let current = Arc::new(loaded.map_err(StartError::Certificate)?);
        let mut shared = Shared { users: Vec::new(), current };
        let used = shared.used_by(listener);
        self.certificates.push(shared);
        Ok(used)
    }

    /// The authorities in `path` that vouch for the clients of `listener`.
    pub(crate) fn authorities(
        &mut self,
        listener: &str,
        path: &Path,
    ) -> Result<Arc<CurrentAuthorities>, StartError> {
        if let Some(known) = self.authorities.iter_mut().find(|known| known.current.path() == path) {
            return Ok(known.used_by(listener));
        }
        let current = Arc::new(CurrentAuthorities::load(path).map_err(StartError::Certificate)?);
        let mut shared = Shared { users: Vec::new(), current };
        let used = shared.used_by(listener);
        self.authorities.push(shared);
        Ok(used)
    }

    /// Reads every file again.
    pub(crate) fn reload(&self, state: &StateDir) -> Reloaded {
        let mut reloaded = Reloaded::default();
        for Shared { users, current } in &self.certificates {
            let before = current.get();
            match current.reload(state, SystemTime::now()) {
                Ok(now) if now.has_chain_of(&before) => reloaded.unchanged += 1,
                Ok(now) => reloaded.exchanged(users, Secret::Certificate(now)),
                Err(error) => reloaded.refused(users, error),
            }
        }
        for Shared { users, current } in &self.authorities {
            match current.reload() {
                Ok(false) => reloaded.unchanged += 1,
                Ok(true) => reloaded.exchanged(users, Secret::Authorities(current.path().to_owned())),
                Err(error) => reloaded.refused(users, error),
            }
        }
        reloaded
    }
}

impl Reloaded {
    fn exchanged(&mut self, users: &[String], secret: Secret) {
        self.exchanged.push(Exchanged { listeners: users.to_vec(), secret });
    }

    /// A file that several certificates need is told once, with all that would have used it.
    fn refused(&mut self, users: &[String], error: CertificateError) {
        match self.refused.iter_mut().find(|refused| refused.error == error) {
            Some(known) => {
                let others = users.iter().filter(|user| !known.listeners.contains(user)).cloned();
                let others: Vec<String> = others.collect();
                known.listeners.extend(others);
            }
            None => self.refused.push(Refused { listeners: users.to_vec(), error }),
        }
    }
}
