//! A visitor's HTTP, one exchange after the other, without tables and sockets.
//!
//! ```text
//!             head                    101
//!   Waiting ---------> Serving ------------------> Raw
//!      ^                  |
//!      +------------------+
//!        answered, or the response has left whole
//! ```
//!
//! Told: bytes of the visitor ([`HttpExchange::feed`], [`HttpExchange::read_straight`]), its FIN,
//! and of its stream head, DATA, EOF and the end. Asked: where the visitor's next bytes go
//! ([`HttpExchange::room`]), and what is to be sent on the stream ([`HttpExchange::outgoing`]). It
//! says how many bytes go where and carries none that it does not have to read.
//!
//! Invariants: the next head is read only when the response before it has left whole; bytes of a
//! body are never read as a head; until the client's 101 nothing is raw.

mod acts;
mod patience;
mod plan;

pub use acts::{
    AtEof, AtFin, Broken, Data, Headed, Left, NoHead, Outgoing, Owed, Room, Turn, Upload,
};
pub use patience::{Look, Movement, Seen};

use crate::buffer::Buffer;
use crate::clock::Instant;
use crate::http::write::{CRLF, LAST_CHUNK};
use crate::http::{
    Added, Asked, BodyDecoder, BodyError, HeadLimits, HeadScanner, Reject, RequestBody,
    ResponseBody, begins_head,
};
pub use crate::kit::conns::Fin;
use crate::limits::{BULK_PAYLOAD, INTERIM_WAITING, MAX_HTTP_HEAD};
use crate::pipe::{Flow, RawPipe};
use crate::wire::parts::HeadParts;

use plan::{Planned, plan_head, write_trailers};

/// See the module.
#[derive(Debug)]
pub struct HttpExchange {
    /// What came and was not used yet: part of a head, or what was sent ahead.
    inbound: Buffer,
    scanner: HeadScanner,
    state: State,
    /// When its current head, or the wait for one, began.
    since: Instant,
    /// Requests that were answered.
    answered: u32,
}

#[derive(Debug)]
enum State {
    /// Between requests.
    Waiting,
    /// A request is being served.
    Serving(Serving),
    /// After a 101: bytes both ways.
    Raw(RawPipe),
}

#[derive(Debug)]
struct Serving {
    /// Its stream is not over.
    open: bool,
    asked: Asked,
    upload: BodyDecoder,
    /// EOF was sent after the request's body.
    upload_done: bool,
    /// Decoded data at the head of `inbound` that found no credit, and framing behind it.
    owed: usize,
    owed_framing: usize,
    response: Response,
    /// When the request was complete enough to be passed on.
    begun: Instant,
    /// Since when only the upstream is waited for, as far as can be seen here; while a response
    /// waits to leave, since when the visitor has taken nothing of it.
    waiting_since: Instant,
    /// When more of the request's body came last, or could be read again after a want of credit.
    body_at: Instant,
    /// The visitor holds its body back until the upstream says `100`.
    holds_back: bool,
    keep_alive: bool,
    /// The visitor takes trailers, and they travel.
    trailers: bool,
    status: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Response {
    /// The final head has not come.
    Awaited,
    /// The head was sent; for a body of known length this is what is left of it.
    Body(ResponseBody),
    /// All of it was queued, and trailers but for their end.
    Trailers,
    /// Everything was queued.
    Done,
}

impl HttpExchange {
    /// A visitor that has not said anything, and whose heads may be so large.
    pub fn new(limits: HeadLimits, now: Instant) -> HttpExchange {
        HttpExchange {
            inbound: Buffer::new(),
            scanner: HeadScanner::within(limits),
            state: State::Waiting,
            since: now,
            answered: 0,
        }
    }

    /// What came and was not used yet, the next head first.
    pub fn ahead(&self) -> &[u8] {
        self.inbound.bytes()
    }

    /// Whether its request, or what can be seen of it, is a HEAD.
    pub fn asks_head(&self) -> bool {
        match &self.state {
            State::Waiting => begins_head(self.inbound.bytes()),
            State::Serving(it) => it.asked.head,
            State::Raw(_) => false,
        }
    }

