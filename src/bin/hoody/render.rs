//! What a running tunnel tells: for people on a terminal, for people in a file, or as one JSON
//! object a line. Everything from outside is made harmless first.

use std::io::{self, IsTerminal};
use std::time::Duration;

use hoody_tunnel::client::{RequestRecord, StreamRecord};
use hoody_tunnel::limits::SCREEN_WAITING;
use hoody_tunnel::reactor::outlet::{self, Outlet, Standard};
use serde::Serialize;

use crate::options::Env;
use crate::places::{self, Row};
use crate::text;

/// One thing to tell. Its JSON is what `--json` prints.
#[derive(Debug, Clone, Serialize)]
#[serde(
    tag = "event",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
pub enum Line {
    /// The connection to the kit changed.
    State {
        /// `connecting`, `online`, `lost`, `resumed` or `taken over`.
        state: &'static str,
        /// Which try since it was last online.
        #[serde(skip_serializing_if = "Option::is_none")]
        attempt: Option<u32>,
        /// The session's id, shortened.
        #[serde(skip_serializing_if = "Option::is_none")]
        session: Option<String>,
        /// The port that is concerned, if one is.
        #[serde(skip_serializing_if = "Option::is_none")]
        container_port: Option<u16>,
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// When the next try starts.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_in_ms: Option<u64>,
    },
    /// A binding stands.
    Ready(Ready),
    /// A port of this machine leads to the container.
    Forwarding {
        /// The address to connect to.
        local_host: String,
        /// The port to connect to.
        local_port: u16,
        /// What is reached there.
        target: String,
    },
    /// An HTTP exchange is over.
    Request {
        /// The binding's port.
        container_port: u16,
        /// The method.
        method: String,
        /// Path and query.
        path: String,
        /// The status that the visitor got, if any.
        status: Option<u16>,
        /// Bytes of the request's body.
        bytes_in: u64,
        /// Bytes of the response's body.
        bytes_out: u64,
        /// From head to end.
        duration_ms: f64,
        /// Who asked.
        remote_addr: Option<String>,
        /// Why it was cut short.
        error: Option<String>,
    },
    /// A raw connection is over.
    Connection {
        /// The binding's port.
        container_port: u16,
        /// Bytes from the kit.
        bytes_in: u64,
        /// Bytes to the kit.
        bytes_out: u64,
        /// From its opening to its end.
        duration_ms: f64,
        /// Who came.
        remote_addr: Option<String>,
        /// Why it was cut short.
        error: Option<String>,
    },
    /// Something worth knowing.
    Notice {
        /// The sentence.
        message: String,
    },
    /// The end.
    Closed {
        /// `interrupted`, `failed` or `closed`.
        reason: &'static str,
        /// A word for programs about what failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        /// A sentence for people about it.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
}

/// A binding that stands.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// The kit's name for it.
    pub bind_id: u64,
    /// `http`, `tcp` or `udp`.
    pub kind: String,
    /// `expose` or `pull`.
    pub mode: String,
    /// The port on the kit.
    pub container_port: u16,
    /// Where the world reaches it, when the kit knows.
    pub public_url: Option<String>,
    /// Where to connect, as far as this side can tell.
    pub address: String,
    /// What is reached.
    pub target: String,
    /// The name for people.
    pub label: Option<String>,
    /// Whether it had been there before a reconnect.
    pub again: bool,
}

impl Ready {
    /// As a row of the table of what is where.
    pub fn row(self) -> Row {
        Row {
            direction: self.mode,
            address: self.address,
            target: self.target,
            label: self.label,
        }
    }
}

impl Line {
    /// A state and nothing else.
    pub fn state(state: &'static str) -> Line {
        Line::State {
            state,
            attempt: None,
            session: None,
            container_port: None,
            why: None,
            retry_in_ms: None,
        }
    }
}

impl From<RequestRecord> for Line {
    fn from(record: RequestRecord) -> Line {
        Line::Request {
            container_port: record.container_port,
            method: record.method,
            path: record.target,
            status: record.status,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            duration_ms: millis(record.duration),
            remote_addr: record.remote_addr,
            error: record.cut,
        }
    }
}

impl From<StreamRecord> for Line {
    fn from(record: StreamRecord) -> Line {
        Line::Connection {
            container_port: record.container_port,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            duration_ms: millis(record.duration),
            remote_addr: record.remote_addr,
            error: record.cut,
        }
    }
}

fn millis(span: Duration) -> f64 {
    span.as_micros() as f64 / 1000.0
}

/// How to print.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// One JSON object a line.
    pub json: bool,
    /// Addresses and errors only.
    pub quiet: bool,
    /// Escape sequences for colour.
    pub color: bool,
    /// Columns of the terminal; `None` when it is none.
    pub width: Option<usize>,
    /// Several bindings: lines say which one they are about.
    pub many: bool,
}

