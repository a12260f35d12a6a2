//! `serve DIR`: a directory's files over HTTP, read-only, with no way out of it.
//!
//! [`path`] turns a request's target into a path that cannot name anything else, [`root`] opens it
//! without leaving the directory, and this file decides what to answer. Nothing is ever read into
//! memory whole: bodies are read from the file while they are sent. Names that begin with a dot do
//! not exist here.

mod date;
mod listing;
mod path;
mod range;
mod root;
mod types;

#[cfg(test)]
mod tests;

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hoody_tunnel::client::{Request, Response};

use path::{Below, Wrong};
use range::Wanted;
pub use root::Root;

/// Answers one request from the files below `root`.
pub fn handle(root: &Root, request: &Request) -> Response {
    let answer = answer(root, &request.method, &request.target, &|name| {
        request.header(name).map(str::to_owned)
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs() as i64);
    let mut response = Response::new(answer.status).header("date", date::format(now));
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    match answer.body {
        Body::Bytes(bytes) => response.bytes(bytes),
        Body::File(file, length) => response.reader(file, length),
    }
}

/// A response before it is the library's, so that tests can look at it.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

enum Body {
    Bytes(Vec<u8>),
    File(Exactly, u64),
}

/// Looks up the first field of a name.
type Field<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Answer {
    fn new(status: u16) -> Answer {
        Answer {
            status,
            headers: vec![("x-content-type-options", "nosniff".into())],
            body: Body::Bytes(Vec::new()),
        }
    }

    /// A status with its name as the body.
    fn plain(status: u16, text: &str) -> Answer {
        let mut answer = Answer::new(status).with("content-type", "text/plain; charset=utf-8");
        answer.body = Body::Bytes(format!("{text}\n").into_bytes());
        answer
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

fn answer(root: &Root, method: &str, target: &str, field: Field<'_>) -> Answer {
    match method {
        "GET" | "HEAD" => {}
        "OPTIONS" => return Answer::new(204).with("allow", METHODS),
        _ => return Answer::plain(405, "method not allowed").with("allow", METHODS),
    }
    let below = match Below::parse(target) {
        Ok(below) => below,
        Err(Wrong::Malformed) => return Answer::plain(400, "bad request"),
        Err(Wrong::Hidden) => return not_found(),
    };
    match root.file(below.path()) {
        Ok((_, metadata)) if metadata.is_dir() && !below.names_a_directory() => {
            Answer::plain(301, "moved").with("location", moved_to(&below, target))
        }
        Ok((handle, metadata)) if metadata.is_dir() => {
            directory(root, &below, &handle, method, field)
        }
        Ok(_) if below.names_a_directory() => not_found(),
        Ok((file, metadata)) => whole_or_part(file, &metadata, below.path(), method, field),
        Err(error) => failed(&error),
    }
}

const METHODS: &str = "GET, HEAD, OPTIONS";

fn directory(root: &Root, below: &Below, handle: &File, method: &str, field: Field<'_>) -> Answer {
    let index = below.path().join("index.html");
    match root.file(&index) {
        Ok((file, metadata)) if metadata.is_file() => {
            return whole_or_part(file, &metadata, &index, method, field);
        }
        // It may be there all the same.
        Err(error) if is_want(&error) => return failed(&error),
        _ => {}
    }
    match listing::page(root, below, handle) {
        Ok(page) => {
            // The page has no script, and must not have one that a file's name smuggled in.
            let policy = "default-src 'none'; style-src 'unsafe-inline'";
            let mut answer = Answer::new(200)
                .with("content-type", "text/html; charset=utf-8")
                .with("content-security-policy", policy)
                .with("cache-control", "no-cache");
            answer.body = Body::Bytes(page.into_bytes());
            answer
        }
        Err(error) => failed(&error),
    }
}

fn moved_to(below: &Below, target: &str) -> String {
    let mut location = below.target() + "/";
    if let Some((_, query)) = target.split_once('?') {
        location.push('?');
        location.push_str(query);
    }
    location
}

fn whole_or_part(
    mut file: File,
    metadata: &Metadata,
    path: &Path,
    method: &str,
    field: Field<'_>,
) -> Answer {
    let (size, stamp) = (metadata.len(), modified(metadata));
    // Weak: two writes within the clock's step and of the same length look the same.
    let tag = format!("W/\"{:x}-{:x}\"", stamp_nanos(metadata), size);
    let described = |status| {
        Answer::new(status)
            .with("last-modified", date::format(stamp))
            .with("etag", tag.clone())
            .with("accept-ranges", "bytes")
    };
    if is_unchanged(&tag, stamp, field) {
        return described(304);
    }
    let wanted = match field("range") {
        Some(range) if method == "GET" && may_be_cut(stamp, field) => range::parse(&range, size),
        _ => Wanted::Whole,
    };
    let (first, length) = match wanted {
        Wanted::Unsatisfiable => {
            return Answer::plain(416, "range not satisfiable")
                .with("content-range", format!("bytes */{size}"));
        }
        Wanted::Whole => (0, size),
        Wanted::Part { first, last } => (first, last - first + 1),
    };
    let mut answer = described(if wanted == Wanted::Whole { 200 } else { 206 })
        .with("content-type", types::content_type(path));
    if let Wanted::Part { first, last } = wanted {
        answer = answer.with("content-range", format!("bytes {first}-{last}/{size}"));
        if let Err(error) = file.seek(SeekFrom::Start(first)) {
            return failed(&error);
        }
    }
    debug_assert!(first + length <= size);
    answer.body = Body::File(Exactly { file, left: length }, length);
    answer
}

/// Whether the visitor has the file already (RFC 9110 §13.2.2: a tag decides before a date).
fn is_unchanged(tag: &str, modified: i64, field: Field<'_>) -> bool {
    if let Some(tags) = field("if-none-match") {
        let bare = tag.trim_start_matches("W/");
        let matches = |other: &str| other.trim().trim_start_matches("W/") == bare;
        return tags.trim() == "*" || tags.split(',').any(matches);
    }
    let since = field("if-modified-since").and_then(|text| date::parse(&text));
    since.is_some_and(|since| modified <= since)
}

/// Whether a range may be honoured: an `If-Range` must name this very version, and our weak tag
/// never proves that (RFC 9110 §13.1.5).
fn may_be_cut(modified: i64, field: Field<'_>) -> bool {
    match field("if-range") {
        None => true,
        Some(text) => date::parse(&text) == Some(modified),
    }
}

/// When the file was changed, in seconds, which is all that an HTTP date can say.
fn modified(metadata: &Metadata) -> i64 {
    metadata.mtime()
}

fn stamp_nanos(metadata: &Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

fn not_found() -> Answer {
    Answer::plain(404, "not found")
}

/// What cannot be opened does not exist for visitors; only our own trouble is told from that.
fn failed(error: &io::Error) -> Answer {
    match error.raw_os_error() {
        _ if is_want(error) => Answer::plain(503, "try again later").with("retry-after", "1"),
        Some(libc::EACCES | libc::EPERM) => Answer::plain(403, "forbidden"),
        Some(libc::EIO) => Answer::plain(500, "the file cannot be read"),
        _ => not_found(),
    }
}

/// Whether this process or system has no means for it now, whatever it is.
fn is_want(error: &io::Error) -> bool {
    let want = [libc::EMFILE, libc::ENFILE, libc::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| want.contains(&code))
}

/// So many bytes of a file. A file that has become shorter is an error and not an end, so that a
/// cut body never looks whole.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || space.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.left).map_or(space.len(), |left| left.min(space.len()));
        let count = self.file.read(&mut space[..most])?;
        if count == 0 {
            let text = "the file became shorter while it was sent";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.left -= count as u64;
        Ok(count)
    }
}
