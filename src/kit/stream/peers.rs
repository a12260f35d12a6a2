//! UDP ports: each peer address of one has a stream (PROTOCOL §8.1).
//!
//! Peers have names from the same set as connections, behind all of theirs, for the mux calls a
//! stream by one: a host never hears of them.
//!
//! Anybody can send from an address that is not its own. So a peer is *unproven* until it has sent
//! again after an answer: that got there. Until then it gets back a few times its bytes at most,
//! and makes room for others first.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use log::debug;

use crate::clock::Instant;
use crate::kit::Reason;
use crate::kit::conns::LaneName;
use crate::kit::context::Context;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::{DatagramDrop, StreamOutcome};
use crate::kit::port::socket_of;
use crate::kit::session::{End, Sessions};
use crate::limits::{
    DATAGRAM_STREAMS, DATAGRAMS_IDLE, MAX_CONNS, MAX_DATAGRAM, MAX_PEERS, UNPROVEN_ANSWERS,
};
use crate::machine::{Command, Conn, ConnKey, ListenerKey};
use crate::mux::{CannotOpen, Span, Wanted};
use crate::table::{Key, Table};
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::open::write_open_udp;

use super::{Below, StreamName};

/// An address that sends to a UDP port, and its stream.
#[derive(Debug)]
struct Peer {
    name: StreamName,
    listener: ListenerKey,
    addr: SocketAddr,
    /// Bytes that came from it, and that went back.
    bytes: (u64, u64),
    proof: Proof,
    /// When a datagram came or went last.
    last: Instant,
}

/// Whether a peer is at the address that it sends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// It was not answered yet.
    None,
    /// It was answered.
    Awaited,
    /// It has sent since.
    Given,
}

/// See the module.
#[derive(Debug)]
pub(in crate::kit) struct Peers {
    all: Table<Conn, Peer>,
    by_addr: BTreeMap<(ListenerKey, SocketAddr), ConnKey>,
    /// How many each session has.
    counts: BTreeMap<SessionKey, usize>,
}

impl Default for Peers {
    fn default() -> Peers {
        Peers {
            all: Table::numbered_from(MAX_CONNS, MAX_PEERS),
            by_addr: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }
}

impl Peers {
    /// A datagram came to the port of a binding.
    pub(in crate::kit) fn came(
        &mut self,
        listener: ListenerKey,
        addr: SocketAddr,
        datagram: &[u8],
        below: &mut Below<'_>,
    ) {
        if datagram.len() > MAX_DATAGRAM {
            let why = DatagramDrop::TooLong;
            return below.cx.metrics.datagrams.dropped(why, 1);
        }
        let known = self.by_addr.get(&(listener, addr)).copied();
        let key = match known {
            Some(key) => key,
            None => match self.open(listener, addr, below) {
                Ok(key) => key,
                Err(why) => return below.cx.metrics.datagrams.dropped(why, 1),
            },
        };
        let peer = self.all.resolve_mut(key);
        peer.bytes.0 += datagram.len() as u64;
        peer.last = below.cx.now;
        if peer.proof == Proof::Awaited {
            peer.proof = Proof::Given;
        }
        let Some(mux) = peer.name.mux(below.sessions) else {
            let why = DatagramDrop::Away;
            return below.cx.metrics.datagrams.dropped(why, 1);
        };
        mux.send_datagram(peer.name.stream, datagram, below.cx.now);
        let lost = mux.lanes_mut().take_datagrams_lost();
        below.cx.metrics.datagrams.to_client(datagram.len());
        below.cx.metrics.datagrams.dropped(DatagramDrop::Lane, lost);
    }

