//! HTTP/1.1 for a handler, over a connection that ends in this process.
//!
//! The loop hands bytes in and takes bytes out, and never waits here. A thread of the crew is taken
//! for what may block, and for no longer: running the handler, once its request is there (a small
//! body, too), and reading a body of its response, as far ahead as [`HANDLER_AHEAD`]. An idle
//! connection, a slow reader and a file on its way hold none.
//!
//! The other end is our own machine, which has checked every request before. All the same nothing
//! here trusts it more than a stranger: the same parser and the same rules.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::buffer::Buffer;
use crate::client::handler::crew::{Ask, Crew, Job};
use crate::client::handler::messages::{Handler, Request, RequestBody, Response, ResponseBody};
use crate::client::keys::Origin;
use crate::http::write::{
    CRLF, LAST_CHUNK, chunk_header, put_content_length, put_field, put_status_line,
};
use crate::http::{Asked, BodyDecoder, HeadScanner, Refusal, RequestHead, begins_head};
use crate::limits::{HANDLER_AHEAD, HANDLER_SKIP};
use crate::machine::{Inside, Stir};

/// The loop's end of a connection to a handler.
#[derive(Debug)]
pub(in crate::client) struct HandlerConn(Arc<Conversation>);

/// Both ends of it.
pub(super) struct Conversation {
    state: Mutex<State>,
    /// Bytes of a request's body came, or no more will.
    news: Condvar,
    stir: Stir,
    crew: Arc<Crew>,
    handler: Handler,
}

struct State {
    progress: Progress,
    received: Buffer,
    scanner: HeadScanner,
    /// What is left of the current request's body.
    body: BodyDecoder,
    /// The sender waits for `100 Continue`.
    announced: bool,
    asked: Asked,
    /// For whom it is said.
    visitor: Origin,
    /// Counts requests, so that a body that was kept beyond its request is known.
    number: u64,
    out: Buffer,
    /// The loop sends nothing more.
    fin: bool,
    /// The loop has closed the connection.
    gone: bool,
}

enum Progress {
    /// A request may come.
    Head,
    /// A request whose small body is still coming.
    Gathering(Box<Request>),
    /// The handler has it, or it waits for a thread.
    Asked,
    /// What is left of the response's body; nobody reads it now.
    Answering(Source),
    /// A thread reads it, or is about to.
    Reading(Option<Source>),
    /// So many bytes of the request that nobody wants may still come.
    Skipping(u64),
    /// Nothing more is said.
    Over,
}

enum Source {
    Bytes(Vec<u8>, usize),
    /// A reader and how many bytes it has to give, or as many as it has in chunks.
    Reader(Box<dyn Read + Send>, Option<u64>),
}

impl HandlerConn {
    pub(crate) fn new(handler: Option<Handler>, crew: &Arc<Crew>, stir: Stir) -> HandlerConn {
        let progress = match handler {
            Some(_) => Progress::Head,
            None => Progress::Over,
        };
        let handler = handler.unwrap_or_else(|| Arc::new(|_| Response::new(404)));
        HandlerConn(Arc::new(Conversation {
            state: Mutex::new(State {
                progress,
                received: Buffer::new(),
                scanner: HeadScanner::new(),
                body: BodyDecoder::None,
                announced: false,
                asked: CLOSING,
                visitor: None,
                number: 0,
                out: Buffer::new(),
                fin: false,
                gone: false,
            }),
            news: Condvar::new(),
            stir,
            crew: Arc::clone(crew),
            handler,
        }))
    }
}

impl Inside for HandlerConn {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.out.is_empty() {
            return self.0.read_source_bytes(&mut state, space);
        }
        let count = state.out.len().min(space.len());
        space[..count].copy_from_slice(&state.out.bytes()[..count]);
        state.out.consume(count);
        state.out.release_if_idle(0);
        self.0.read_ahead(&mut state);
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if matches!(state.progress, Progress::Over) {
            // Nobody wants it any more.
            return Ok(bytes.len());
        }
        let count = HANDLER_AHEAD.saturating_sub(state.received.len());
        let count = count.min(bytes.len());
        if count == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.received.extend(&bytes[..count]);
        self.0.advance(&mut state);
        Ok(count)
    }

    fn finish(&mut self) {
        let mut state = self.0.lock();
        state.fin = true;
        self.0.advance(&mut state);
    }

    fn introduce(&mut self, visitor: Origin) {
        self.0.lock().visitor = visitor;
    }
}