    /// Whether a stream serves it.
    pub fn is_open(&self) -> bool {
        match &self.state {
            State::Waiting => false,
            State::Serving(it) => it.open,
            State::Raw(_) => true,
        }
    }

    /// Whether both raw directions have ended, and nothing waits.
    pub fn is_over(&self) -> bool {
        matches!(&self.state, State::Raw(pipe) if pipe.is_over())
    }

    /// The answer that is awaited is to be the last on its connection, and says so.
    pub fn answer_is_last(&mut self) {
        if let State::Serving(it) = &mut self.state
            && it.response == Response::Awaited
        {
            it.asked.keep_alive = false;
        }
    }

    /// Whether a head is waited for.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// Memory of what came and waits.
    pub fn capacity(&self) -> usize {
        let kept = match &self.state {
            State::Serving(it) => it.upload.kept(),
            State::Waiting | State::Raw(_) => 0,
        };
        self.inbound.capacity() + kept
    }

    /// When its wait for a head, or the head, began; whether it was served and says nothing; and
    /// whether it has said anything. None where it is being served.
    pub fn waits_since(&self) -> Option<(Instant, bool, bool)> {
        let says = !self.inbound.is_empty();
        let served = self.answered > 0 && !says;
        self.is_waiting().then_some((self.since, served, says))
    }

    /// Since when the visitor has taken nothing of a response whose stream is over.
    pub fn leaves_since(&self) -> Option<Instant> {
        match &self.state {
            State::Serving(it) if !it.open => Some(it.waiting_since),
            _ => None,
        }
    }

    /// Whether some of a response has gone to the visitor.
    pub fn has_answer(&self) -> bool {
        matches!(&self.state, State::Serving(it) if it.response != Response::Awaited)
    }

    /// Where the visitor's next bytes go.
    pub fn room(&self) -> Room {
        let ahead = self.inbound.len();
        match &self.state {
            State::Raw(_) if ahead > 0 => Room::Nowhere,
            State::Raw(_) => Room::Stream(BULK_PAYLOAD),
            // A whole head must fit, or one that is too large could never be told so.
            State::Waiting if ahead < self.scanner.limits().octets => Room::Here { ahead: 0 },
            State::Waiting => Room::Nowhere,
            State::Serving(it) if it.upload_done => Room::Here { ahead },
            // What came already has not found credit: nothing more is read until it has.
            State::Serving(_) if ahead > 0 => Room::Nowhere,
            State::Serving(it) => match it.upload.certain_data() {
                certain @ 1.. if it.open => Room::Stream(certain.min(BULK_PAYLOAD as u64) as usize),
                _ => Room::Here { ahead: 0 },
            },
        }
    }

    /// So many bytes were read straight into the stream.
    pub fn read_straight(&mut self, count: usize, now: Instant) {
        if let State::Serving(it) = &mut self.state {
            it.upload.skip_data(count as u64);
            it.waiting_since = now;
            it.holds_back = false;
        }
    }

    /// Takes bytes as they come.
    pub fn feed(&mut self, bytes: &[u8], now: Instant) {
        match &mut self.state {
            State::Waiting if self.inbound.is_empty() => self.since = now,
            State::Serving(it) => it.holds_back = false,
            State::Waiting | State::Raw(_) => {}
        }
        self.inbound.extend(bytes);
    }

    /// What the bytes at hand allow, or credit after a want of it. `flushed`: nothing waits for the
    /// visitor.
    pub fn turn(&mut self, flushed: bool, now: Instant) -> Turn {
        match &mut self.state {
            State::Waiting if flushed => Turn::Head,
            State::Waiting => Turn::Rest,
            State::Serving(it) if it.upload_done => Turn::Rest,
            State::Serving(it) => {
                // The visitor's silence begins anew.
                it.body_at = now;
                Turn::Body
            }
            State::Raw(_) => Turn::Body,
        }
    }

