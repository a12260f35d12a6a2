//! A machine under the eye of the law.
//!
//! Every host of tests and of fuzzing runs its machine through this, and so both are held to the
//! laws of the seam (`machine.rs`), each of which is asserted here by its number. What no wrapper
//! can see is left to hosts: that they flush and read at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::clock::Instant;
use crate::machine::{Command, ConnKey, Event, ListenerKey, Machine, SocketKey};

/// A machine, and what its host and it have done so far.
#[derive(Debug)]
pub struct Lawful<M> {
    machine: M,
    now: Instant,
    /// Something was told, and the machine has not been asked until it was silent.
    undrained: bool,
    /// Connections that were named since it was silent last.
    named: Vec<ConnKey>,
    conns: BTreeMap<ConnKey, Standing>,
    dead: BTreeSet<ConnKey>,
    /// Whose names are looked up for the machine, and whether it was told.
    sought: BTreeMap<ConnKey, bool>,
    /// Sockets of datagrams.
    sockets: BTreeSet<SocketKey>,
    /// Whom Wake has named, and nobody has flushed yet.
    woken: BTreeSet<ConnKey>,
    last: Last,
}

/// What the host knows of a connection.
#[derive(Debug, Default)]
struct Standing {
    /// It was accepted, or the host has told that it is connected.
    stands: bool,
    /// The machine had no space; it has to say Wake first.
    paused: bool,
    /// The machine was told of the peer's FIN.
    ended: bool,
    /// It was told of a FIN behind bytes that it does not read.
    fin_announced: bool,
    /// The machine has said Finish.
    finished: bool,
}

/// What was asked last, to which an answer may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Other,
    Space(ConnKey, usize),
    Offer(ConnKey, usize),
}

impl<M: Machine> Lawful<M> {
    /// Begins to look after a machine that nobody has told anything yet.
    pub fn new(machine: M, now: Instant) -> Lawful<M> {
        Lawful {
            machine,
            now,
            undrained: true,
            named: Vec::new(),
            conns: BTreeMap::new(),
            dead: BTreeSet::new(),
            sought: BTreeMap::new(),
            sockets: BTreeSet::new(),
            woken: BTreeSet::new(),
            last: Last::Other,
        }
    }

    /// Something is about to be told.
    fn told(&mut self, now: Instant) -> Last {
        assert!(!self.undrained, "told before it was silent (law 1)");
        assert!(now >= self.now, "time goes back (law 2)");
        self.now = now;
        self.undrained = true;
        std::mem::replace(&mut self.last, Last::Other)
    }

    fn name(&mut self, conn: ConnKey, stands: bool) {
        assert!(!self.dead.contains(&conn), "{conn:?} is dead (law 3)");
        let standing = Standing {
            stands,
            ..Standing::default()
        };
        let before = self.conns.insert(conn, standing);
        assert!(before.is_none(), "{conn:?} is named twice (law 3)");
        self.named.push(conn);
    }

    fn bury(&mut self, conn: ConnKey) {
        self.sought.remove(&conn);
        if self.conns.remove(&conn).is_some() {
            self.woken.remove(&conn);
            self.named.retain(|named| *named != conn);
            self.dead.insert(conn);
        }
    }

    fn before_event(&mut self, event: &Event) {
        match event {
            Event::Connected { conn, .. } => {
                if let Some(standing) = self.conns.get_mut(conn) {
                    assert!(!standing.stands, "{conn:?} is connected twice");
                    standing.stands = true;
                }
            }
            Event::Resolved { conn, .. } => {
                if let Some(told) = self.sought.get_mut(conn) {
                    assert!(!*told, "{conn:?} is resolved twice");
                    *told = true;
                }
            }
            Event::Ended { conn, .. } => self.bury(*conn),
            Event::Socket {
                socket,
                outcome: Err(_),
            } => {
                self.sockets.remove(socket);
            }
            Event::PeerFinished { conn } => {
                if let Some(standing) = self.conns.get_mut(conn) {
                    let before = std::mem::replace(&mut standing.fin_announced, true);
                    assert!(!before, "a FIN of {conn:?} is announced twice (law 9)");
                    let stopped = standing.paused && !standing.ended;
                    assert!(stopped, "a FIN of {conn:?}, which is read (law 9)");
                }
            }
            _ => {}
        }
    }