    /// Opens the stream of a peer that is not known.
    fn open(
        &mut self,
        listener: ListenerKey,
        addr: SocketAddr,
        below: &mut Below<'_>,
    ) -> Result<ConnKey, DatagramDrop> {
        let binding = below.ports.bound(listener).ok_or(DatagramDrop::Away)?;
        let (session, bind_id, port) = (binding.owner, binding.bind_id, binding.port());
        let owner = below.sessions.get(session).filter(|it| it.is_open());
        let bind_ok = owner.ok_or(DatagramDrop::Away)?.bind_ok_of(bind_id);
        self.make_room(session, below)?;
        let Below { cx, sessions, .. } = below;
        cx.text.clear();
        write_open_udp(&mut cx.text, bind_id, port, addr);
        let name = StreamName {
            session,
            stream: Key::unpack(0),
        };
        let peer = Peer {
            name,
            listener,
            addr,
            bytes: (0, 0),
            proof: Proof::None,
            last: cx.now,
        };
        let key = self.all.insert(peer).map_err(|_| DatagramDrop::Peers)?;
        let wanted = Wanted {
            holder: None,
            bind_ok,
        };
        let mux = sessions.mux_mut(session);
        let opened = mux.map(|mux| mux.open_for(wanted, key, (&[], &cx.text), cx.now));
        match opened.unwrap_or(Err(CannotOpen::NoLane)) {
            Ok(stream) => {
                self.all.resolve_mut(key).name.stream = stream;
                self.by_addr.insert((listener, addr), key);
                *self.counts.entry(session).or_default() += 1;
                self.look_soon(cx);
                if let Some(binding) = below.ports.bound_mut(listener) {
                    binding.served += 1;
                }
                Ok(key)
            }
            Err(why) => {
                self.all.remove(key);
                Err(match why {
                    CannotOpen::NoLane | CannotOpen::IdsUsedUp => DatagramDrop::Away,
                    CannotOpen::AtCap | CannotOpen::OverShare => DatagramDrop::Peers,
                    CannotOpen::Congested | CannotOpen::Dry => DatagramDrop::Lane,
                })
            }
        }
    }

    /// Where a session has as many peers as it may, one goes for another: who has proven nothing,
    /// the one that was silent for longest, and only then who has been silent for long.
    fn make_room(
        &mut self,
        session: SessionKey,
        below: &mut Below<'_>,
    ) -> Result<(), DatagramDrop> {
        let most = below.cx.config.max_streams_per_session / DATAGRAM_STREAMS;
        if self.counts.get(&session).copied().unwrap_or(0) < most {
            return Ok(());
        }
        let now = below.cx.now;
        let yields = |peer: &Peer| {
            peer.name.session == session
                && (peer.proof != Proof::Given || now >= peer.last + DATAGRAMS_IDLE)
        };
        let all = self.all.iter().filter(|(_, peer)| yields(peer));
        let first = all.min_by_key(|(_, peer)| (peer.proof == Proof::Given, peer.last));
        let first = first.map(|(key, _)| key).ok_or(DatagramDrop::Peers)?;
        self.end(first, Code::NoError, "others wait", below);
        Ok(())
    }

    /// A datagram came from the client.
    pub(super) fn answered(
        &mut self,
        key: ConnKey,
        lane: LaneName,
        span: &Span,
        below: &mut Below<'_>,
    ) {
        use crate::kit::conns::Lanes;
        // On a stream of another kind it means nothing.
        let Some(peer) = self.all.get_mut(key) else {
            return;
        };
        let (cx, datagram) = (&mut *below.cx, below.sessions.payload(lane, span));
        let count = datagram.len() as u64;
        let is_sure = peer.proof == Proof::Given
            || cx.config.udp_unlimited_answers
            // Nobody sends from there but from there.
            || peer.addr.ip().is_loopback();
        if !is_sure && peer.bytes.1 + count > UNPROVEN_ANSWERS * peer.bytes.0 {
            return cx.metrics.datagrams.dropped(DatagramDrop::Unproven, 1);
        }
        peer.bytes.1 += count;
        peer.last = cx.now;
        if peer.proof == Proof::None {
            peer.proof = Proof::Awaited;
        }
        cx.metrics.datagrams.from_client(datagram.len());
        cx.effects.ask(Command::Send {
            socket: socket_of(peer.listener),
            peer: Some(peer.addr),
            datagram: datagram.to_vec(),
        });
    }

    /// The client sends DATA on a stream of datagrams.
    pub(super) fn misused(&mut self, key: ConnKey, below: &mut Below<'_>) {
        if self.knows(key) {
            let why = "DATA on a stream of datagrams";
            self.end(key, Code::ProtocolError, why, below);
            below.cx.metrics.violation(Code::ProtocolError);
        }
    }

    /// The client says no more.
    pub(super) fn stream_ended(&mut self, key: ConnKey, below: &mut Below<'_>) {
        if let Some(peer) = self.all.get(key)
            && let Some(mux) = peer.name.mux(below.sessions)
        {
            mux.send_eof(peer.name.stream, below.cx.now);
        }
        self.forget(key, StreamOutcome::Finished, below.cx);
    }

