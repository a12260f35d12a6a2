//! What a visitor gets: the client's heads and bodies, framed for this visitor.

use std::ops::Range;

use log::debug;

use crate::clock::Instant;
use crate::http::Added;
use crate::kit::conns::LaneName;
use crate::kit::metrics::StreamOutcome;
use crate::kit::session::End;
use crate::kit::stream::Below;
use crate::machine::ConnKey;
use crate::wire::code::Code;

use super::exchange::{AtEof, Data, Headed, HttpExchange, Left, NoHead};
use super::{LIVED, Visitors};

/// What is known when something is written for a visitor.
struct About {
    /// Bytes that wait for it.
    waiting: usize,
    now: Instant,
    added: Added,
}

impl Visitors {
    /// STREAM_RESPONSE_HEAD.
    pub(in crate::kit) fn head(
        &mut self,
        conn: ConnKey,
        lane: LaneName,
        span: &Range<usize>,
        below: &mut Below<'_>,
    ) {
        let parts = below.sessions.mux_mut(lane.0).map(|mux| mux.take_parts());
        let parts = parts.unwrap_or_default();
        let headed = self.write_for(conn, (lane, span), below, |http, payload, text, about| {
            let head = (payload, &parts);
            http.stream_head(head, about.waiting, text, about.now, about.added)
        });
        let Some(headed) = headed else { return };
        match headed {
            Ok(Headed::Interim) => {}
            Ok(Headed::Switch) => {
                let fin_ahead = below.conns.get(conn).is_some_and(|entry| entry.fin_ahead);
                self.count_request(conn, 101, below);
                if fin_ahead {
                    self.ends_ahead(conn, below);
                }
                self.go_on(conn, below);
            }
            Ok(Headed::Final {
                after,
                upload,
                until_close,
            }) => {
                below.cx.metrics.response_head.observe(after);
                if until_close {
                    below.cx.effects.reset_if_killed(conn);
                }
                if upload {
                    self.upload(conn, below);
                }
            }
            Err(NoHead::Fault(why)) => self.peer_fault(conn, why, below),
            Err(NoHead::Waits) => {
                let end = End {
                    outcome: StreamOutcome::Stalled,
                    code: Code::EnhanceYourCalm,
                    why: "the visitor takes no interim heads",
                };
                self.break_stream(conn, end, below);
            }
        }
    }

    /// The client broke the exchange: its stream is reset, and the visitor gets a `502` or, after
    /// the head, a broken connection.
    fn peer_fault(&mut self, conn: ConnKey, why: &'static str, below: &mut Below<'_>) {
        let code = Code::ProtocolError;
        below.cx.metrics.violation(code);
        let end = End {
            outcome: StreamOutcome::Violated,
            code,
            why,
        };
        self.break_stream(conn, end, below);
    }

    /// DATA of the response, or of an upgraded connection.
    pub(in crate::kit) fn data(
        &mut self,
        conn: ConnKey,
        lane: LaneName,
        span: Range<usize>,
        below: &mut Below<'_>,
    ) {
        let Below {
            cx,
            conns,
            sessions,
            ..
        } = below;
        let (Some(entry), Some(visitor)) = (conns.get_mut(conn), self.all.get_mut(conn)) else {
            return;
        };
        let (flushed, now) = (entry.out.is_empty(), cx.now);
        match visitor.http.stream_data(span.len(), flushed, now) {
            Ok(Data::Ignored) => {}
            Ok(Data::Dropped) => {
                // Its credit goes back.
                if let Some(name) = visitor.stream() {
                    name.passed_on(span.len(), sessions, now);
                }
            }
            Ok(Data::Whole) => conns.pass_payload(conn, lane, span, &**sessions, cx),
            Ok(Data::Chunk) => {
                // Copied: three small writes would cost more than the copy.
                if let Some(mux) = sessions.mux(lane.0) {
                    entry.starts_waiting(now);
                    entry.out.push_chunk(mux.payload(lane.1, &span));
                }
                cx.effects.wake(conn);
            }
            Err(why) => self.peer_fault(conn, why, below),
        }
    }

