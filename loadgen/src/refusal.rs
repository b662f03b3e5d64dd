//! Why there was no run, and which exit code says so.
//!
//! One rule: 2 is for what the typed words alone are to blame for, together with the files of certificates that they name; whoever
//! types them again gets the same. Whatever else is not good, before a run or in it, is 1: the network, this machine, the broker.

use std::fmt;
use std::process::ExitCode;

/// What keeps a run from being made, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The command line is wrong.
    Usage(String),
    /// The command line is right, but it cannot be done here and now.
    Failure(String),
}

impl Refusal {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => WRONG_USAGE,
            Self::Failure(_) => FAILED,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(why) | Self::Failure(why)) = self;
        f.write_str(why)
    }
}

/// The run was not good, or there was none.
pub(crate) const FAILED: u8 = 1;
/// As the parser of the command line has it, too.
const WRONG_USAGE: u8 = 2;
