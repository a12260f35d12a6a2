//! What a visitor gets: the client's heads and bodies, framed for this visitor.

use crate::clock::Instant;
use crate::http::write::LAST_CHUNK;
use crate::http::{ResponseBody, ResponsePlan};
use crate::kit::Kit;
use crate::kit::conns::{After, LaneName};
use crate::kit::metrics::StreamOutcome;
use crate::limits::INTERIM_WAITING;
use crate::machine::ConnKey;
use crate::mux::Span;
use crate::wire::code::Code;
use crate::wire::open::ResponseHead;

use super::{Response, State};

/// What a head from the client made of the exchange.
enum Planned {
    Interim,
    Switch,
    Final {
        status: u16,
        body: ResponseBody,
        keep_alive: bool,
    },
}

impl Kit {
    /// STREAM_RESPONSE_HEAD.
    pub(in crate::kit) fn visitor_head(&mut self, conn: ConnKey, lane: LaneName, span: &Span) {
        let now = self.cx.now;
        let Some(visitor) = self.visitor(conn) else {
            return;
        };
        let State::Exchange(exchange) = &visitor.state else {
            return self.peer_fault(conn, "a response head where none is due");
        };
        if exchange.response != Response::Awaited {
            return self.peer_fault(conn, "a second final response head");
        }
        let asked = exchange.asked;
        let held_back = asked.upgrade && exchange.upload.is_complete();
        let upload_done = exchange.upload_done || held_back;
        let mut text = std::mem::take(&mut self.cx.text);
        text.clear();
        let mux = self.sessions.mux(lane.0);
        let payload = mux.map_or(&[][..], |mux| mux.payload(lane.1, span));
        let planned = plan_head(payload, asked, upload_done, &mut text);
        let interim = matches!(planned, Ok(Planned::Interim));
        let mut too_many = false;
        if planned.is_ok()
            && let Some(entry) = self.conns.get_mut(conn)
        {
            too_many = interim && entry.out.len() > INTERIM_WAITING;
            if !too_many {
                entry.starts_waiting(now);
                entry.out.push(&text);
            }
        }
        self.cx.text = text;
        if too_many {
            return self.takes_no_heads(conn);
        }
        self.cx.effects.wake(conn);
        let Some(visitor) = self.visitor(conn) else {
            return;
        };
        let State::Exchange(exchange) = &mut visitor.state else {
            return;
        };
        match planned {
            Ok(Planned::Interim) => {
                exchange.waiting_since = now;
                if exchange.holds_back {
                    exchange.holds_back = false;
                    exchange.body_at = now;
                }
            }
            Ok(Planned::Switch) => {
                if let Some(name) = exchange.stream {
                    visitor.state = State::Raw(name);
                }
                self.count_request(conn, 101);
                if self.conns.get(conn).is_some_and(|it| it.fin_ahead) {
                    self.visitor_finishes(conn, now);
                }
                self.visitor_goes_on(conn, now);
            }
            Ok(Planned::Final {
                status,
                body,
                keep_alive,
            }) => {
                exchange.status = status;
                exchange.waiting_since = now;
                let begun = exchange.begun;
                exchange.keep_alive = keep_alive;
                exchange.response = Response::Body(body);
                self.cx.metrics.response_head.observe(now.since(begun));
                if held_back {
                    self.upload(conn, now);
                }
            }
            Err(why) => self.peer_fault(conn, why),
        }
    }

    /// The client broke the exchange: its stream is reset, and the visitor gets a `502` or, after
    /// the head, a broken connection.
    fn peer_fault(&mut self, conn: ConnKey, why: &'static str) {
        let code = Code::ProtocolError;
        self.cx.metrics.violation(code);
        self.break_stream(conn, StreamOutcome::Violated, code, why);
    }

    /// Interim heads keep coming for a visitor who does not read them.
    fn takes_no_heads(&mut self, conn: ConnKey) {
        let (code, why) = (Code::EnhanceYourCalm, "the visitor takes no interim heads");
        self.break_stream(conn, StreamOutcome::Stalled, code, why);
    }

    /// DATA of the response, or of an upgraded connection.
    pub(in crate::kit) fn visitor_data(&mut self, conn: ConnKey, lane: LaneName, span: Span) {
        let now = self.cx.now;
        let (Some(entry), Some(visitor)) = (self.conns.get_mut(conn), self.visitors.get_mut(conn))
        else {
            return;
        };
        let flushed = entry.out.is_empty();
        let exchange = match &mut visitor.state {
            State::Raw(_) => {
                return self
                    .conns
                    .pass_payload(conn, lane, span, &self.sessions, &mut self.cx);
            }
            State::Waiting => return,
            State::Exchange(exchange) => exchange,
        };
        let count = span.len();
        if flushed {
            exchange.waiting_since = now;
        }
        match &mut exchange.response {
            Response::Awaited => self.peer_fault(conn, "DATA before the response head"),
            Response::Done => self.peer_fault(conn, "DATA behind the response's end"),
            Response::Body(ResponseBody::None) => {
                // A body where there is none (HEAD): dropped, with its credit.
                if let Some(name) = exchange.stream
                    && let Some(mux) = self.sessions.mux_mut(name.session)
                {
                    mux.passed_on(name.stream, count, now);
                }
            }
            Response::Body(ResponseBody::Length(left)) => match left.checked_sub(count as u64) {
                Some(rest) => {
                    *left = rest;
                    self.conns
                        .pass_payload(conn, lane, span, &self.sessions, &mut self.cx);
                }
                None => self.peer_fault(conn, "more DATA than Content-Length says"),
            },
            Response::Body(ResponseBody::UntilClose) => {
                self.conns
                    .pass_payload(conn, lane, span, &self.sessions, &mut self.cx)
            }
            Response::Body(ResponseBody::Chunked) => self.pass_chunk(conn, lane, &span),
        }
    }

