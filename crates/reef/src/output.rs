//! Standard output: a reader that leaves early is not an error, anything else that fails is.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// Like `println!`, but `reef … | head` ends quietly.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Writes one line. Ends the process when it cannot be written and there is still a reader.
pub fn line(text: Arguments) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{text}")
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("reef: cannot write to standard output: {error}");
        std::process::exit(1);
    }
}