    /// STREAM_TRAILERS.
    pub(in crate::kit) fn trailers(
        &mut self,
        conn: ConnKey,
        lane: LaneName,
        span: &Range<usize>,
        below: &mut Below<'_>,
    ) {
        let written = self.write_for(conn, (lane, span), below, |http, payload, text, _| {
            http.stream_trailers(payload, text)
        });
        if let Some(Err(why)) = written {
            self.peer_fault(conn, why, below);
        }
    }

    /// Has an exchange read the payload of a frame, and its visitor sent what it writes of that.
    fn write_for<R, E>(
        &mut self,
        conn: ConnKey,
        (lane, span): (LaneName, &Range<usize>),
        below: &mut Below<'_>,
        read: impl FnOnce(&mut HttpExchange, &[u8], &mut Vec<u8>, &About) -> Result<R, E>,
    ) -> Option<Result<R, E>> {
        let Below {
            cx,
            conns,
            sessions,
            ..
        } = below;
        let (entry, visitor) = (conns.get_mut(conn)?, self.all.get_mut(conn)?);
        let mux = sessions.mux(lane.0);
        let payload = mux.map_or(&[][..], |mux| mux.payload(lane.1, span));
        let about = About {
            waiting: entry.out.len(),
            now: cx.now,
            added: Added {
                date: cx.date,
                via: cx.config.via,
            },
        };
        cx.text.clear();
        let read = read(&mut visitor.http, payload, &mut cx.text, &about);
        if read.is_ok() && !cx.text.is_empty() {
            entry.starts_waiting(cx.now);
            entry.out.push(&cx.text);
            cx.effects.wake(conn);
        }
        Some(read)
    }

    /// EOF: the response is whole, or should be.
    pub(in crate::kit) fn stream_ended(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let Below { cx, conns, .. } = below;
        let (Some(entry), Some(visitor)) = (conns.get_mut(conn), self.all.get_mut(conn)) else {
            return;
        };
        match visitor.http.stream_ended(entry.out.is_empty(), cx.now) {
            Ok(AtEof::Ignored) => {}
            Ok(AtEof::Raw(flow)) => conns.flows(conn, flow, LIVED, cx),
            Ok(AtEof::Whole {
                status,
                after,
                last,
            }) => {
                entry.out.push(last);
                debug!("request answered with {status} after {after:?}");
                let flushed = entry.out.is_empty();
                cx.effects.wake(conn);
                self.count_request(conn, status, below);
                if flushed {
                    self.flushed(conn, below);
                }
            }
            Err(why) => self.peer_fault(conn, why, below),
        }
    }

    /// A visitor's system took bytes that ours held.
    pub(in crate::kit) fn moved(&mut self, conn: ConnKey, now: Instant) {
        if let Some(visitor) = self.all.get_mut(conn) {
            visitor.http.visitor_moved(now);
        }
    }

    /// Of what was sent, `passed` bytes were payload; `drained`: nothing is left.
    pub(in crate::kit) fn transmitted(
        &mut self,
        conn: ConnKey,
        passed: usize,
        drained: bool,
        below: &mut Below<'_>,
    ) {
        let now = below.cx.now;
        let Some(visitor) = self.all.get_mut(conn) else {
            return;
        };
        visitor.http.visitor_moved(now);
        if let Some(name) = visitor.stream() {
            name.passed_on(passed, below.sessions, now);
        }
        if drained {
            self.flushed(conn, below);
        }
    }

    /// Everything that was queued has left: the next request, the end, or more to come.
    fn flushed(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let Below {
            cx,
            conns,
            sessions,
            ..
        } = below;
        let Some(visitor) = self.all.get_mut(conn) else {
            return;
        };
        let stream = visitor.stream();
        match visitor.http.flushed(cx.now) {
            Left::More => {}
            Left::GoOn => self.go_on(conn, below),
            Left::Raw(flow) => conns.flows(conn, flow, LIVED, cx),
            Left::Over { uploaded, stays } => {
                if let Some(name) = stream {
                    cx.metrics.stream_ended(StreamOutcome::Finished);
                    // The upstream did not want the rest of the body. It is never parsed as a
                    // request: leaving reads it away up to a bound.
                    if !uploaded && let Some(mux) = name.mux(sessions) {
                        mux.reset(name.stream, Code::Cancel, "the response is complete");
                    }
                }
                if !stays {
                    return conns.say_and_leave(conn, &[], cx);
                }
                self.go_on(conn, below);
                below.cx.effects.wake(conn);
            }
        }
    }
}