impl Drop for HandlerConn {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.gone = true;
        state.received.release();
        state.out.release();
        self.0.news.notify_all();
        let progress = std::mem::replace(&mut state.progress, Progress::Over);
        let (Progress::Answering(source) | Progress::Reading(Some(source))) = progress else {
            return;
        };
        // What a user's reader does when it is dropped is none of the loop's business.
        state.progress = Progress::Reading(Some(source));
        if !self.0.crew.read(Arc::clone(&self.0)) {
            let left = std::mem::replace(&mut state.progress, Progress::Over);
            drop(state);
            drop(left);
        }
    }
}

impl Job for Conversation {
    /// Runs the handler, on a thread that may block.
    fn run(self: Arc<Self>, request: Request) {
        if self.lock().gone {
            return;
        }
        let handler = &self.handler;
        let outcome = catch_unwind(AssertUnwindSafe(|| handler(request)));
        let mut state = self.lock();
        match outcome {
            _ if state.gone => {}
            Err(_) => self.refuse_with(&mut state, &Refusal::text(500, "The handler failed.")),
            Ok(response) => match head_of(&response, state.asked) {
                None => {
                    let text = "The handler gave an impossible status.";
                    self.refuse_with(&mut state, &Refusal::text(500, text));
                }
                Some(head) => {
                    state.out.extend(&head);
                    let bodiless = state.asked.head || matches!(response.status, 204 | 304);
                    drop_or_send(&self, state, response.body, bodiless);
                }
            },
        }
    }

    /// Reads the body of a response as far ahead as it may, on a thread that may block. A reader
    /// that fails or ends early ends the connection, so that a cut body never looks whole.
    fn read(self: Arc<Self>) {
        let mut state = self.lock();
        let Progress::Reading(source) = &mut state.progress else {
            return;
        };
        let Some(Source::Reader(mut reader, mut left)) = source.take() else {
            return;
        };
        let mut piece = vec![0; PIECE];
        while !state.gone && left != Some(0) {
            if state.out.len() >= HANDLER_AHEAD {
                state.progress = Progress::Answering(Source::Reader(reader, left));
                return;
            }
            drop(state);
            let wanted = left.map_or(PIECE, |left| {
                usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))
            });
            let space = &mut piece[..wanted];
            let outcome = catch_unwind(AssertUnwindSafe(|| reader.read(space)));
            state = self.lock();
            let count = match outcome {
                Ok(Ok(count)) if count <= wanted && (count > 0 || left.is_none()) => count,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                _ => {
                    self.end(&mut state);
                    break;
                }
            };
            match &mut left {
                Some(left) => {
                    *left -= count as u64;
                    state.out.extend(&piece[..count]);
                }
                None if count == 0 => {
                    state.out.extend(LAST_CHUNK);
                    left = Some(0);
                }
                None => {
                    state.out.extend(chunk_header(count).as_ref());
                    state.out.extend(&piece[..count]);
                    state.out.extend(CRLF);
                }
            }
            (self.stir)();
        }
        if !state.gone && left == Some(0) && matches!(state.progress, Progress::Reading(_)) {
            self.answered(&mut state);
            (self.stir)();
        }
        // What the user's reader does in the end, it does without the lock.
        drop(state);
        drop(reader);
    }

    /// All threads are busy, and were for as long as a request may wait.
    fn refuse(self: Arc<Self>) {
        let mut state = self.lock();
        if !state.gone {
            let text = "The tunnel is busy: all its handlers are at work. Try again.";
            let refusal = Refusal::text(503, text).with(&[("retry-after", "1")]);
            self.refuse_with(&mut state, &refusal);
        }
    }
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Conversation")
    }
}

impl Conversation {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing of the user's runs under the lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on as far as what was received allows.
    fn advance(self: &Arc<Self>, state: &mut State) {
        loop {
            match &mut state.progress {
                Progress::Head => match state.scanner.scan(state.received.bytes()) {
                    Ok(Some(length)) => self.begin(state, length),
                    Ok(None) => return self.wait_or_end(state),
                    Err(reject) => return self.reject(state, &reject.into()),
                },
                Progress::Gathering(_) => {
                    if !state.body_is_here() {
                        return self.wait_or_end(state);
                    }
                    let progress = std::mem::replace(&mut state.progress, Progress::Asked);
                    if let Progress::Gathering(request) = progress {
                        let ask = Ask::new(Arc::clone(self), *request, state.visitor);
                        self.crew.ask(ask);
                    }
                }
                Progress::Skipping(left) => {
                    let bytes = state.received.bytes();
                    if state.body.is_complete() {
                        state.progress = Progress::Head;
                        continue;
                    }
                    if bytes.is_empty() {
                        return self.wait_or_end(state);
                    }
                    match state.body.decode(bytes) {
                        Ok(step) if *left >= step.consumed as u64 => {
                            *left -= step.consumed as u64;
                            state.received.consume(step.consumed);
                        }
                        _ => return self.end(state),
                    }
                }
                Progress::Asked
                | Progress::Answering(_)
                | Progress::Reading(_)
                | Progress::Over => {
                    return self.news.notify_all();
                }
            }
        }
    }