    /// A chunk is copied: three small writes would cost more than the copy.
    fn pass_chunk(&mut self, conn: ConnKey, lane: LaneName, span: &Span) {
        let now = self.cx.now;
        let Some(entry) = self.conns.get_mut(conn) else {
            return;
        };
        if let Some(mux) = self.sessions.mux(lane.0) {
            entry.starts_waiting(now);
            entry.out.push_chunk(mux.payload(lane.1, span));
        }
        self.cx.effects.wake(conn);
    }

    /// EOF: the response is whole, or should be.
    pub(in crate::kit) fn visitor_eof(&mut self, conn: ConnKey, now: Instant) {
        let (Some(entry), Some(visitor)) = (self.conns.get_mut(conn), self.visitors.get_mut(conn))
        else {
            return;
        };
        let exchange = match &mut visitor.state {
            State::Raw(_) => {
                entry.after = After::Finish;
                self.conns.after_sending(conn, &mut self.cx);
                return self.close_raw_if_over(conn);
            }
            State::Waiting => return,
            State::Exchange(exchange) => exchange,
        };
        if entry.out.is_empty() {
            exchange.waiting_since = now;
        }
        match exchange.response {
            Response::Awaited => return self.peer_fault(conn, "EOF before the response head"),
            Response::Body(ResponseBody::Length(1..)) => {
                return self.peer_fault(conn, "EOF before Content-Length bytes");
            }
            Response::Body(ResponseBody::Chunked) => entry.out.push(LAST_CHUNK),
            Response::Body(_) | Response::Done => {}
        }
        exchange.response = Response::Done;
        let (status, begun) = (exchange.status, exchange.begun);
        log::debug!(
            "request answered with {status} after {:?}",
            now.since(begun)
        );
        let flushed = entry.out.is_empty();
        self.count_request(conn, status);
        self.cx.effects.wake(conn);
        if flushed {
            self.response_sent(conn, now);
        }
    }

    /// A visitor's system took bytes that ours held.
    pub(in crate::kit) fn visitor_moved(&mut self, conn: ConnKey, now: Instant) {
        if let Some(visitor) = self.visitor(conn)
            && let State::Exchange(exchange) = &mut visitor.state
        {
            exchange.waiting_since = now;
        }
    }

    pub(in crate::kit) fn visitor_transmitted(
        &mut self,
        conn: ConnKey,
        passed: usize,
        drained: bool,
        now: Instant,
    ) {
        let Some(visitor) = self.visitor(conn) else {
            return;
        };
        if let State::Exchange(exchange) = &mut visitor.state {
            exchange.waiting_since = now;
        }
        if passed > 0
            && let Some(name) = visitor.stream()
            && let Some(mux) = self.sessions.mux_mut(name.session)
        {
            mux.passed_on(name.stream, passed, now);
        }
        if drained {
            self.response_sent(conn, now);
        }
    }

    /// Everything that was queued has left: the next request, the end, or more to come.
    fn response_sent(&mut self, conn: ConnKey, now: Instant) {
        let Some(visitor) = self.visitors.get_mut(conn) else {
            return;
        };
        let exchange = match &visitor.state {
            State::Raw(_) => {
                self.conns.after_sending(conn, &mut self.cx);
                return self.close_raw_if_over(conn);
            }
            State::Waiting => return self.visitor_goes_on(conn, now),
            State::Exchange(exchange) => exchange,
        };
        if exchange.response != Response::Done {
            return;
        }
        let stays = exchange.keep_alive && exchange.upload_done;
        if !exchange.upload_done {
            // The upstream did not want the rest of the body. It is never parsed as a request:
            // leaving reads it away up to a bound.
            self.abandon_stream(conn, StreamOutcome::Finished, "the response is complete");
        } else if exchange.stream.is_some() {
            self.cx.metrics.stream_ended(StreamOutcome::Finished);
        }
        if !stays {
            return self.conns.say_and_leave(conn, &[], &mut self.cx);
        }
        let Some(visitor) = self.visitor(conn) else {
            return;
        };
        visitor.state = State::Waiting;
        visitor.since = now;
        visitor.answered += 1;
        visitor.inbound.release_if_idle(KEEP_IDLE);
        self.visitor_goes_on(conn, now);
        self.cx.effects.wake(conn);
    }
}

/// Reads the client's JSON and writes the head for the visitor.
fn plan_head(
    payload: &[u8],
    asked: crate::http::Asked,
    upload_done: bool,
    text: &mut Vec<u8>,
) -> Result<Planned, &'static str> {
    let head = ResponseHead::parse(payload).map_err(|_| "a malformed response head")?;
    let fields = head
        .headers
        .iter()
        .map(|field| (&*field.name, &*field.value));
    let mut plan = ResponsePlan::new(head.status, fields, asked).map_err(|refused| refused.0)?;
    // A response before the end of the request's body: the rest of it may never come.
    plan.keep_alive &= upload_done;
    if plan.is_interim() == head.is_final {
        return Err("1xx heads are not final, and all others are");
    }
    plan.write(text);
    Ok(if plan.is_interim() {
        Planned::Interim
    } else if plan.switches() {
        Planned::Switch
    } else {
        Planned::Final {
            status: head.status,
            body: plan.body,
            keep_alive: plan.keep_alive,
        }
    })
}

/// Memory that a waiting visitor keeps for its next head, in bytes.
const KEEP_IDLE: usize = 1024;

const _: () = assert!(KEEP_IDLE < crate::limits::MAX_HTTP_HEAD);
