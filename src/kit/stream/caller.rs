//! PULL: a caller on the container's loopback, raw TCP to the laptop's service (PROTOCOL §4).

use std::net::SocketAddr;

use log::debug;

use crate::kit::keys::SessionKey;
use crate::kit::metrics::{StreamOutcome, StreamRefusal};
use crate::kit::session::{End, Sessions};
use crate::limits::BULK_PAYLOAD;
use crate::machine::{CloseHow, Conn, ConnKey, Ended};
use crate::mux::{CannotOpen, Wanted};
use crate::pipe::{Flow, RawPipe};
use crate::table::Side;
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::open::write_open_tcp;

use super::{Below, StreamName};

/// A connection to a PULL port, and its stream.
#[derive(Debug)]
struct Caller {
    name: StreamName,
    pipe: RawPipe,
}

/// All callers, by their connections.
#[derive(Debug, Default)]
pub(in crate::kit) struct Callers(Side<Conn, Caller>);

impl Callers {
    /// Opens the stream of a caller who has come, or sends it away: a TCP service has no way to say
    /// "later". `port` is the binding's, which is `bind_id`.
    pub(in crate::kit) fn arrived(
        &mut self,
        conn: ConnKey,
        key: SessionKey,
        (bind_id, port): (u64, u16),
        peer: SocketAddr,
        below: &mut Below<'_>,
    ) -> bool {
        let Below {
            cx,
            conns,
            sessions,
            ..
        } = below;
        cx.text.clear();
        write_open_tcp(&mut cx.text, bind_id, port, peer);
        let owner = sessions.get(key);
        let wanted = Wanted {
            holder: None,
            bind_ok: owner.map_or(0, |session| session.bind_ok_of(bind_id)),
        };
        let mux = sessions.mux_mut(key);
        let opened = mux.map(|mux| mux.open_for(wanted, conn, (&[], &cx.text), cx.now));
        match opened.unwrap_or(Err(CannotOpen::NoLane)) {
            Ok(stream) => {
                let (name, pipe) = (
                    StreamName {
                        session: key,
                        stream,
                    },
                    RawPipe::new(),
                );
                self.0.insert(conn, Caller { name, pipe });
                cx.effects.reset_if_killed(conn);
                true
            }
            Err(why) => {
                cx.stream_refused(peer.ip(), why.into());
                conns.drop(conn, cx);
                false
            }
        }
    }

    pub(in crate::kit) fn stream(&self, conn: ConnKey) -> Option<StreamName> {
        Some(self.0.get(conn)?.name)
    }

    pub(in crate::kit) fn knows(&self, conn: ConnKey) -> bool {
        self.0.get(conn).is_some()
    }

    /// Where its next bytes go: straight into the lane.
    pub(in crate::kit) fn space<'s>(
        &self,
        conn: ConnKey,
        sessions: &'s mut Sessions,
    ) -> &'s mut [u8] {
        let name = self.stream(conn);
        let mux = name.and_then(|name| Some((name.mux(sessions)?, name.stream)));
        mux.map_or(&mut [], |(mux, stream)| {
            mux.data_space(stream, BULK_PAYLOAD)
        })
    }

    pub(in crate::kit) fn received(&mut self, conn: ConnKey, count: usize, below: &mut Below<'_>) {
        let now = below.cx.now;
        let Some(Caller { name, pipe }) = self.0.get_mut(conn) else {
            return;
        };
        let Some(mux) = name.mux(below.sessions) else {
            return;
        };
        if count > 0 {
            return mux.data_commit(name.stream, count, now);
        }
        if pipe.conn_ended() == Flow::Eof {
            mux.send_eof(name.stream, now);
        }
        if let Some(entry) = below.conns.get_mut(conn) {
            entry.read_closed = true;
        }
        if pipe.is_over() {
            below.conns.flows(conn, Flow::Over, LIVED, below.cx);
        }
    }

    /// Its FIN lies behind bytes that find no credit: the stream counts as half-closed.
    pub(in crate::kit) fn ends_ahead(&self, conn: ConnKey, sessions: &mut Sessions) {
        if let Some(name) = self.stream(conn)
            && let Some(mux) = name.mux(sessions)
        {
            mux.streams_mut().local_finishes(name.stream);
        }
    }

    pub(super) fn stream_ended(&mut self, conn: ConnKey, below: &mut Below<'_>) {
        let (Some(entry), Some(it)) = (below.conns.get(conn), self.0.get_mut(conn)) else {
            return;
        };
        let flow = it.pipe.stream_ended(entry.out.is_empty());
        below.conns.flows(conn, flow, LIVED, below.cx);
    }

    /// Of what was sent, `passed` bytes were payload; `drained`: nothing is left.
    pub(in crate::kit) fn transmitted(
        &mut self,
        conn: ConnKey,
        passed: usize,
        drained: bool,
        below: &mut Below<'_>,
    ) {
        let Some(Caller { name, pipe }) = self.0.get_mut(conn) else {
            return;
        };
        name.passed_on(passed, below.sessions, below.cx.now);
        if drained {
            let flow = pipe.drained();
            below.conns.flows(conn, flow, LIVED, below.cx);
        }
    }

    /// RESET, or the lane is gone: the caller sees a reset, unless all of the answer came.
    pub(super) fn broken(&mut self, conn: ConnKey, end: End<'_>, below: &mut Below<'_>) {
        let End { outcome, code, why } = end;
        let Below { cx, conns, .. } = below;
        let ended = |it: &Caller| it.pipe.stream_has_ended();
        if outcome != StreamOutcome::Stalled && self.0.get(conn).is_some_and(ended) {
            conns.log_end(conn, LIVED, "finished", cx.now);
            cx.metrics.stream_ended(StreamOutcome::Finished);
            return conns.say_and_leave(conn, b"", cx);
        }
        debug!("caller broken: {} ({})", said(why), code.name());
        conns.log_end(conn, LIVED, why, cx.now);
        cx.metrics.stream_ended(outcome);
        if code == Code::RefusedStream
            && let Some(entry) = conns.get(conn)
        {
            cx.stream_refused(entry.from.ip(), StreamRefusal::Client);
        }
        match outcome {
            // What came of it takes memory.
            StreamOutcome::Stalled => conns.close(conn, CloseHow::Reset, cx),
            _ => conns.cut(conn, false, cx),
        }
    }

    /// The caller's connection is gone.
    pub(super) fn gone(&mut self, conn: ConnKey, how: &Ended, below: &mut Below<'_>) {
        let Some(name) = self.stream(conn) else {
            return;
        };
        debug!("caller gone: {how:?}");
        below
            .conns
            .log_end(conn, LIVED, "the caller is gone", below.cx.now);
        below.cx.metrics.stream_ended(StreamOutcome::ResetByPeer);
        if let Some(mux) = name.mux(below.sessions) {
            mux.reset(
                name.stream,
                Code::Cancel,
                "the caller's connection was reset",
            );
        }
    }

    pub(super) fn forget(&mut self, conn: ConnKey) {
        self.0.remove(conn);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn shrink(&mut self) {
        self.0.shrink();
    }
}

const LIVED: &str = "caller's stream";