    /// A whole head is there.
    fn begin(self: &Arc<Self>, state: &mut State, length: usize) {
        let head = state.received.bytes().get(..length).unwrap_or_default();
        let head = match RequestHead::parse(head) {
            Ok(head) => head,
            Err(reject) => return self.reject(state, &reject.into()),
        };
        let text = |octets: &[u8]| octets.iter().map(|octet| char::from(*octet)).collect();
        let number = state.number;
        let request = Request {
            method: head.method.to_owned(),
            target: text(&head.target),
            headers: head
                .fields
                .iter()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            body: RequestBody {
                inner: Box::new(Incoming(Arc::clone(self), number)),
            },
        };
        state.asked = head.asked();
        state.announced = head.expects_continue;
        let (body, upgrade) = (BodyDecoder::for_request(head.body), head.upgrade);
        state.body = body;
        state.received.consume(length);
        state.scanner = HeadScanner::new();
        if upgrade {
            state.progress = Progress::Asked;
            let text = "This server does not switch protocols.";
            return self.refuse_with(state, &Refusal::text(501, text));
        }
        state.progress = Progress::Gathering(Box::new(request));
    }

    /// More has to come; without it that was all.
    fn wait_or_end(&self, state: &mut State) {
        if state.fin {
            self.end(state);
        }
    }

    /// What came is no request: the last answer on this connection.
    fn reject(&self, state: &mut State, refusal: &Refusal) {
        let (mut out, head) = (Vec::new(), begins_head(state.received.bytes()));
        refusal.write_and_close(&mut out, head, None);
        state.out.extend(&out);
        self.end(state);
    }

    fn end(&self, state: &mut State) {
        state.progress = Progress::Over;
        state.received.release();
        self.news.notify_all();
        (self.stir)();
    }

    /// Answers by ourselves.
    fn refuse_with(self: &Arc<Self>, state: &mut State, refusal: &Refusal) {
        let mut out = Vec::new();
        refusal.write(&mut out, state.asked, None);
        state.out.extend(&out);
        self.answered(state);
        (self.stir)();
    }

    /// The response is complete, but for what lies in `out`.
    fn answered(self: &Arc<Self>, state: &mut State) {
        state.number += 1;
        // Whether a sender that waits sends its body after all cannot be known.
        let unclear = state.announced && !state.body.is_complete();
        state.announced = false;
        if !state.asked.keep_alive || unclear {
            return self.end(state);
        }
        state.progress = Progress::Skipping(HANDLER_SKIP);
        self.advance(state);
        // There is room again.
        (self.stir)();
    }

