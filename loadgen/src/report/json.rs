//! The report for machines.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::Report;

/// Standard output instead of a file.
const STDOUT: &str = "-";

/// Whether the document goes to standard output.
pub(crate) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == STDOUT
}

/// Writes the document.
///
/// # Errors
/// What keeps it from being written.
pub(crate) fn write(report: &Report, path: &Path) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(report)?;
    text.push(b'\n');
    if is_stdout(path) { io::stdout().lock().write_all(&text) } else { File::create(path)?.write_all(&text) }
}