    /// The next head, if it is whole. It goes with [`HttpExchange::head_read`].
    pub fn next_head(&mut self) -> Result<Option<&[u8]>, Reject> {
        if self.inbound.is_empty() {
            return Ok(None);
        }
        let length = self.scanner.scan(self.inbound.bytes())?;
        Ok(length.and_then(|length| self.inbound.bytes().get(..length)))
    }

    /// The head that was asked for stays where it is, to be asked for again.
    pub fn head_stays(&mut self) {
        self.scanner = HeadScanner::within(self.scanner.limits());
    }

    /// A head of so many bytes was read.
    pub fn head_read(&mut self, length: usize) {
        self.scanner = HeadScanner::within(self.scanner.limits());
        self.inbound.consume(length);
    }

    /// A stream serves the request that was read. `expects`: the visitor may wait for a `100`.
    pub fn begin(&mut self, asked: Asked, body: RequestBody, expects: bool, now: Instant) {
        self.state = State::Serving(Serving {
            open: true,
            asked,
            upload: BodyDecoder::for_request(body),
            upload_done: false,
            owed: 0,
            owed_framing: 0,
            response: Response::Awaited,
            begun: now,
            waiting_since: now,
            body_at: now,
            holds_back: expects,
            keep_alive: asked.keep_alive,
            trailers: false,
            status: 0,
        });
    }

    /// Trailers travel; `taken`: the visitor takes them, too.
    pub fn trailers_travel(&mut self, taken: bool) {
        if let State::Serving(it) = &mut self.state {
            it.upload.keep_trailers();
            it.trailers = taken;
        }
    }

    /// The trailers behind the body of the request, which is whole: lines for
    /// [`trailers::fields`](crate::http::trailers::fields).
    pub fn take_trailers(&mut self) -> Vec<u8> {
        match &mut self.state {
            State::Serving(it) => it.upload.take_trailers(),
            State::Waiting | State::Raw(_) => Vec::new(),
        }
    }

    /// What is at hand for the stream: asked again after [`HttpExchange::sent`] said so.
    pub fn outgoing(&mut self, now: Instant) -> Result<Outgoing<'_>, BodyError> {
        let inbound = &mut self.inbound;
        let it = match &mut self.state {
            State::Raw(_) if !inbound.is_empty() => return Ok(Outgoing::Data(inbound.bytes())),
            State::Waiting | State::Raw(_) => return Ok(Outgoing::Nothing),
            State::Serving(it) => it,
        };
        if !it.open || it.upload_done {
            return Ok(Outgoing::Nothing);
        }
        while it.owed == 0 {
            if it.upload.is_complete() {
                if it.asked.upgrade && it.response == Response::Awaited {
                    // After a 101 this direction goes on raw, so it must not end before.
                    return Ok(Outgoing::Nothing);
                }
                it.upload_done = true;
                it.waiting_since = now;
                return Ok(Outgoing::Eof);
            }
            if inbound.is_empty() {
                return Ok(Outgoing::Nothing);
            }
            let step = it.upload.decode(inbound.bytes())?;
            it.owed = step.data.len();
            it.owed_framing = step.consumed - step.data.end;
            inbound.consume(step.data.start);
            if it.owed == 0 {
                inbound.consume(std::mem::take(&mut it.owed_framing));
            }
        }
        Ok(Outgoing::Data(&inbound.bytes()[..it.owed]))
    }

    /// The stream took the first `count` of the bytes; whether there may be more for it.
    pub fn sent(&mut self, count: usize, now: Instant) -> bool {
        self.inbound.consume(count);
        let State::Serving(it) = &mut self.state else {
            return false;
        };
        it.owed -= count;
        it.waiting_since = now;
        if it.owed == 0 {
            self.inbound.consume(std::mem::take(&mut it.owed_framing));
        }
        it.owed == 0
    }

    /// How the body stands after what was at hand of it was sent. Where FIN came before its end (or
    /// before the 101 that was waited for), the request is given up, unless its whole response is
    /// on its way already.
    pub fn upload(&self, fin: Fin) -> Upload {
        match &self.state {
            State::Serving(it) if it.may_be_gone(fin) => Upload::MayBeGone,
            State::Serving(it)
                if fin == Fin::Read
                    && !it.upload_done
                    && it.response != Response::Done
                    && self.inbound.is_empty() =>
            {
                Upload::CutOff
            }
            _ => Upload::Goes,
        }
    }