    /// The stream is over.
    pub(super) fn lost(&mut self, key: ConnKey, end: End<'_>, cx: &mut Context) {
        if self.knows(key) {
            debug!("stream of datagrams over: {}", said(end.why));
            self.forget(key, end.outcome, cx);
        }
    }

    /// Ends a stream.
    fn end(&mut self, key: ConnKey, code: Code, why: &str, below: &mut Below<'_>) {
        if let Some(peer) = self.all.get(key)
            && let Some(mux) = peer.name.mux(below.sessions)
        {
            mux.reset(peer.name.stream, code, why);
        }
        let outcome = match code {
            Code::BindTakeover => StreamOutcome::TakenOver,
            Code::ProtocolError => StreamOutcome::Violated,
            _ => StreamOutcome::Finished,
        };
        self.forget(key, outcome, below.cx);
    }

    fn forget(&mut self, key: ConnKey, outcome: StreamOutcome, cx: &mut Context) {
        let Some(peer) = self.all.remove(key) else {
            return;
        };
        self.by_addr.remove(&(peer.listener, peer.addr));
        cx.metrics.stream_ended(outcome);
        let session = peer.name.session;
        if let Some(count) = self.counts.get_mut(&session) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&session);
            }
        }
        if self.all.is_empty() {
            cx.effects.timers.disarm(Reason::Peers);
        }
    }

    /// Peers are looked at again before long, while there are any.
    fn look_soon(&self, cx: &mut Context) {
        let at = cx.now + cx.config.udp_idle / 4;
        if !self.all.is_empty() {
            cx.effects.timers.arm_if_unset(Reason::Peers, at);
        }
    }

    /// Ends the streams of those who have been silent for long.
    pub(in crate::kit) fn look(&mut self, below: &mut Below<'_>) {
        let (now, idle) = (below.cx.now, below.cx.config.udp_idle);
        let waits = |name: StreamName, sessions: &Sessions| {
            let mux = sessions.mux(name.session);
            mux.is_some_and(|mux| mux.stands_still(name.stream))
        };
        let all = self.all.iter();
        let silent = all.filter(|(_, peer)| now >= peer.last + idle);
        let silent = silent.filter(|(_, peer)| !waits(peer.name, below.sessions));
        let silent: Vec<ConnKey> = silent.map(|(key, _)| key).collect();
        for key in silent {
            self.end(key, Code::NoError, "idle", below);
        }
        self.look_soon(below.cx);
    }

    /// A port is another session's from now on.
    pub(in crate::kit) fn taken_over(&mut self, listener: ListenerKey, below: &mut Below<'_>) {
        for key in self.of(|peer| peer.listener == listener) {
            self.end(key, Code::BindTakeover, "the port was taken over", below);
        }
    }

    /// Ends the streams whose port is not this kit's any more: without it nothing comes or goes.
    pub(in crate::kit) fn leave_closed_ports(&mut self, below: &mut Below<'_>) {
        let is_open = |peer: &Peer| below.ports.takes_datagrams(peer.listener);
        for key in self.of(|peer| !is_open(peer)) {
            self.end(key, Code::NoError, "the port was closed", below);
        }
    }

    fn of(&self, which: impl Fn(&Peer) -> bool) -> Vec<ConnKey> {
        let all = self.all.iter().filter(|(_, peer)| which(peer));
        all.map(|(key, _)| key).collect()
    }

    pub(in crate::kit) fn knows(&self, key: ConnKey) -> bool {
        self.all.get(key).is_some()
    }

    pub(in crate::kit) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn shrink(&mut self) {
        self.all.shrink();
    }

    /// Whether each is found by its address, and counted.
    pub(in crate::kit) fn check_invariants(&self, sessions: &Sessions) {
        assert_eq!(self.by_addr.len(), self.all.len(), "a peer's ghost");
        let counted: usize = self.counts.values().sum();
        assert_eq!(counted, self.all.len(), "peers were miscounted");
        for (key, peer) in self.all.iter() {
            let found = self.by_addr.get(&(peer.listener, peer.addr));
            assert_eq!(found, Some(&key), "a peer that is not found");
            let mux = sessions.mux(peer.name.session);
            let has = mux.is_some_and(|mux| mux.streams().tags().any(|tag| tag == key));
            assert!(has, "a peer without a stream");
        }
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
