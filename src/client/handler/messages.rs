//! Requests and responses for handlers that live in this process.

use std::io::{self, Read};
use std::sync::Arc;

/// Answers requests.
pub type Handler = Arc<dyn Fn(Request) -> Response + Send + Sync>;

/// A request, its body to be read.
///
/// ```
/// use hoody_tunnel::client::{Request, Response};
/// use std::io::Read;
///
/// fn answer(mut request: Request) -> Response {
///     if request.path() != "/echo" || request.query().is_some() {
///         return Response::new(404);
///     }
///     let mut body = String::new();
///     match request.body.read_to_string(&mut body) {
///         Ok(_) => Response::text(200, body),
///         Err(_) => Response::text(400, "That is no text."),
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The target: path and query, percent-encoding left as it came.
    pub target: String,
    /// The fields in their order; octets outside ASCII are the code points of the same number.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: RequestBody,
}

impl Request {
    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// What stands behind the `?`, if there is one.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The value of the first field called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// A request's body, as it arrives. What is not read is skipped.
pub struct RequestBody {
    pub(super) inner: Box<dyn Read + Send>,
}

impl Read for RequestBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestBody")
    }
}

/// A response.
///
/// ```
/// use hoody_tunnel::client::Response;
///
/// let text = Response::text(200, "Hello");
/// let page = Response::new(200).header("content-type", "text/html").bytes("<h1>Hello</h1>");
/// let endless = Response::new(200).stream(std::io::repeat(b'.'));
/// let file = Response::new(200).reader(std::io::Cursor::new(b"abc"), 3);
/// ```
#[derive(Debug)]
pub struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: ResponseBody,
}

/// A response's body.
pub(super) enum ResponseBody {
    Bytes(Vec<u8>),
    /// A reader, and its length if that is known; else it is sent in chunks, each as it is read.
    Reader(Box<dyn Read + Send>, Option<u64>),
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ResponseBody::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            ResponseBody::Reader(_, length) => write!(f, "a reader of {length:?} bytes"),
        }
    }
}

impl Response {
    /// A response without a body.
    pub fn new(status: u16) -> Response {
        Response {
            status,
            headers: Vec::new(),
            body: ResponseBody::Bytes(Vec::new()),
        }
    }

    /// A sentence in plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Response {
        Response::new(status)
            .header("content-type", "text/plain; charset=utf-8")
            .bytes(text.into())
    }

    /// One more field. Lengths and connection fields are written for you, and not taken from here.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Response {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A body of bytes.
    pub fn bytes(mut self, body: impl Into<Vec<u8>>) -> Response {
        self.body = ResponseBody::Bytes(body.into());
        self
    }

    /// A body of unknown length: each piece leaves as it is read.
    pub fn stream(mut self, body: impl Read + Send + 'static) -> Response {
        self.body = ResponseBody::Reader(Box::new(body), None);
        self
    }

    /// A body of `length` bytes, read while it is sent. For HEAD it is not read.
    pub fn reader(mut self, body: impl Read + Send + 'static, length: u64) -> Response {
        self.body = ResponseBody::Reader(Box::new(body), Some(length));
        self
    }
}
