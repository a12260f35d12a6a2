//! A host without sockets, in virtual time, for one client.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::config::Config;
use crate::client::machine::Client;
use crate::client::messages::{Notice, Order};
use crate::client::{SessionEvent, TunnelOptions};
use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::lawful::Lawful;
use crate::machine::{
    CloseHow, Command, ConnKey, DialTarget, Ended, Event, IoFailure, ListenerKey, Machine,
    SocketAt, SocketKey,
};

/// One connection, seen from the world.
#[derive(Debug)]
pub(super) struct Wire {
    pub target: DialTarget,
    pub stands: bool,
    pub secured: Option<String>,
    to_client: VecDeque<u8>,
    /// The world's FIN, to be told after the bytes.
    fin: bool,
    fin_told: bool,
    fin_announced: bool,
    from_client: Vec<u8>,
    pub finished: bool,
    pub closed: Option<CloseHow>,
    paused: bool,
    /// The socket takes nothing.
    pub full: bool,
    /// What the system holds for it, if it can tell.
    pub held: Option<usize>,
}

/// The host and the world around it.
pub(super) struct World {
    pub client: Lawful<Client>,
    pub now: Instant,
    pub wires: BTreeMap<ConnKey, Wire>,
    pub dials: VecDeque<ConnKey>,
    pub notices: Vec<Notice>,
    /// Sockets of datagrams, and what was sent on each.
    pub sockets: BTreeMap<SocketKey, (SocketAt, Vec<Vec<u8>>)>,
    pub stopped: bool,
    /// Ports, and whether they accept.
    pub listeners: BTreeMap<ListenerKey, (SocketAddr, bool)>,
    /// Of these the ones that were not answered.
    opening: Vec<ListenerKey>,
    /// Ports that somebody else has.
    pub taken: Vec<u16>,
    /// Most bytes of one read or write.
    pub chunk: usize,
}

impl World {
    pub(super) fn new(options: &TunnelOptions) -> World {
        let config = Config::with_env(options, |_| None).unwrap();
        let now = Instant::from_nanos(1);
        World {
            client: Lawful::new(Client::with_config(config, Entropy::from_seed(7), now), now),
            now,
            wires: BTreeMap::new(),
            dials: VecDeque::new(),
            notices: Vec::new(),
            sockets: BTreeMap::new(),
            stopped: false,
            listeners: BTreeMap::new(),
            opening: Vec::new(),
            taken: Vec::new(),
            chunk: usize::MAX,
        }
    }

    /// Leaves the client so many descriptors; said before anything else.
    pub(super) fn fit(&mut self, descriptors: usize) {
        let config = Config::with_env(&super::options(), |_| None).unwrap();
        let client = Client::with_config(config, Entropy::from_seed(7), self.now);
        self.client = Lawful::new(client.with_descriptors(descriptors), self.now);
    }

