//! A raw stream that stands: bytes between a connection and a lane, and the ends of both.
//!
//! What a connection is for, and what comes before it stands, is for those who have one: callers
//! and forwarded streams.

use log::debug;

use crate::kit::metrics::StreamOutcome;
use crate::kit::session::{End, Sessions};
use crate::limits::BULK_PAYLOAD;
use crate::machine::{CloseHow, ConnKey, Ended};
use crate::pipe::{Flow, RawPipe};
use crate::text::said;
use crate::wire::code::Code;

use super::{Below, StreamName};

/// See the module.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) name: StreamName,
    pipe: RawPipe,
    /// What the log calls it.
    what: &'static str,
}

impl Raw {
    pub(super) fn new(name: StreamName, what: &'static str) -> Raw {
        let pipe = RawPipe::new();
        Raw { name, pipe, what }
    }

    /// Where the next bytes of its connection go: straight into the lane.
    pub(super) fn space<'s>(&self, sessions: &'s mut Sessions) -> &'s mut [u8] {
        let stream = self.name.stream;
        let mux = self.name.mux(sessions);
        mux.map_or(&mut [], |mux| mux.data_space(stream, BULK_PAYLOAD))
    }

    /// So many bytes came from the connection, or its FIN.
    pub(super) fn received(&mut self, conn: ConnKey, count: usize, below: &mut Below<'_>) {
        let (now, stream) = (below.cx.now, self.name.stream);
        let Some(mux) = self.name.mux(below.sessions) else {
            return;
        };
        if count > 0 {
            return mux.data_commit(stream, count, now);
        }
        if self.pipe.conn_ended() == Flow::Eof {
            mux.send_eof(stream, now);
        }
        if let Some(entry) = below.conns.get_mut(conn) {
            entry.read_closed = true;
        }
        if self.pipe.is_over() {
            below.conns.flows(conn, Flow::Over, self.what, below.cx);
        }
    }

    /// The connection's FIN lies behind bytes that find no credit: the stream counts as
    /// half-closed.
    pub(super) fn ends_ahead(&self, sessions: &mut Sessions) {
        if let Some(mux) = self.name.mux(sessions) {
            mux.streams_mut().local_finishes(self.name.stream);
        }
    }

    /// The client says no more.
    pub(super) fn stream_ended(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let Some(entry) = below.conns.get(conn) else {
            return;
        };
        let flow = self.pipe.stream_ended(entry.out.is_empty());
        below.conns.flows(conn, flow, self.what, below.cx);
    }

    /// Of what the connection was sent, `passed` bytes were payload; `drained`: nothing is left.
    pub(super) fn transmitted(
        &mut self,
        conn: ConnKey,
        passed: usize,
        drained: bool,
        below: &mut Below<'_>,
    ) {
        self.name.passed_on(passed, below.sessions, below.cx.now);
        if drained {
            let flow = self.pipe.drained();
            below.conns.flows(conn, flow, self.what, below.cx);
        }
    }

    /// RESET, or the lane is gone: the connection is reset, unless all of the answer came. Gives
    /// whether that was it.
    pub(super) fn broken(&self, conn: ConnKey, end: End<'_>, below: &mut Below<'_>) -> bool {
        let (End { outcome, code, why }, what) = (end, self.what);
        let Below { cx, conns, .. } = below;
        if outcome != StreamOutcome::Stalled && self.pipe.stream_has_ended() {
            conns.log_end(conn, what, "finished", cx.now);
            cx.metrics.stream_ended(StreamOutcome::Finished);
            conns.say_and_leave(conn, b"", cx);
            return false;
        }
        debug!("{what} broken: {} ({})", said(why), code.name());
        conns.log_end(conn, what, why, cx.now);
        cx.metrics.stream_ended(outcome);
        match outcome {
            // What came of it takes memory.
            StreamOutcome::Stalled => conns.close(conn, CloseHow::Reset, cx),
            _ => conns.cut(conn, false, cx),
        }
        true
    }

    /// The connection is gone.
    pub(super) fn gone(&self, conn: ConnKey, how: &Ended, below: &mut Below<'_>) {
        debug!("{} gone: {how:?}", self.what);
        let why = "the connection was reset";
        below.conns.log_end(conn, self.what, why, below.cx.now);
        below.cx.metrics.stream_ended(StreamOutcome::ResetByPeer);
        if let Some(mux) = self.name.mux(below.sessions) {
            mux.reset(self.name.stream, Code::Cancel, why);
        }
    }
}