    /// Looks at what the machine wants.
    fn judge(&mut self, command: &Command<M::Notice>) {
        match command {
            Command::Resolve { conn, .. } => {
                self.name(*conn, false);
                self.sought.insert(*conn, false);
            }
            Command::Dial { conn, .. } => match self.sought.remove(conn) {
                Some(told) => assert!(told, "{conn:?} is dialled before it is resolved"),
                None => self.name(*conn, false),
            },
            Command::OpenSocket { socket, .. } => {
                let new = self.sockets.insert(*socket);
                assert!(new, "{socket:?} is named twice (law 3)");
            }
            Command::Send { socket, .. } => {
                let is_open = self.sockets.contains(socket);
                assert!(is_open, "a datagram on {socket:?}, which is dead (law 3)");
            }
            Command::CloseSocket { socket } => {
                let was_open = self.sockets.remove(socket);
                assert!(was_open, "{socket:?} is dead already (law 3)");
            }
            Command::Wake { conn } => {
                if let Some(standing) = self.conns.get_mut(conn) {
                    standing.paused = false;
                    if standing.stands {
                        self.woken.insert(*conn);
                    }
                }
            }
            Command::Finish { conn } => {
                let Some(standing) = self.conns.get_mut(conn) else {
                    panic!("Finish on {conn:?}, which is dead (law 3)");
                };
                assert!(standing.stands, "Finish before {conn:?} stands");
                let before = std::mem::replace(&mut standing.finished, true);
                assert!(!before, "Finish twice on {conn:?} (law 4)");
                let left = self.machine.transmit(*conn, self.now).len();
                assert_eq!(left, 0, "Finish with bytes left on {conn:?} (law 4)");
            }
            Command::Close { conn, .. } => {
                let taken = |named: &&ConnKey| named.index() == conn.index() && *named != conn;
                let taken = self.named.iter().find(taken);
                assert_eq!(taken, None, "has the index of {conn:?} (law 3)");
                self.bury(*conn);
            }
            _ => {}
        }
    }
}

impl<M: Machine> Machine for Lawful<M> {
    type Order = M::Order;
    type Notice = M::Notice;

    fn handle(&mut self, event: Event, now: Instant) {
        self.told(now);
        self.before_event(&event);
        self.machine.handle(event, now);
    }

    fn accepted(
        &mut self,
        listener: ListenerKey,
        peer: SocketAddr,
        now: Instant,
    ) -> Option<ConnKey> {
        self.told(now);
        let conn = self.machine.accepted(listener, peer, now)?;
        self.name(conn, true);
        Some(conn)
    }

    fn datagram(&mut self, socket: SocketKey, peer: SocketAddr, datagram: &[u8], now: Instant) {
        self.told(now);
        self.machine.datagram(socket, peer, datagram, now);
    }

    fn order(&mut self, order: M::Order, now: Instant) {
        self.told(now);
        self.machine.order(order, now);
    }

    fn read_space(&mut self, conn: ConnKey) -> &mut [u8] {
        assert!(!self.undrained, "read before it was silent (law 1)");
        let first = self.woken.first();
        assert_eq!(
            first, None,
            "waits to be flushed, and {conn:?} is read (law 7)"
        );
        let space = self.machine.read_space(conn);
        self.last = Last::Space(conn, space.len());
        match self.conns.get_mut(&conn) {
            None => assert!(space.is_empty(), "room on {conn:?}, which is dead (law 3)"),
            Some(standing) if space.is_empty() => standing.paused = true,
            Some(standing) => {
                assert!(!standing.paused, "room on {conn:?} without a Wake (law 5)");
            }
        }
        space
    }

    fn received(&mut self, conn: ConnKey, count: usize, now: Instant) {
        let last = self.told(now);
        match self.conns.get_mut(&conn) {
            Some(standing) => {
                let fits = matches!(last, Last::Space(other, space)
                    if other == conn && count <= space && space > 0);
                assert!(fits, "{count} bytes on {conn:?} after {last:?} (law 5)");
                assert!(!standing.ended, "{count} bytes behind a FIN on {conn:?}");
                standing.ended = count == 0;
            }
            None => assert!(
                self.dead.contains(&conn),
                "bytes on {conn:?}, which never was"
            ),
        }
        self.machine.received(conn, count, now);
    }

    fn transmit(&mut self, conn: ConnKey, now: Instant) -> &[u8] {
        assert!(now >= self.now, "time goes back (law 2)");
        self.woken.remove(&conn);
        let bytes = self.machine.transmit(conn, now);
        self.last = Last::Offer(conn, bytes.len());
        match self.conns.get(&conn) {
            None => assert!(bytes.is_empty(), "bytes on {conn:?}, which is dead (law 3)"),
            Some(standing) => {
                let late = standing.finished && !bytes.is_empty();
                assert!(!late, "bytes behind Finish on {conn:?} (law 4)");
            }
        }
        bytes
    }