    /// The visitor sends nothing more; it may still read (RFC 9112 §9.6 leaves that open, and a
    /// half-closing client deserves its answers, to all that it asked before).
    pub fn visitor_ended(&mut self, now: Instant) -> AtFin {
        match &mut self.state {
            State::Waiting => AtFin::GoOn,
            State::Serving(it) if it.upload_done => {
                if it.response == Response::Awaited {
                    it.waiting_since = now;
                }
                AtFin::Watch
            }
            State::Serving(_) => AtFin::Upload,
            State::Raw(pipe) => {
                let first = pipe.conn_ended() == Flow::Eof;
                AtFin::Raw { first }
            }
        }
    }

    /// The same where the FIN lies behind bytes that are not read: more requests, or a body without
    /// credit. Now time runs as it does behind one that was read.
    pub fn visitor_ends_ahead(&mut self, now: Instant) -> AtFin {
        match &mut self.state {
            State::Waiting => AtFin::GoOn,
            State::Serving(it) => {
                if it.response == Response::Awaited {
                    it.waiting_since = now;
                }
                AtFin::Watch
            }
            State::Raw(_) => AtFin::Raw { first: true },
        }
    }

    /// A head from the client, and its parts before it: what they make of the exchange, and what is
    /// for the visitor in `text`. `waiting` bytes wait for the visitor.
    pub fn stream_head(
        &mut self,
        head: (&[u8], &HeadParts),
        waiting: usize,
        text: &mut Vec<u8>,
        now: Instant,
        added: Added,
    ) -> Result<Headed, NoHead> {
        let State::Serving(it) = &mut self.state else {
            return Err(NoHead::Fault("a response head where none is due"));
        };
        if it.response != Response::Awaited {
            return Err(NoHead::Fault("a second final response head"));
        }
        let held_back = it.asked.upgrade && it.upload.is_complete();
        let upload_done = it.upload_done || held_back;
        let about = (upload_done, it.trailers);
        match plan_head(head, it.asked, about, added, text).map_err(NoHead::Fault)? {
            Planned::Interim if waiting > INTERIM_WAITING => Err(NoHead::Waits),
            Planned::Interim => {
                it.waiting_since = now;
                if std::mem::take(&mut it.holds_back) {
                    it.body_at = now;
                }
                Ok(Headed::Interim)
            }
            Planned::Switch => {
                self.state = State::Raw(RawPipe::new());
                Ok(Headed::Switch)
            }
            Planned::Final {
                status,
                body,
                keep_alive,
            } => {
                it.status = status;
                it.waiting_since = now;
                it.keep_alive = keep_alive;
                it.response = Response::Body(body);
                Ok(Headed::Final {
                    after: now.since(it.begun),
                    upload: held_back,
                    until_close: body == ResponseBody::UntilClose,
                })
            }
        }
    }

