//! PULL: a caller on the container's loopback, raw TCP to the laptop's service (PROTOCOL §4).

use std::net::SocketAddr;

use log::debug;

use crate::clock::Instant;
use crate::kit::conns::After;
use crate::kit::metrics::{StreamOutcome, StreamRefusal};
use crate::kit::session::{SessionKey, StreamName};
use crate::limits::BULK_PAYLOAD;
use crate::machine::{CloseHow, ConnKey, Ended};
use crate::mux::{CannotOpen, StreamKey};
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::open::write_open_tcp;

use super::Kit;

/// A connection to a PULL port.
#[derive(Debug)]
pub(super) struct Caller {
    session: SessionKey,
    stream: Option<StreamKey>,
    bind_id: u64,
}

impl Caller {
    pub(super) fn new(session: SessionKey) -> Caller {
        Caller {
            session,
            stream: None,
            bind_id: 0,
        }
    }
}

impl Kit {
    /// Opens the caller's stream, or sends it away: a TCP service has no way to say "later".
    pub(super) fn caller_arrived(
        &mut self,
        conn: ConnKey,
        key: SessionKey,
        bind_id: u64,
        peer: SocketAddr,
        now: Instant,
    ) -> Option<ConnKey> {
        self.cx.text.clear();
        let session = self.sessions.get(key)?;
        let port = session
            .bindings
            .iter()
            .find(|it| it.bind_id == bind_id)
            .map_or(0, |it| it.port);
        write_open_tcp(&mut self.cx.text, bind_id, port, peer);
        let mux = self.sessions.mux_mut(key);
        let opened = mux.map(|mux| mux.open(conn, &self.cx.text, now));
        let stream = match opened.unwrap_or(Err(CannotOpen::NoLane)) {
            Ok(stream) => stream,
            Err(why) => {
                self.cx.stream_refused(peer.ip(), why.into());
                self.conns.drop(conn, &mut self.cx);
                return None;
            }
        };
        if let Some(caller) = self.callers.get_mut(conn) {
            caller.stream = Some(stream);
            caller.bind_id = bind_id;
        }
        Some(conn)
    }

    pub(super) fn caller(&self, conn: ConnKey) -> Option<StreamName> {
        let caller = self.callers.get(conn)?;
        Some(StreamName {
            session: caller.session,
            stream: caller.stream?,
        })
    }

    pub(super) fn caller_space(&mut self, conn: ConnKey) -> &mut [u8] {
        let Some(StreamName { session, stream }) = self.caller(conn) else {
            return &mut [];
        };
        match self.sessions.mux_mut(session) {
            Some(mux) => mux.data_space(stream, BULK_PAYLOAD),
            None => &mut [],
        }
    }

    pub(super) fn caller_received(&mut self, conn: ConnKey, count: usize, now: Instant) {
        let Some(StreamName { session, stream }) = self.caller(conn) else {
            return;
        };
        let Some(mux) = self.sessions.mux_mut(session) else {
            return;
        };
        if count > 0 {
            mux.data_commit(stream, count, now);
        } else {
            mux.send_eof(stream, now);
            if let Some(entry) = self.conns.get_mut(conn) {
                entry.read_closed = true;
            }
            self.close_caller_if_over(conn);
        }
    }

    /// Its FIN lies behind bytes that find no credit: the stream counts as half-closed.
    pub(super) fn caller_finishes(&mut self, conn: ConnKey) {
        if let Some(StreamName { session, stream }) = self.caller(conn)
            && let Some(mux) = self.sessions.mux_mut(session)
        {
            mux.local_finishes(stream);
        }
    }

    pub(super) fn caller_eof(&mut self, conn: ConnKey) {
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.after = After::Finish;
        }
        self.conns.after_sending(conn, &mut self.cx);
        self.close_caller_if_over(conn);
    }

    pub(super) fn caller_transmitted(
        &mut self,
        conn: ConnKey,
        passed: usize,
        drained: bool,
        now: Instant,
    ) {
        let Some(StreamName { session, stream }) = self.caller(conn) else {
            return;
        };
        if passed > 0
            && let Some(mux) = self.sessions.mux_mut(session)
        {
            mux.passed_on(stream, passed, now);
        }
        if drained {
            self.conns.after_sending(conn, &mut self.cx);
            self.close_caller_if_over(conn);
        }
    }

    /// Both sides said FIN and everything has left.
    fn close_caller_if_over(&mut self, conn: ConnKey) {
        let over = self.conns.get(conn).is_some_and(|entry| {
            entry.read_closed && entry.after == After::Finished && entry.out.is_empty()
        });
        if over {
            self.conns
                .log_end(conn, "caller's stream", "finished", self.cx.now);
            self.cx.metrics.stream_ended(StreamOutcome::Finished);
            self.conns.close(conn, CloseHow::Clean, &mut self.cx);
        }
    }

    /// RESET, or the lane is gone: the caller sees a reset.
    pub(super) fn caller_broken(
        &mut self,
        conn: ConnKey,
        outcome: StreamOutcome,
        code: Code,
        reason: &str,
    ) {
        debug!("caller broken: {} ({})", said(reason), code.name());
        self.conns
            .log_end(conn, "caller's stream", reason, self.cx.now);
        self.cx.metrics.stream_ended(outcome);
        if code == Code::RefusedStream
            && let Some(entry) = self.conns.get(conn)
        {
            self.cx
                .stream_refused(entry.from.ip(), StreamRefusal::Client);
        }
        self.conns.close(conn, CloseHow::Reset, &mut self.cx);
    }

    /// The caller's connection is gone.
    pub(super) fn caller_gone(&mut self, conn: ConnKey, how: &Ended) {
        let Some(StreamName { session, stream }) = self.caller(conn) else {
            return;
        };
        debug!("caller gone: {how:?}");
        self.conns
            .log_end(conn, "caller's stream", "the caller is gone", self.cx.now);
        self.cx.metrics.stream_ended(StreamOutcome::ResetByPeer);
        if let Some(mux) = self.sessions.mux_mut(session) {
            mux.reset(stream, Code::Cancel, "the caller's connection was reset");
        }
    }
}
