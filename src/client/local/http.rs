//! A request and its answer, without tables, session or connections: bytes in, what follows out.
//!
//! [`HttpExchange`] makes of a STREAM_OPEN the head for the local server, says how DATA is framed
//! behind it, and reads the answer: interim heads, the head, data and its end, or why it makes no
//! sense. It carries no byte of a body that may go around it: it says how many there are, and they
//! are read straight to where they go. Only what must be looked at lies in its own buffer.
//!
//! Order of calls: [`HttpExchange::open`]; [`HttpExchange::data`] and [`HttpExchange::eof`] as the
//! kit sends; [`HttpExchange::space`], [`HttpExchange::came`] and [`HttpExchange::fin`] for the
//! local server, and after bytes [`HttpExchange::next`] until it waits.

use crate::buffer::Buffer;
use crate::client::local::naming::Naming;
use crate::client::local::pool::Reuse;
use crate::client::local::visitor::asks_to_log_in;
use crate::http::rewrite::{AskedAs, Back, Names};
use crate::http::write::{CRLF, LAST_CHUNK};
use crate::http::{
    Asked, BodyDecoder, BodyHint, Field, HeadLimits, HeadScanner, LengthBody, Reject, RequestBody,
    RequestPlan, ResponseHead, Version, forward, speaks_tls, trailers,
};
use crate::limits::{BULK_PAYLOAD, INTERIM_HEADS, UPSTREAM_READ};
use crate::wire::open::{
    BodyKind, NameCase, OpenHttp, header, parse_trailers, write_response_head, write_trailers,
};
use crate::wire::parts::write_parts;

/// See the module.
#[derive(Debug)]
pub struct HttpExchange {
    method: String,
    target: String,
    asked: Asked,
    /// What the answer's head is rewritten by, until it came.
    back: Option<Back>,
    agreed: Agreed,
    /// The head for the local server, kept in case that it has to be sent again.
    head: Vec<u8>,
    upload: Upload,
    /// Something of the request's body went out.
    body_began: bool,
    retried: bool,
    download: Download,
    /// Bytes from the local server that were not passed on.
    received: Buffer,
    /// The last space lay elsewhere.
    reads_direct: bool,
    scanner: HeadScanner,
    /// Fields ahead of the head that was written last.
    parts: Vec<Vec<u8>>,
    /// Bytes of interim heads that were passed on.
    interim: usize,
    status: Option<u16>,
    /// Who can use the connection after the response.
    reuse: Reuse,
}

/// What both ends said about fields (PROTOCOL §4).
#[derive(Debug, Clone, Copy)]
pub struct Agreed {
    /// How their names travel.
    pub names: NameCase,
    /// Trailers travel.
    pub trailers: bool,
    /// Heads larger than a frame travel.
    pub long_heads: bool,
    /// How large the head of an answer may be.
    pub answers: HeadLimits,
}

/// What becomes of DATA from the kit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upload {
    /// The request is complete.
    Complete,
    /// So many bytes are to come.
    Length(u64),
    /// Each DATA is a chunk.
    Chunked,
    /// The last chunk went, and trailers but for their end.
    Trailers,
    /// Both directions are raw after a 101.
    Raw,
    /// The response is complete, so nobody wants the rest of the request.
    Unwanted,
}

/// What is expected of the local server.
#[derive(Debug)]
enum Download {
    Head,
    Body(BodyDecoder),
    Raw,
    Complete,
}

/// How DATA goes to the local server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// As it is.
    Plain,
    /// As a chunk.
    Chunk,
    /// Not at all.
    Unwanted,
}

/// Where the next bytes of the local server go.
#[derive(Debug, PartialEq, Eq)]
pub enum Space<'a> {
    /// Into the exchange's own buffer.
    Own(&'a mut [u8]),
    /// They are payload for certain, so many at most.
    Direct(usize),
    /// Nowhere: others wait for credit, and those behind them wait in the socket.
    None,
}