    fn transmitted(&mut self, conn: ConnKey, count: usize, now: Instant) {
        let last = self.told(now);
        let fits = matches!(last, Last::Offer(other, offer) if other == conn && count <= offer);
        assert!(fits, "{count} bytes left {conn:?} after {last:?} (law 6)");
        self.machine.transmitted(conn, count, now);
    }

    fn poll_command(&mut self) -> Option<Command<M::Notice>> {
        let Some(command) = self.machine.poll_command() else {
            self.undrained = false;
            self.named.clear();
            return None;
        };
        self.undrained = true;
        self.last = Last::Other;
        self.judge(&command);
        Some(command)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn dated(&mut self, unix_seconds: u64) {
        self.machine.dated(unix_seconds);
    }

    fn turn_ended(&mut self, busy: Duration, conns: usize) {
        self.machine.turn_ended(busy, conns);
    }
}

/// What tests ask of the machine itself.
impl<M> Deref for Lawful<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.machine
    }
}

impl<M> DerefMut for Lawful<M> {
    fn deref_mut(&mut self) -> &mut M {
        &mut self.machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{CloseHow, DialTarget};
    use crate::table::Table;

    /// A machine that does what its test says.
    #[derive(Default)]
    struct Puppet {
        says: Vec<Command<()>>,
        space: [u8; 4],
        room: usize,
        bytes: Vec<u8>,
        accepts: Option<ConnKey>,
    }

    impl Machine for Puppet {
        type Order = ();
        type Notice = ();
        fn handle(&mut self, _: Event, _: Instant) {}
        fn accepted(&mut self, _: ListenerKey, _: SocketAddr, _: Instant) -> Option<ConnKey> {
            self.accepts
        }
        fn order(&mut self, (): (), _: Instant) {}
        fn read_space(&mut self, _: ConnKey) -> &mut [u8] {
            &mut self.space[..self.room]
        }
        fn received(&mut self, _: ConnKey, _: usize, _: Instant) {}
        fn transmit(&mut self, _: ConnKey, _: Instant) -> &[u8] {
            &self.bytes
        }
        fn transmitted(&mut self, _: ConnKey, count: usize, _: Instant) {
            self.bytes.drain(..count);
        }
        fn poll_command(&mut self) -> Option<Command<()>> {
            (!self.says.is_empty()).then(|| self.says.remove(0))
        }
        fn poll_timeout(&self) -> Option<Instant> {
            None
        }
    }

    struct Stage {
        lawful: Lawful<Puppet>,
        keys: Table<crate::machine::Conn, ()>,
    }

    impl Stage {
        fn new() -> Stage {
            let mut lawful = Lawful::new(Puppet::default(), Instant::ZERO);
            assert!(lawful.poll_command().is_none());
            let keys = Table::new(8);
            Stage { lawful, keys }
        }

        fn key(&mut self) -> ConnKey {
            self.keys.insert(()).expect("room")
        }

        /// One that was dialled and stands.
        fn conn(&mut self) -> ConnKey {
            let conn = self.key();
            let target = DialTarget::Handler(0);
            self.says(Command::Dial { conn, target });
            let peer = ([127, 0, 0, 1], 1).into();
            self.tell(Event::Connected { conn, peer });
            conn
        }

        fn says(&mut self, command: Command<()>) {
            self.lawful.says.push(command);
            self.drain();
        }

        fn drain(&mut self) {
            while self.lawful.poll_command().is_some() {}
        }

        fn tell(&mut self, event: Event) {
            self.lawful.handle(event, Instant::ZERO);
            self.drain();
        }

        fn close(&mut self, conn: ConnKey) {
            let how = CloseHow::Clean;
            self.says(Command::Close { conn, how });
        }
    }

    /// Whether something is against a law that is named so.
    fn breaks(law: &str, deed: impl FnOnce(&mut Stage) + std::panic::UnwindSafe) {
        let caught = std::panic::catch_unwind(|| deed(&mut Stage::new()));
        let why = caught.expect_err("nobody objected");
        let text = why.downcast_ref::<String>().cloned();
        let text = text.or_else(|| why.downcast_ref::<&str>().map(|it| (*it).to_owned()));
        let text = text.expect("a sentence");
        assert!(text.contains(law), "{law}: {text}");
    }

    #[test]
    fn an_index_may_be_given_again_and_again_as_long_as_each_is_closed_first() {
        let mut stage = Stage::new();
        for _ in 0..3 {
            let conn = stage.key();
            stage.keys.remove(conn);
            let (target, how) = (DialTarget::Handler(0), CloseHow::Clean);
            let commands = [Command::Dial { conn, target }, Command::Close { conn, how }];
            stage.lawful.says.extend(commands);
        }
        stage.drain();
    }

    #[test]
    fn a_connection_may_live_and_die_by_the_law() {
        let mut stage = Stage::new();
        let conn = stage.conn();
        assert!(stage.lawful.read_space(conn).is_empty());
        stage.tell(Event::PeerFinished { conn });
        stage.lawful.room = 4;
        stage.lawful.bytes = b"abc".to_vec();
        stage.says(Command::Wake { conn });
        assert_eq!(stage.lawful.transmit(conn, Instant::ZERO), b"abc");
        stage.lawful.transmitted(conn, 3, Instant::ZERO);
        stage.drain();
        assert_eq!(stage.lawful.read_space(conn).len(), 4);
        stage.lawful.received(conn, 2, Instant::ZERO);
        stage.says(Command::Finish { conn });
        stage.close(conn);
        stage.lawful.room = 0;
        assert!(stage.lawful.read_space(conn).is_empty());
        stage.lawful.received(conn, 0, Instant::ZERO);
        stage.drain();
        stage.tell(Event::PeerFinished { conn });
    }

    #[test]
    fn a_host_that_breaks_a_law_is_stopped() {
        breaks("law 1", |stage| {
            stage.lawful.handle(Event::Timeout, Instant::ZERO);
            stage.lawful.handle(Event::Timeout, Instant::ZERO);
        });
        breaks("law 1", |stage| {
            stage.lawful.says.push(Command::Stop);
            stage.lawful.order((), Instant::ZERO);
            stage.lawful.poll_command();
            stage.lawful.order((), Instant::ZERO);
        });
        breaks("law 2", |stage| {
            stage.lawful.handle(Event::Timeout, Instant::from_nanos(2));
            stage.drain();
            stage.lawful.handle(Event::Timeout, Instant::from_nanos(1));
        });
        breaks("law 5", |stage| {
            let conn = stage.conn();
            stage.lawful.received(conn, 1, Instant::ZERO);
        });
        breaks("law 5", |stage| {
            let (one, other) = (stage.conn(), stage.conn());
            stage.lawful.room = 4;
            stage.lawful.read_space(one);
            stage.lawful.received(other, 1, Instant::ZERO);
        });
        breaks("law 5", |stage| {
            let conn = stage.conn();
            stage.lawful.room = 4;
            stage.lawful.read_space(conn);
            stage.lawful.received(conn, 5, Instant::ZERO);
        });
        breaks("law 6", |stage| {
            let conn = stage.conn();
            stage.lawful.bytes = b"abc".to_vec();
            stage.lawful.transmit(conn, Instant::ZERO);
            stage.lawful.transmitted(conn, 4, Instant::ZERO);
        });
        breaks("law 7", |stage| {
            let conn = stage.conn();
            stage.says(Command::Wake { conn });
            stage.lawful.read_space(conn);
        });
        breaks("law 9", |stage| {
            let conn = stage.conn();
            stage.tell(Event::PeerFinished { conn });
        });
        breaks("law 9", |stage| {
            let conn = stage.conn();
            stage.lawful.read_space(conn);
            stage.tell(Event::PeerFinished { conn });
            stage.tell(Event::PeerFinished { conn });
        });
    }

    #[test]
    fn a_machine_that_breaks_a_law_is_stopped() {
        breaks("law 3", |stage| {
            let conn = stage.conn();
            let target = DialTarget::Handler(0);
            stage.says(Command::Dial { conn, target });
        });
        breaks("law 3", |stage| {
            let conn = stage.conn();
            stage.close(conn);
            stage.lawful.bytes = b"abc".to_vec();
            stage.lawful.transmit(conn, Instant::ZERO);
        });
        breaks("law 3", |stage| {
            let conn = stage.conn();
            stage.close(conn);
            stage.lawful.room = 4;
            stage.lawful.read_space(conn);
        });
        breaks("law 3", |stage| {
            let conn = stage.conn();
            stage.keys.remove(conn);
            stage.lawful.accepts = Some(stage.key());
            let listener = Table::new(1).insert(()).expect("room");
            let peer = ([127, 0, 0, 1], 1).into();
            stage.lawful.accepted(listener, peer, Instant::ZERO);
            stage.close(conn);
        });
        breaks("law 4", |stage| {
            let conn = stage.conn();
            stage.lawful.bytes = b"abc".to_vec();
            stage.says(Command::Finish { conn });
        });
        breaks("law 4", |stage| {
            let conn = stage.conn();
            stage.says(Command::Finish { conn });
            stage.lawful.bytes = b"abc".to_vec();
            stage.lawful.transmit(conn, Instant::ZERO);
        });
        breaks("without a Wake", |stage| {
            let conn = stage.conn();
            stage.lawful.read_space(conn);
            stage.lawful.room = 4;
            stage.lawful.read_space(conn);
        });
    }
}
