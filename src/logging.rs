//! The log on standard error, of the server and of the helper of an attached device: one line per event, with its time in UTC.
//! `COFFER_LOG` selects what is logged, as `coffer=debug`.

use crate::env::{Clock, SystemClock};
use crate::redact;
use std::io::{IsTerminal, Write};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Standard error as a log. Tokens are masked, and an error in writing it does not end the process.
struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().write_all(redact::tokens(&String::from_utf8_lossy(bytes)).as_bytes());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Times in the log: UTC, to the second.
struct LogTime;

impl FormatTime for LogTime {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        write!(to, "{}", SystemClock.now())
    }
}

/// Starts logging, of what `default` selects unless `COFFER_LOG` says otherwise. Does nothing if it was started before.
pub fn start(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("COFFER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Log)
        .with_ansi(std::io::stderr().is_terminal())
        .with_timer(LogTime)
        .try_init();
}