    /// Lets time pass, deadline by deadline.
    pub(super) fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        self.run();
        while let Some(at) = self.client.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.client.handle(Event::Timeout, self.now);
            self.run();
        }
        self.now = until;
    }

    /// Lets time pass until the client dials, which it must within a minute.
    pub(super) fn until_dialled(&mut self) {
        for _ in 0..6000 {
            if !self.dials.is_empty() {
                return;
            }
            self.pass(Duration::from_millis(10));
        }
        panic!("the client does not dial any more");
    }

    pub(super) fn order(&mut self, order: Order) {
        self.client.order(order, self.now);
        self.run();
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.client.handle(event, self.now);
        self.run();
    }

    /// The oldest dial that nobody answered.
    pub(super) fn dialled(&mut self) -> (ConnKey, DialTarget) {
        let conn = self.dials.pop_front().expect("nothing was dialled");
        (conn, self.wires[&conn].target.clone())
    }

    pub(super) fn connect(&mut self, conn: ConnKey) {
        self.wires.get_mut(&conn).unwrap().stands = true;
        let peer = "127.0.0.1:1".parse().unwrap();
        self.tell(Event::Connected { conn, peer });
    }

    /// Answers the oldest dial with a connection.
    pub(super) fn accept(&mut self) -> ConnKey {
        let (conn, _) = self.dialled();
        self.connect(conn);
        conn
    }

    /// Answers the oldest dial with a refusal.
    pub(super) fn refuse(&mut self) {
        let (conn, _) = self.dialled();
        self.end(
            conn,
            Ended::Failed(failure("127.0.0.1:3000: Connection refused")),
        );
    }

    pub(super) fn end(&mut self, conn: ConnKey, how: Ended) {
        self.wires.remove(&conn);
        self.tell(Event::Ended { conn, how });
    }

    pub(super) fn write(&mut self, conn: ConnKey, bytes: &[u8]) {
        if let Some(wire) = self.wires.get_mut(&conn) {
            wire.to_client.extend(bytes);
        }
        self.run();
    }

    pub(super) fn fin(&mut self, conn: ConnKey) {
        if let Some(wire) = self.wires.get_mut(&conn) {
            wire.fin = true;
        }
        self.run();
        self.announce_fin(conn);
    }

    /// Tells of a FIN behind bytes that the client does not read, once.
    fn announce_fin(&mut self, conn: ConnKey) {
        let Some(wire) = self.wires.get_mut(&conn) else {
            return;
        };
        let is_due = wire.paused && wire.fin && !wire.fin_told && wire.closed.is_none();
        if is_due && !std::mem::replace(&mut wire.fin_announced, true) {
            self.client.handle(Event::PeerFinished { conn }, self.now);
            self.settle();
        }
    }

    /// What the client sent since it was asked last.
    pub(super) fn take(&mut self, conn: ConnKey) -> Vec<u8> {
        let wire = self.wires.get_mut(&conn);
        wire.map_or(Vec::new(), |wire| std::mem::take(&mut wire.from_client))
    }

    pub(super) fn text(&mut self, conn: ConnKey) -> String {
        String::from_utf8(self.take(conn)).unwrap()
    }

    /// The socket takes bytes again.
    pub(super) fn unblock(&mut self, conn: ConnKey) {
        self.wires.get_mut(&conn).unwrap().full = false;
        self.flush(conn);
        self.run();
    }

    pub(super) fn is_closed(&self, conn: ConnKey) -> Option<CloseHow> {
        self.wires.get(&conn).and_then(|wire| wire.closed)
    }

    /// Events since the last call.
    pub(super) fn events(&mut self) -> Vec<SessionEvent> {
        let mut events = Vec::new();
        // What happened to streams is gathered for a moment.
        self.pass(crate::limits::TELL_AFTER);
        self.notices.retain(|notice| match notice {
            Notice::Events(told) => {
                events.extend(told.iter().cloned());
                false
            }
            _ => true,
        });
        events
    }

    /// Other notices since the last call.
    pub(super) fn answers(&mut self) -> Vec<Notice> {
        let (events, answers) = std::mem::take(&mut self.notices)
            .into_iter()
            .partition(|notice| matches!(notice, Notice::Events(_)));
        self.notices = events;
        answers
    }

    fn add(&mut self, conn: ConnKey, target: DialTarget) {
        let wire = Wire {
            target,
            stands: false,
            secured: None,
            to_client: VecDeque::new(),
            fin: false,
            fin_told: false,
            fin_announced: false,
            from_client: Vec::new(),
            finished: false,
            closed: None,
            paused: false,
            full: false,
            held: None,
        };
        let before = self.wires.insert(conn, wire);
        assert!(
            before.is_none_or(|wire| wire.closed.is_some()),
            "a name is taken"
        );
    }

    /// Somebody calls at a port, which must accept. `None`: he is turned away.
    pub(super) fn call(&mut self, port: u16, peer: &str) -> Option<ConnKey> {
        let at = |(_, (addr, on)): &(&ListenerKey, &(SocketAddr, bool))| addr.port() == port && *on;
        let found = self.listeners.iter().find(at).map(|(key, _)| *key);
        let peer: SocketAddr = peer.parse().unwrap();
        let listener = found.expect("nobody accepts there");
        let conn = self.client.accepted(listener, peer, self.now);
        self.settle();
        let conn = conn?;
        self.add(conn, DialTarget::Addr(peer));
        self.wires.get_mut(&conn).unwrap().stands = true;
        self.run();
        Some(conn)
    }

    /// Answers what listens since this was called last.
    fn open_ports(&mut self) {
        for listener in std::mem::take(&mut self.opening) {
            let Some((addr, _)) = self.listeners.get_mut(&listener) else {
                continue;
            };
            let outcome = match self.taken.contains(&addr.port()) {
                true => {
                    self.listeners.remove(&listener);
                    Err(IoFailure {
                        kind: std::io::ErrorKind::AddrInUse,
                        text: "Address already in use".into(),
                    })
                }
                false => Ok(*addr),
            };
            self.tell(Event::Listening { listener, outcome });
        }
    }

    /// Carries bytes until nothing moves.
    pub(super) fn run(&mut self) {
        self.settle();
        loop {
            let readable = |wire: &Wire| {
                let has_news = !wire.to_client.is_empty() || (wire.fin && !wire.fin_told);
                wire.stands && wire.closed.is_none() && !wire.paused && has_news
            };
            let next = self.wires.iter().find(|(_, wire)| readable(wire));
            match next.map(|(conn, _)| *conn) {
                Some(conn) => self.read(conn),
                None if self.opening.is_empty() => return,
                None => self.open_ports(),
            }
        }
    }

    fn read(&mut self, conn: ConnKey) {
        let wire = self.wires.get_mut(&conn).unwrap();
        let space = self.client.read_space(conn);
        if space.is_empty() {
            wire.paused = true;
            return self.announce_fin(conn);
        }
        let count = space.len().min(self.chunk).min(wire.to_client.len());
        for (octet, byte) in space.iter_mut().zip(wire.to_client.drain(..count)) {
            *octet = byte;
        }
        wire.fin_told = count == 0;
        self.client.received(conn, count, self.now);
        self.settle();
    }

    fn flush(&mut self, conn: ConnKey) {
        loop {
            let Some(wire) = self.wires.get_mut(&conn) else {
                return;
            };
            if !wire.stands || wire.closed.is_some() {
                return;
            }
            let bytes = self.client.transmit(conn, self.now);
            if bytes.is_empty() || wire.full {
                return;
            }
            let count = bytes.len().min(self.chunk);
            wire.from_client.extend_from_slice(&bytes[..count]);
            self.client.transmitted(conn, count, self.now);
            self.settle();
        }
    }

    /// Obeys until the client is silent, and flushes what it woke.
    fn settle(&mut self) {
        let mut woken = VecDeque::new();
        let mut probed = Vec::new();
        while let Some(command) = self.client.poll_command() {
            match command {
                Command::Resolve { .. } => panic!("a client judges no addresses"),
                Command::OpenSocket { socket, at } => {
                    self.sockets.insert(socket, (at, Vec::new()));
                }
                Command::Send {
                    socket, datagram, ..
                } => self
                    .sockets
                    .get_mut(&socket)
                    .expect("it is open")
                    .1
                    .push(datagram),
                Command::CloseSocket { socket } => {
                    self.sockets.remove(&socket);
                }
                Command::Dial { conn, target } => {
                    self.add(conn, target);
                    self.dials.push_back(conn);
                }
                Command::StartTls {
                    conn, server_name, ..
                } => {
                    self.wires.get_mut(&conn).unwrap().secured = Some(server_name);
                }
                Command::Introduce { .. } | Command::ResetIfKilled { .. } => {}
                Command::Probe { conn } => {
                    woken.push_back(conn);
                    probed.push(conn);
                }
                Command::Wake { conn } | Command::WakeLast { conn } => {
                    if let Some(wire) = self.wires.get_mut(&conn) {
                        wire.paused = false;
                        woken.push_back(conn);
                    }
                }
                Command::Finish { conn } => {
                    let wire = self.wires.get_mut(&conn).unwrap();
                    wire.finished = true;
                }
                Command::Close { conn, how } => {
                    let wire = self.wires.get_mut(&conn).expect("closed a stranger");
                    assert!(wire.closed.is_none(), "closed twice");
                    wire.closed = Some(how);
                    self.dials.retain(|dial| *dial != conn);
                }
                Command::Notify(notice) => self.notices.push(notice),
                Command::Stop => self.stopped = true,
                Command::Listen { listener, addr } => {
                    self.listeners.insert(listener, (addr, true));
                    self.opening.push(listener);
                }
                Command::Unlisten { listener } => {
                    self.listeners.remove(&listener).expect("it listened");
                }
                Command::Accept { listener, on } => {
                    self.listeners.get_mut(&listener).expect("it listens").1 = on;
                }
            }
        }
        for conn in probed {
            if let Some(bytes) = self.wires.get(&conn).and_then(|wire| wire.held) {
                self.client.handle(Event::Holds { conn, bytes }, self.now);
                self.settle();
            }
        }
        for conn in woken {
            self.flush(conn);
        }
    }
}

pub(super) fn failure(text: &str) -> IoFailure {
    IoFailure {
        kind: std::io::ErrorKind::ConnectionRefused,
        text: text.into(),
    }
}