/// What is to be done with what the local server sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing is there, or more must come first.
    Wait,
    /// A head was written, to be passed on.
    Head(Passed),
    /// So many bytes at the front of [`HttpExchange::waiting`] are payload; say which were
    /// [`HttpExchange::sent`].
    Data(usize),
    /// The response is complete.
    End,
    /// The local server's answer makes no sense.
    Broken(&'static str),
}

/// A head that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Another follows.
    pub interim: bool,
    /// It asks for a login that holds for the connection, or goes on with one.
    pub personal: bool,
    /// Both directions are raw from here on.
    pub switches: bool,
}

/// What follows when the connection to the local server is gone.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// It closed just when the request was on its way: this head is sent again, elsewhere.
    Again(Vec<u8>),
    /// Nothing of an answer was passed on, so one can be given.
    Unanswered,
    /// The answer had been passed on whole.
    Nothing,
    /// What was passed on must not look whole.
    Cut,
}

impl HttpExchange {
    /// Reads a STREAM_OPEN, for a server of this name. `received` is an empty buffer. Says also why
    /// the local server must not see the request, if it must not.
    pub fn open(
        open: &OpenHttp<'_>,
        received: Buffer,
        naming: Naming<'_>,
        agreed: Agreed,
    ) -> (HttpExchange, Option<&'static str>) {
        let mut http = HttpExchange::new(open.method.as_ref(), &open.target, received, agreed);
        let fields = open
            .headers
            .iter()
            .map(|field| (field.name.as_ref(), field.value.as_ref()));
        let hint = match open.declared_body {
            None => BodyHint::Unknown,
            Some(BodyKind::None) => BodyHint::None,
            Some(BodyKind::Length) => BodyHint::Length,
            Some(BodyKind::Chunked) => BodyHint::Chunked,
        };
        let plan = RequestPlan::new(&open.method, &open.target, fields, hint, open.is_upgrade);
        let written = plan.and_then(|mut plan| {
            if agreed.trailers {
                plan.pass_trailers();
            }
            plan.own = naming.own;
            http.asked = plan.asked;
            http.upload = match plan.body {
                RequestBody::None | RequestBody::Length(0) => Upload::Complete,
                RequestBody::Length(length) => Upload::Length(length),
                RequestBody::Chunked => Upload::Chunked,
            };
            let (host, names) = naming.names(AskedAs {
                host: plan.host,
                forwarded_host: header(&open.headers, "x-forwarded-host"),
                forwarded_proto: header(&open.headers, "x-forwarded-proto"),
                public_url: naming.public_url,
                upgrade: open.is_upgrade,
                origin: header(&open.headers, "origin"),
                content_type: header(&open.headers, "content-type"),
            });
            http.back = names.as_ref().and_then(Names::back);
            plan.write(&mut http.head, host, names.as_ref())
        });
        let unfit = written.err().map(|refused| refused.0);
        if unfit.is_some() {
            http.upload = Upload::Unwanted;
        }
        (http, unfit)
    }

    fn new(method: &str, target: &[u8], received: Buffer, agreed: Agreed) -> HttpExchange {
        HttpExchange {
            method: method.to_owned(),
            target: String::from_utf8_lossy(target).into_owned(),
            asked: Asked {
                head: method == "HEAD",
                version: Version::Http11,
                keep_alive: true,
                upgrade: false,
            },
            back: None,
            agreed,
            head: Vec::with_capacity(TYPICAL_HEAD),
            upload: Upload::Complete,
            body_began: false,
            retried: false,
            download: Download::Head,
            received,
            reads_direct: false,
            scanner: HeadScanner::for_answer_within(agreed.answers),
            parts: Vec::new(),
            interim: 0,
            status: None,
            reuse: Reuse::Never,
        }
    }

    /// The head for the local server, as long as it may have to be sent again.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// It will not have to be sent again.
    pub fn forget_head(&mut self) {
        self.head = Vec::new();
    }

    /// Bytes of the request that are kept to the end.
    pub fn kept(&self) -> usize {
        self.target.len()
    }

    /// Method, target and status, for the record of its end.
    pub fn take_record(&mut self) -> (String, String, Option<u16>) {
        let method = std::mem::take(&mut self.method);
        (method, std::mem::take(&mut self.target), self.status)
    }

