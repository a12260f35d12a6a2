//! Log records as lines on standard error, for people or for programs.
//!
//! Nobody waits for whoever reads them: an [`Outlet`] writes, and drops and counts what finds no
//! room. Every line is cut and made harmless here, whatever went into it.

use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::outlet::{Manner, Outlet, Standard};
use crate::digits::civil;
use crate::limits::{LOG_LINE, LOG_WAITING, OUTSIDE_TEXT};
use crate::text::{cut, push_json_string, visible};

/// How a record looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `2026-01-31T12:00:00.123Z INFO session S-466a ended`.
    #[default]
    Text,
    /// One JSON object: `ts`, `level`, `target`, `msg`.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err(format!("log format {text:?} is neither text nor json")),
        }
    }
}

/// Starts logging. The level comes from `level`, else from `HOODY_TUNNEL_LOG`, else it is `info`.
/// A second call changes the level only.
pub fn init(format: Format, level: Option<LevelFilter>) {
    let said = std::env::var_os("HOODY_TUNNEL_LOG").filter(|said| !said.is_empty());
    let meant = said.as_ref().and_then(|said| said.to_str()?.parse().ok());
    let level = level.or(meant).unwrap_or(LevelFilter::Info);
    // The journal stamps every line itself.
    let stamped = std::env::var_os("JOURNAL_STREAM").is_none();
    let _ = log::set_logger(LINES.get_or_init(|| Lines { format, stamped }));
    log::set_max_level(level);
    if let (Some(said), None) = (said, meant) {
        let said = said.to_string_lossy();
        let said = cut(&said, OUTSIDE_TEXT);
        log::warn!("HOODY_TUNNEL_LOG={said} is none of off, error, warn, info, debug and trace");
    }
}

/// The one way to standard error, for the log and for a program's last words.
pub fn stderr() -> &'static Outlet {
    STDERR.get_or_init(|| {
        let manner = Manner {
            name: "log",
            waiting: LOG_WAITING,
            dropped: dropped_line,
            // When nobody reads standard error there is nowhere to complain.
            failed: Box::new(|_| {}),
        };
        Outlet::start(Standard::error(), manner)
    })
}

/// Waits a moment for what was logged to be out: the last act of a program.
pub fn flush() {
    if let Some(stderr) = STDERR.get() {
        stderr.flush();
    }
}

/// Lines of the log that were dropped because nobody read them.
pub fn dropped() -> u64 {
    STDERR.get().map_or(0, Outlet::dropped)
}

static STDERR: OnceLock<Outlet> = OnceLock::new();
static LINES: OnceLock<Lines> = OnceLock::new();

#[derive(Debug)]
struct Lines {
    format: Format,
    stamped: bool,
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // rustls logs each handshake at debug: that is nobody's tunnel.
        metadata.target().starts_with("hoody") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            stderr().put(&self.line(record, &rfc3339(SystemTime::now())));
        }
    }

    fn flush(&self) {
        stderr().flush();
    }
}

impl Lines {
    fn line(&self, record: &Record<'_>, stamp: &str) -> String {
        match self.format {
            Format::Text => text_line(record, self.stamped.then_some(stamp)),
            Format::Json => json_line(record, stamp),
        }
    }
}

/// What stands for so many lines that nobody read in time.
fn dropped_line(count: u64) -> String {
    let plain = Lines {
        format: Format::Text,
        stamped: false,
    };
    let lines = LINES.get().unwrap_or(&plain);
    let stamp = rfc3339(SystemTime::now());
    let mut record = Record::builder();
    record.level(Level::Warn).target(module_path!());
    lines.line(
        &record
            .args(format_args!(
                "{count} lines dropped: the log was not read in time"
            ))
            .build(),
        &stamp,
    )
}

fn text_line(record: &Record<'_>, stamp: Option<&str>) -> String {
    let mut line = String::with_capacity(120);
    if let Some(stamp) = stamp {
        line.push_str(stamp);
        line.push(' ');
    }
    let message = visible(&cut(&record.args().to_string(), LOG_LINE));
    let _ = writeln!(line, "{:5} {message}", record.level());
    line
}

fn json_line(record: &Record<'_>, stamp: &str) -> String {
    let level = record.level().as_str().to_ascii_lowercase();
    let mut line = String::with_capacity(160);
    let _ = write!(
        line,
        "{{\"ts\":\"{stamp}\",\"level\":\"{level}\",\"target\":"
    );
    push_json_string(&mut line, record.target());
    line.push_str(",\"msg\":");
    push_json_string(&mut line, &cut(&record.args().to_string(), LOG_LINE));
    line.push_str("}\n");
    line
}

/// `time` in UTC with milliseconds, as RFC 3339 has it.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
    );
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn known_moments_come_out_as_known_dates() {
        let at = |seconds: u64| rfc3339(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7));
        assert_eq!(at(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59.007Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.007Z");
    }

    #[test]
    fn foreign_bytes_cannot_forge_a_line() {
        let args = format_args!("bad \"host\"\n\x1b[2J\\ ü").to_string();
        let args = format_args!("{args}");
        let record = Record::builder().args(args).target("hoody::x").build();
        let text = text_line(&record, Some("T"));
        assert_eq!(text, "T INFO  bad \"host\"\\n\\u{1b}[2J\\ ü\n");
        let json = json_line(&record, "T");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["msg"], "bad \"host\"\n\x1b[2J\\ ü");
        assert_eq!(value["level"], "info");
        assert_eq!(json.matches('\n').count(), 1);
    }

    #[test]
    fn a_line_is_short_and_turns_no_writing_whatever_went_into_it() {
        let long = format!("\u{202e}{}", "x".repeat(70_000));
        let args = format_args!("{long}").to_string();
        let args = format_args!("{args}");
        let record = Record::builder().args(args).target("hoody::x").build();
        for line in [text_line(&record, None), json_line(&record, "T")] {
            assert!(line.len() < LOG_LINE + 200, "{} bytes", line.len());
            assert!(
                !line.contains('\u{202e}') && line.contains("202e"),
                "{line}"
            );
            assert!(line.trim_end_matches(['"', '}', '\n']).ends_with('…'));
        }
    }

    #[test]
    fn dropped_lines_are_told_by_a_line_of_their_own() {
        let line = dropped_line(7);
        assert!(line.contains("WARN"), "{line}");
        assert!(line.contains(" 7 lines dropped"), "{line}");
        assert!(line.ends_with('\n'));
    }
}