    /// So many bytes of DATA came on the stream.
    pub fn stream_data(
        &mut self,
        count: usize,
        flushed: bool,
        now: Instant,
    ) -> Result<Data, &'static str> {
        let it = match &mut self.state {
            State::Raw(_) => return Ok(Data::Whole),
            State::Waiting => return Ok(Data::Ignored),
            State::Serving(it) => it,
        };
        if flushed {
            it.waiting_since = now;
        }
        match &mut it.response {
            Response::Awaited => Err("DATA before the response head"),
            Response::Trailers | Response::Done => Err("DATA behind the response's end"),
            // A body where there is none (HEAD).
            Response::Body(ResponseBody::None) => Ok(Data::Dropped),
            Response::Body(ResponseBody::Length(left)) => {
                let rest = left.checked_sub(count as u64);
                *left = rest.ok_or("more DATA than Content-Length says")?;
                Ok(Data::Whole)
            }
            Response::Body(ResponseBody::UntilClose) => Ok(Data::Whole),
            Response::Body(ResponseBody::Chunked) => Ok(Data::Chunk),
        }
    }

    /// Trailers came on the stream; the first ones behind a chunked body are for the visitor if it
    /// takes any, and nobody's else. Whether there is something to be sent, in `text`.
    pub fn stream_trailers(
        &mut self,
        payload: &[u8],
        text: &mut Vec<u8>,
    ) -> Result<bool, &'static str> {
        let State::Serving(it) = &mut self.state else {
            return Ok(false);
        };
        if !it.trailers || it.response != Response::Body(ResponseBody::Chunked) {
            return Ok(false);
        }
        let written = write_trailers(payload, text)?;
        if written {
            it.response = Response::Trailers;
        }
        Ok(written)
    }

    /// EOF came on the stream: the response is whole, or should be.
    pub fn stream_ended(&mut self, flushed: bool, now: Instant) -> Result<AtEof, &'static str> {
        let it = match &mut self.state {
            State::Raw(pipe) => return Ok(AtEof::Raw(pipe.stream_ended(flushed))),
            State::Waiting => return Ok(AtEof::Ignored),
            State::Serving(it) => it,
        };
        if flushed {
            it.waiting_since = now;
        }
        let before = it.response;
        match before {
            Response::Awaited => return Err("EOF before the response head"),
            Response::Body(ResponseBody::Length(1..)) => {
                return Err("EOF before Content-Length bytes");
            }
            Response::Body(_) | Response::Trailers | Response::Done => {}
        }
        it.response = Response::Done;
        Ok(AtEof::Whole {
            status: it.status,
            after: now.since(it.begun),
            last: match before {
                Response::Body(ResponseBody::Chunked) => LAST_CHUNK,
                Response::Trailers => CRLF,
                Response::Awaited | Response::Body(_) | Response::Done => &[],
            },
        })
    }

    /// The stream is over before the exchange was; `cut`: so that memory is saved, which what came
    /// of a response takes too.
    pub fn stream_broken(&mut self, cut: bool) -> Broken {
        match &mut self.state {
            State::Waiting => Broken::Fine,
            State::Serving(it) if it.response == Response::Awaited => {
                it.open = false;
                let (asked, whole) = (it.asked, it.upload_done);
                Broken::Unanswered(Owed { asked, whole })
            }
            // All of it came, and the visitor may have it.
            State::Serving(it) if it.response == Response::Done && !cut => {
                it.open = false;
                Broken::Fine
            }
            State::Raw(pipe) if pipe.stream_has_ended() && !cut => Broken::Drains,
            State::Serving(it) => Broken::Cut {
                shown: it.response != Response::Body(ResponseBody::UntilClose),
            },
            State::Raw(_) => Broken::Cut { shown: false },
        }
    }

    /// The visitor took some of what waited.
    pub fn visitor_moved(&mut self, now: Instant) {
        if let State::Serving(it) = &mut self.state {
            it.waiting_since = now;
        }
    }

    /// Everything that was queued has left.
    pub fn flushed(&mut self, now: Instant) -> Left {
        let it = match &mut self.state {
            State::Raw(pipe) => return Left::Raw(pipe.drained()),
            State::Waiting => return Left::GoOn,
            State::Serving(it) => it,
        };
        if it.response != Response::Done {
            return Left::More;
        }
        let uploaded = it.upload_done;
        let stays = it.keep_alive && uploaded;
        if stays {
            self.answered(now);
            self.inbound.release_if_idle(KEEP_IDLE);
        }
        Left::Over { uploaded, stays }
    }

    /// It was answered in another way, and waits for the next request.
    pub fn answered(&mut self, now: Instant) {
        self.state = State::Waiting;
        self.since = now;
        self.answered += 1;
    }
}

/// Memory that a waiting visitor keeps for its next head, in bytes.
const KEEP_IDLE: usize = 1024;

const _: () = assert!(KEEP_IDLE < MAX_HTTP_HEAD);

#[cfg(test)]
mod tests;