    /// `count` bytes of DATA came from the kit.
    ///
    /// # Errors
    ///
    /// They are more than was announced.
    pub fn data(&mut self, count: usize) -> Result<Pass, &'static str> {
        let pass = match &mut self.upload {
            Upload::Raw => Pass::Plain,
            Upload::Chunked => Pass::Chunk,
            Upload::Unwanted => Pass::Unwanted,
            Upload::Length(left) if count as u64 <= *left => {
                *left -= count as u64;
                Pass::Plain
            }
            Upload::Complete | Upload::Trailers | Upload::Length(_) => {
                return Err("more body than was announced");
            }
        };
        self.body_began = true;
        Ok(pass)
    }

    /// Trailers came from the kit; the first ones behind a chunked body are for the local server,
    /// any others nobody's. Whether there is something to be sent, which was written to `text`.
    ///
    /// # Errors
    ///
    /// They are malformed.
    pub fn trailers(&mut self, payload: &[u8], text: &mut Vec<u8>) -> Result<bool, &'static str> {
        if self.upload != Upload::Chunked {
            return Ok(false);
        }
        let fields = parse_trailers(payload).map_err(|_| "malformed trailers")?;
        let fields = fields.iter().map(|field| (&*field.name, &*field.value));
        let written = trailers::write(text, fields).map_err(|refused| refused.0)?;
        if written {
            self.upload = Upload::Trailers;
            self.body_began = true;
        }
        Ok(written)
    }

    /// The kit sends nothing more. Gives what is still to be sent for it.
    ///
    /// # Errors
    ///
    /// Something was announced that did not come.
    pub fn eof(&mut self) -> Result<&'static [u8], &'static str> {
        match self.upload {
            Upload::Length(1..) => Err("the body ended before its announced length"),
            Upload::Chunked => {
                self.upload = Upload::Complete;
                self.body_began = true;
                Ok(LAST_CHUNK)
            }
            Upload::Trailers => {
                self.upload = Upload::Complete;
                Ok(CRLF)
            }
            Upload::Length(0) => {
                self.upload = Upload::Complete;
                Ok(&[])
            }
            Upload::Complete | Upload::Raw | Upload::Unwanted => Ok(&[]),
        }
    }

    /// Where the next bytes of the local server go.
    pub fn space(&mut self) -> Space<'_> {
        let certain = match &self.download {
            Download::Head | Download::Complete => 0,
            Download::Body(body) => body.certain_data(),
            Download::Raw => u64::MAX,
        };
        if certain == 0 {
            self.reads_direct = false;
            return Space::Own(self.received.space(UPSTREAM_READ));
        }
        if !self.received.is_empty() {
            return Space::None;
        }
        self.reads_direct = true;
        Space::Direct(usize::try_from(certain).map_or(BULK_PAYLOAD, |it| it.min(BULK_PAYLOAD)))
    }

    /// Whether the last [`HttpExchange::space`] lay elsewhere.
    pub fn reads_direct(&self) -> bool {
        self.reads_direct
    }

    /// `count` bytes are in the space that was given. If it lay elsewhere they are passed on, and
    /// it is said whether the response is complete.
    pub fn came(&mut self, count: usize) -> bool {
        if !self.reads_direct {
            self.received.commit(count);
            return false;
        }
        let Download::Body(body) = &mut self.download else {
            return false;
        };
        body.skip_data(count as u64);
        body.is_complete()
    }

    /// Bytes that came and were not passed on.
    pub fn waiting(&self) -> &[u8] {
        self.received.bytes()
    }

    /// So many of those that [`Step::Data`] counted were passed on.
    pub fn sent(&mut self, count: usize) {
        self.received.consume(count);
        if let Download::Body(body) = &mut self.download {
            body.skip_data(count as u64);
        }
    }

    /// What is to be done now. A head is written into `json`.
    pub fn next(&mut self, json: &mut Vec<u8>) -> Step {
        loop {
            let body = match &mut self.download {
                Download::Head => return self.next_head(json).unwrap_or_else(Step::Broken),
                Download::Body(body) if body.is_complete() => return Step::End,
                Download::Complete => return Step::Wait,
                _ if self.received.is_empty() => return Step::Wait,
                Download::Raw => return Step::Data(self.received.len()),
                Download::Body(body) => body,
            };
            let certain = body.certain_data();
            if certain > 0 {
                let most = usize::try_from(certain).unwrap_or(usize::MAX);
                return Step::Data(most.min(self.received.len()));
            }
            // One octet of framing at a time, so that no data is taken that there is no credit for.
            match body.decode(&self.received.bytes()[..1]) {
                Ok(step) => self.received.consume(step.consumed),
                Err(_) => return Step::Broken("its chunks are malformed"),
            }
        }
    }

    /// Fields ahead of the head that was written last, each for a HEAD_PART.
    pub fn take_parts(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.parts)
    }

    fn next_head(&mut self, json: &mut Vec<u8>) -> Result<Step, &'static str> {
        if speaks_tls(self.received.bytes()) {
            return Err(SPEAKS_TLS);
        }
        let scanned = self.scanner.scan(self.received.bytes());
        let too_large = "its head is larger than --max-head or --max-fields allow";
        let why = |reject: Reject| match reject.status {
            431 => too_large,
            _ => reject.why,
        };
        let Some(length) = scanned.map_err(why)? else {
            return Ok(Step::Wait);
        };
        let head = self.received.bytes().get(..length).unwrap_or_default();
        let mut head = ResponseHead::parse(head).map_err(|reject| reject.why)?;
        if self.agreed.trailers {
            head.pass_trailers();
        }
        let switches = head.accepts_upgrade(self.asked);
        if head.status == 101 && !switches {
            return Err("it switched protocols without being asked");
        }
        let interim = head.is_interim();
        if interim {
            self.interim += length;
            if self.interim > INTERIM_HEADS {
                return Err("its interim heads do not end");
            }
        }
        json.clear();
        let fields = forward::response_fields(&head, switches);
        let back = self.back.as_ref();
        let rewritten = back.map_or_else(Vec::new, |back| back.rewritten(fields.clone()));
        let fields = fields.enumerate().map(|(at, (name, value))| {
            let new = rewritten.iter().find(|(place, _)| *place == at);
            (name, new.map_or(value, |(_, new)| new))
        });
        self.parts = say_head(json, (head.status, !interim), fields, &self.agreed)?;
        let asks = |(name, value)| asks_to_log_in(name, value);
        let personal = head.fields.iter().any(asks);
        if interim {
            self.scanner = HeadScanner::for_answer_within(self.agreed.answers);
        } else {
            self.back = None;
            self.status = Some(head.status);
            self.reuse = match head.reusable(self.asked) {
                false => Reuse::Never,
                true if head.tempts_to_send_more(self.asked) => Reuse::ByTheVisitor,
                true => Reuse::ByAnybody,
            };
            (self.download, self.upload) = match switches {
                true => (Download::Raw, Upload::Raw),
                false => {
                    let mut body = BodyDecoder::for_response(head.body(self.asked));
                    if self.agreed.trailers {
                        body.keep_trailers();
                    }
                    (Download::Body(body), self.upload)
                }
            };
            self.head = Vec::new();
        }
        self.received.consume(length);
        Ok(Step::Head(Passed {
            interim,
            personal,
            switches,
        }))
    }

    /// The local server sends nothing more. Whether the response is complete by that.
    pub fn fin(&mut self) -> bool {
        let whole = matches!(&self.download, Download::Body(body) if body.closed().is_ok());
        if whole {
            self.reuse = Reuse::Never;
        }
        whole
    }

    /// The connection is gone; `reused` if it had served another request.
    pub fn broke(&mut self, reused: bool) -> Broken {
        let untouched = self.is_untouched();
        match self.download {
            Download::Head if reused && self.is_repeatable() && untouched => {
                self.retried = true;
                Broken::Again(std::mem::take(&mut self.head))
            }
            Download::Head => Broken::Unanswered,
            Download::Complete => Broken::Nothing,
            Download::Body(_) | Download::Raw => Broken::Cut,
        }
    }

    /// Whether not a byte of an answer came.
    pub fn is_untouched(&self) -> bool {
        self.status.is_none() && self.interim == 0 && self.received.is_empty()
    }

    /// Takes a text of our own for the answer, of which nothing was passed on. Writes its head into
    /// `json`; false if that cannot be written.
    pub fn answer(&mut self, status: u16, text: &str, json: &mut Vec<u8>) -> bool {
        let length = text.len().to_string();
        let fields: [(&[u8], &[u8]); 4] = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"content-length", length.as_bytes()),
            (b"retry-after", b"1"),
        ];
        let count = if status == 503 { 4 } else { 3 };
        json.clear();
        let fields = fields.into_iter().take(count);
        if write_response_head(json, status, fields, true, self.agreed.names).is_err() {
            return false;
        }
        self.status = Some(status);
        self.reuse = Reuse::Never;
        self.upload = Upload::Unwanted;
        self.received.release();
        let mut body = LengthBody::new(0);
        if !self.asked.head {
            self.received.extend(text.as_bytes());
            body = LengthBody::new(text.len() as u64);
        }
        self.download = Download::Body(BodyDecoder::Length(body));
        true
    }

    /// Writes the trailers behind the response's body, which is whole, into `json`, if any of them
    /// may pass.
    pub fn say_trailers(&mut self, json: &mut Vec<u8>) -> bool {
        let Download::Body(body) = &mut self.download else {
            return false;
        };
        let lines = body.take_trailers();
        json.clear();
        write_trailers(json, trailers::fields(&lines), self.agreed.names) == Ok(true)
    }

    /// The response was passed on whole. Gives back the buffer for bytes of the server, and who can
    /// use the connection again, if the request has `left` for it.
    pub fn finish(&mut self, left: bool) -> (Buffer, Reuse) {
        self.download = Download::Complete;
        let whole = matches!(self.upload, Upload::Complete | Upload::Length(0));
        let reuse = match left && whole && self.received.is_empty() {
            true => self.reuse,
            false => Reuse::Never,
        };
        self.upload = Upload::Unwanted;
        (std::mem::take(&mut self.received), reuse)
    }

    /// Whether both directions are plain bytes.
    pub fn is_raw(&self) -> bool {
        matches!(self.download, Download::Raw)
    }

    /// Whether what the local server got of it must not look whole.
    pub fn is_cut_short(&self) -> bool {
        self.upload != Upload::Complete || self.asked.upgrade
    }

    /// Whether the request may be sent a second time without doing something twice.
    pub fn is_repeatable(&self) -> bool {
        let idempotent = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
        idempotent.contains(&self.method.as_str())
            && self.upload == Upload::Complete
            && !self.body_began
            && !self.retried
            && !self.head.is_empty()
    }
}

/// Writes a head into `json`, and gives what does not fit it, each for a HEAD_PART.
fn say_head<'h>(
    json: &mut Vec<u8>,
    (status, is_final): (u16, bool),
    fields: impl Iterator<Item = Field<'h>> + Clone,
    agreed: &Agreed,
) -> Result<Vec<Vec<u8>>, &'static str> {
    let names = agreed.names;
    if write_response_head(json, status, fields.clone(), is_final, names).is_ok() {
        return Ok(Vec::new());
    }
    if !agreed.long_heads {
        return Err("its head is too long for this kit");
    }
    let parts = write_parts(fields, names).map_err(|_| "its head is too long")?;
    let written = write_response_head(json, status, std::iter::empty(), is_final, names);
    written.map_err(|_| "its head is too long")?;
    Ok(parts)
}

/// Bytes that most heads stay below, so that one allocation is enough.
const TYPICAL_HEAD: usize = 512;
/// Why an answer of [`speaks_tls`] makes none.
const SPEAKS_TLS: &str = "this server speaks TLS: expose it with https:// and its name";