impl Style {
    /// The style that fits stdout.
    pub fn of_stdout(json: bool, quiet: bool, many: bool, env: Env<'_>) -> Style {
        let width = io::stdout().is_terminal().then(columns);
        Style {
            json,
            quiet,
            color: width.is_some() && is_color_wanted(env),
            width,
            many,
        }
    }
}

/// Whether a terminal may be coloured.
pub fn is_color_wanted(env: Env<'_>) -> bool {
    let refused = env("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && env("TERM").is_none_or(|term| term != "dumb")
}

/// Columns of the terminal that is stdout.
fn columns() -> usize {
    // SAFETY: all zeroes is a valid winsize.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: `size` is what this request writes to, and lives through the call.
    let outcome = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    match size.ws_col {
        columns if outcome == 0 && columns > 0 => usize::from(columns),
        _ => 80,
    }
}

/// Where lines go, one at a time and with their ends. It never has anybody wait.
pub trait Paper {
    /// Takes a line; one that is `ordinary` may be dropped before others are.
    fn put(&mut self, line: &str, ordinary: bool);
    /// Waits a moment for the lines to be out.
    fn flush(&mut self) {}
}

impl Paper for Outlet {
    fn put(&mut self, line: &str, ordinary: bool) {
        match ordinary {
            true => Outlet::put(self, line),
            false => self.put_vital(line),
        }
    }

    fn flush(&mut self) {
        Outlet::flush(self);
    }
}

/// Standard output, as paper for lines of this style. `failed` is told once when it takes no more.
pub fn stdout(style: Style, failed: impl Fn(&io::Error) + Send + Sync + 'static) -> Outlet {
    let manner = outlet::Manner {
        name: "stdout",
        waiting: SCREEN_WAITING,
        dropped: if style.json {
            dropped_json
        } else {
            dropped_text
        },
        failed: Box::new(failed),
    };
    Outlet::start(Standard::output(), manner)
}

fn dropped_text(count: u64) -> String {
    format!("{count} lines were dropped here: nobody read them in time\n")
}

fn dropped_json(count: u64) -> String {
    let message = dropped_text(count).trim_end().to_owned();
    // A line is always JSON, and without deceptive letters here.
    let json = serde_json::to_string(&Line::Notice { message });
    json.unwrap_or_default() + "\n"
}

/// Tells lines on paper, in a style.
pub struct Screen<P> {
    paper: P,
    style: Style,
    /// Why the connection was lost, as told last: an outage is told once, not at every try.
    lost: Option<String>,
}

impl<P: Paper> Screen<P> {
    /// Prints on `paper`.
    pub fn new(paper: P, style: Style) -> Screen<P> {
        Screen {
            paper,
            style,
            lost: None,
        }
    }

    /// Prints one line, at once.
    pub fn print(&mut self, line: &Line) {
        let text = match self.style.json {
            true if self.style.quiet && !line.is_vital() => None,
            // Our own types are always JSON.
            true => serde_json::to_string(line)
                .ok()
                .map(|json| text::json(&json)),
            false => self.text(line),
        };
        if let Some(mut text) = text {
            text.push('\n');
            let ordinary = matches!(line, Line::Request { .. } | Line::Connection { .. });
            self.paper.put(&text, ordinary);
        }
    }

    /// Prints all that stands, where several tunnels do and people look at it.
    pub fn table(&mut self, rows: &[Row]) {
        if self.style.many && !self.style.json && !self.style.quiet {
            let text = places::table(rows) + "\n";
            self.paper.put(&text, false);
        }
    }

    /// Waits a moment for what was printed to be out.
    pub fn flush(&mut self) {
        self.paper.flush();
    }

    fn text(&mut self, line: &Line) -> Option<String> {
        if self.style.quiet && !line.is_vital() {
            return None;
        }
        match line {
            Line::State { .. } => self.state(line),
            Line::Ready(ready) => Some(self.ready(ready)),
            Line::Forwarding {
                local_host,
                local_port,
                target,
            } => Some(self.forwarding(local_host, *local_port, target)),
            Line::Request { .. } => self.request(line),
            Line::Connection { .. } => self.connection(line),
            Line::Notice { message } => Some(self.paint(Color::Dim, &text::visible(message))),
            // The error goes to stderr; an end that was asked for needs no words.
            Line::Closed { .. } => None,
        }
    }

    fn state(&mut self, line: &Line) -> Option<String> {
        let Line::State {
            state,
            attempt,
            session,
            container_port,
            why,
            retry_in_ms,
        } = line
        else {
            return None;
        };
        let why = why.as_deref().map(text::visible);
        match *state {
            // Later tries are part of an outage that has been told.
            "connecting" if attempt.is_some_and(|attempt| attempt > 1) => None,
            "lost" if self.lost == why => None,
            "lost" => {
                self.lost = why.clone();
                let retry = Duration::from_millis(retry_in_ms.unwrap_or_default());
                let why = why.unwrap_or_else(|| "no reason known".into());
                let again = match retry.is_zero() {
                    true => "trying again".to_owned(),
                    false => format!("trying again in {}", text::span(retry)),
                };
                Some(self.paint(Color::Yellow, &format!("lost: {why}; {again}")))
            }
            "taken over" => {
                let port = container_port.map_or(String::new(), |port| format!(" port {port}"));
                let why = why.map_or(String::new(), |why| format!(": {why}"));
                Some(self.paint(Color::Red, &format!("taken over{port}{why}")))
            }
            "online" | "resumed" => {
                self.lost = None;
                let session = session.as_deref().map(text::visible);
                let session = session.map_or(String::new(), |id| format!(" (session {id})"));
                Some(self.paint(Color::Dim, &format!("{state}{session}")))
            }
            _ => Some(self.paint(Color::Dim, state)),
        }
    }

    fn ready(&self, ready: &Ready) -> String {
        let address = self.paint(Color::Bold, &text::visible(&ready.address));
        let label = ready.label.as_deref().map(text::visible);
        let label = label.map_or(String::new(), |label| format!("  [{label}]"));
        format!("{address} -> {}{label}", text::visible(&ready.target))
    }

    /// What to give to a program that is to connect there.
    fn forwarding(&self, host: &str, port: u16, target: &str) -> String {
        let address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let address = self.paint(Color::Bold, &address);
        format!("{address} -> {} of the container", text::visible(target))
    }

    fn request(&self, line: &Line) -> Option<String> {
        let Line::Request {
            container_port,
            method,
            path,
            status,
            bytes_out,
            duration_ms,
            error,
            ..
        } = line
        else {
            return None;
        };
        let code = status.map_or("-".to_owned(), |status| status.to_string());
        let size = text::bytes(*bytes_out);
        let took = text::span(Duration::from_secs_f64(duration_ms / 1000.0));
        let port = self.port(*container_port);
        let (method, path) = (text::visible(method), text::visible(path));
        let cut = error.as_deref().map(text::visible);
        let cut = cut.map_or(String::new(), |why| format!("  ({why})"));
        let Some(width) = self.style.width else {
            return Some(format!("{port}{method} {path} {code} {size} {took}{cut}"));
        };
        // Columns: what is left beside the fixed ones is the path's.
        let method = text::cut(&method, METHOD);
        let room = width
            .saturating_sub(port.len() + METHOD + FIGURES)
            .clamp(PATH_MIN, PATH_MAX);
        let path = text::cut(&path, room);
        let code = self.paint(Color::of_status(*status), &format!("{code:>3}"));
        let figures = self.paint(Color::Dim, &format!("{size:>9} {took:>7}"));
        let cut = self.paint(Color::Red, &cut);
        Some(format!(
            "{port}{method:<METHOD$} {path:<room$} {code} {figures}{cut}"
        ))
    }

    fn connection(&self, line: &Line) -> Option<String> {
        let Line::Connection {
            container_port,
            bytes_in,
            bytes_out,
            duration_ms,
            remote_addr,
            error,
        } = line
        else {
            return None;
        };
        let port = self.port(*container_port);
        let who = remote_addr.as_deref().map(text::visible);
        let who = who.map_or(String::new(), |who| format!(" from {who}"));
        let (sent, got) = (text::bytes(*bytes_out), text::bytes(*bytes_in));
        let took = text::span(Duration::from_secs_f64(duration_ms / 1000.0));
        let cut = error.as_deref().map(text::visible);
        let cut = self.paint(
            Color::Red,
            &cut.map_or(String::new(), |why| format!("  ({why})")),
        );
        Some(format!(
            "{port}connection{who}: {got} in, {sent} out, {took}{cut}"
        ))
    }

    fn port(&self, port: u16) -> String {
        match self.style.many {
            true => format!(":{port:<5} "),
            false => String::new(),
        }
    }

    fn paint(&self, color: Color, text: &str) -> String {
        if !self.style.color || text.is_empty() {
            return text.to_owned();
        }
        format!("\x1b[{}m{text}\x1b[0m", color as u8)
    }
}

const METHOD: usize = 7;
/// Columns for status, size, duration and the spaces around them.
const FIGURES: usize = 1 + 1 + 3 + 1 + 9 + 1 + 7;
const PATH_MIN: usize = 16;
const PATH_MAX: usize = 100;

impl Line {
    /// Whether it is told with `--quiet` too.
    fn is_vital(&self) -> bool {
        matches!(
            self,
            Line::Ready(_) | Line::Forwarding { .. } | Line::Closed { .. }
        ) || matches!(
            self,
            Line::State {
                state: "taken over",
                ..
            }
        )
    }
}

/// Colours, as their numbers in an escape sequence.
#[derive(Debug, Clone, Copy)]
enum Color {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

impl Color {
    fn of_status(status: Option<u16>) -> Color {
        match status {
            Some(200..300) => Color::Green,
            Some(100..400) => Color::Cyan,
            Some(400..500) => Color::Yellow,
            _ => Color::Red,
        }
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