    /// For the loop: bytes of a body that lies in memory.
    fn read_source_bytes(
        self: &Arc<Self>,
        state: &mut State,
        space: &mut [u8],
    ) -> io::Result<usize> {
        match &mut state.progress {
            Progress::Answering(Source::Bytes(bytes, at)) => {
                let left = bytes.get(*at..).unwrap_or_default();
                let count = left.len().min(space.len());
                space[..count].copy_from_slice(&left[..count]);
                *at += count;
                if *at == bytes.len() {
                    self.answered(state);
                }
                Ok(count)
            }
            Progress::Over => Ok(0),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// For the loop: has a thread read on once little is left.
    fn read_ahead(self: &Arc<Self>, state: &mut State) {
        if state.out.len() > HANDLER_AHEAD / 2 {
            return;
        }
        match std::mem::replace(&mut state.progress, Progress::Over) {
            Progress::Answering(source @ Source::Reader(..)) => {
                state.progress = Progress::Reading(Some(source));
                self.crew.read(Arc::clone(self));
            }
            progress => state.progress = progress,
        }
    }
}

/// Gives the response's body to whoever sends it: the loop what lies in memory, this thread the
/// first piece of what is read.
fn drop_or_send(
    conversation: &Arc<Conversation>,
    mut state: MutexGuard<'_, State>,
    body: ResponseBody,
    bodiless: bool,
) {
    let reads = match body {
        _ if bodiless => {
            conversation.answered(&mut state);
            false
        }
        ResponseBody::Bytes(bytes) if bytes.is_empty() => {
            conversation.answered(&mut state);
            false
        }
        ResponseBody::Bytes(bytes) => {
            state.progress = Progress::Answering(Source::Bytes(bytes, 0));
            false
        }
        ResponseBody::Reader(reader, length) => {
            state.progress = Progress::Reading(Some(Source::Reader(reader, length)));
            true
        }
    };
    (conversation.stir)();
    drop(state);
    if reads {
        Arc::clone(conversation).read();
    }
}

impl State {
    /// Whether the handler can be asked: its body is there, or is too large to wait for, or comes
    /// only when it is read.
    fn body_is_here(&self) -> bool {
        let held = self.received.len();
        self.announced || self.body.certain_data() <= held as u64 || held >= HANDLER_AHEAD
    }
}

/// The body of the current request. A handler may keep it beyond its response; then it is empty.
struct Incoming(Arc<Conversation>, u64);

impl Read for Incoming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let conversation = &self.0;
        let mut guard = conversation.lock();
        loop {
            let state = &mut *guard;
            if state.number != self.1 || state.body.is_complete() || buf.is_empty() {
                return Ok(0);
            }
            if state.gone {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if state.received.is_empty() {
                if std::mem::take(&mut state.announced) {
                    state.out.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
                    (conversation.stir)();
                }
                if state.fin {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let woken = conversation.news.wait(guard);
                guard = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let was_full = state.received.len() >= HANDLER_AHEAD;
            let count = state.read_body(buf)?;
            if was_full && state.received.len() < HANDLER_AHEAD {
                (conversation.stir)();
            }
            if count > 0 {
                return Ok(count);
            }
        }
    }
}

impl State {
    /// Takes from what was received. Framing goes one octet at a time, so that no more data is
    /// taken than there is room for.
    fn read_body(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let certain = usize::try_from(self.body.certain_data()).unwrap_or(usize::MAX);
        let room = if certain > 0 {
            certain.min(buf.len())
        } else {
            1
        };
        let bytes = self.received.bytes();
        let step = self
            .body
            .decode(&bytes[..bytes.len().min(room)])
            .map_err(|_| {
                let why = "the request's body is malformed";
                io::Error::new(io::ErrorKind::InvalidData, why)
            })?;
        let count = step.data.len();
        buf[..count].copy_from_slice(&bytes[step.data]);
        self.received.consume(step.consumed);
        Ok(count)
    }
}

/// The head of a response; `None` when its status cannot be one.
fn head_of(response: &Response, asked: Asked) -> Option<Vec<u8>> {
    if !(200..=599).contains(&response.status) {
        return None;
    }
    let mut out = Vec::new();
    put_status_line(&mut out, response.status);
    for (name, value) in &response.headers {
        let ours = [
            "content-length",
            "transfer-encoding",
            "connection",
            "keep-alive",
            "upgrade",
        ];
        if ours.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            continue;
        }
        // A field that could end the head is left out; what else is in it has no such power.
        let octets: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(c).ok()).collect();
        let octets = octets.unwrap_or_else(|| value.as_bytes().to_vec());
        let _ = put_field(&mut out, name.as_bytes(), &octets);
    }
    let bodiless = matches!(response.status, 204 | 304);
    match &response.body {
        _ if response.status == 204 => {}
        ResponseBody::Bytes(bytes) => put_content_length(&mut out, bytes.len() as u64),
        ResponseBody::Reader(_, Some(length)) => put_content_length(&mut out, *length),
        ResponseBody::Reader(_, None) if bodiless => {}
        ResponseBody::Reader(_, None) => {
            put_field(&mut out, b"transfer-encoding", b"chunked").ok()?;
        }
    }
    if !asked.keep_alive {
        put_field(&mut out, b"connection", b"close").ok()?;
    }
    out.extend_from_slice(CRLF);
    Some(out)
}

/// Before there is a request.
const CLOSING: Asked = Asked {
    head: false,
    version: crate::http::Version::Http11,
    keep_alive: false,
    upgrade: false,
};
/// Room for one read of a response's body, in bytes.
const PIECE: usize = 32 * 1024;
