//! A machine that does what a test tells it, and tells the test all it hears.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hoody_tunnel::buffer::Buffer;
use hoody_tunnel::clock::Instant;
use hoody_tunnel::machine::{
    CloseHow, Command, Conn, ConnKey, DialTarget, Ended, Event, Found, IoFailure, Listener,
    ListenerKey, Machine, SocketKey, Trust,
};
use hoody_tunnel::reactor::{Handle, Options, Reactor};
use hoody_tunnel::table::Table;

use crate::shared::PATIENCE;

/// What a test wants.
pub enum Order {
    Listen(SocketAddr),
    Unlisten(ListenerKey),
    Accept(ListenerKey, bool),
    Dial(DialTarget),
    /// Look a name up; what is found is dialled by [`Order::DialFound`].
    Resolve(&'static str, u16),
    DialFound(ConnKey, Vec<SocketAddr>),
    Tls(ConnKey, &'static str),
    Send(ConnKey, Vec<u8>),
    /// Read nothing from it, or go on.
    Pause(ConnKey, bool),
    Finish(ConnKey),
    Close(ConnKey, CloseHow),
    /// Commands that shall be obeyed in one drain.
    Raw(Vec<Command<Notice>>),
    Timer(Duration),
    /// Hold the loop up, so that what happens meanwhile comes as one event.
    Nap(Duration),
    Stop,
}

/// What a test hears.
#[derive(Debug)]
pub enum Notice {
    Listening(ListenerKey, Result<SocketAddr, IoFailure>),
    AcceptFailed(ListenerKey, IoFailure),
    Accepted(ConnKey, SocketAddr),
    Dialing(ConnKey),
    Connected(ConnKey, SocketAddr),
    Resolved(ConnKey, Vec<Found>),
    Secured(ConnKey),
    Data(ConnKey, Vec<u8>),
    Fin(ConnKey),
    /// There are bytes in front of it, which nobody reads.
    FinAhead(ConnKey),
    Ended(ConnKey, Ended),
    Holds(ConnKey, usize),
    Socket(SocketKey, Result<SocketAddr, IoFailure>),
    Unsent(SocketKey),
    Datagram(SocketKey, SocketAddr, Vec<u8>),
    Timeout,
    Shutdown,
    Disturbed,
}

struct Side {
    out: Buffer,
    space: Vec<u8>,
    paused: bool,
}

pub struct Remote {
    conns: Table<Conn, Side>,
    listeners: Table<Listener, ()>,
    commands: VecDeque<Command<Notice>>,
    deadline: Option<Instant>,
    pub space: usize,
}

impl Remote {
    pub fn new() -> Remote {
        Remote {
            conns: Table::new(100_000),
            listeners: Table::new(16),
            commands: VecDeque::new(),
            deadline: None,
            space: 64 * 1024,
        }
    }

    fn open(&mut self) -> ConnKey {
        let side = Side {
            out: Buffer::new(),
            space: vec![0; self.space],
            paused: false,
        };
        self.conns.insert(side).ok().unwrap()
    }

    fn say(&mut self, notice: Notice) {
        self.commands.push_back(Command::Notify(notice));
    }
}

impl Machine for Remote {
    type Order = Order;
    type Notice = Notice;

    fn handle(&mut self, event: Event, now: Instant) {
        let notice = match event {
            Event::Connected { conn, peer } => Notice::Connected(conn, peer),
            Event::Resolved { conn, found } => Notice::Resolved(conn, found),
            Event::Secured { conn } => Notice::Secured(conn),
            Event::PeerFinished { conn } => Notice::FinAhead(conn),
            Event::Ended { conn, how } => {
                self.conns.remove(conn);
                Notice::Ended(conn, how)
            }
            Event::Listening { listener, outcome } => Notice::Listening(listener, outcome),
            Event::AcceptFailed { listener, why } => Notice::AcceptFailed(listener, why),
            Event::Holds { conn, bytes } => Notice::Holds(conn, bytes),
            Event::Timeout => {
                assert!(self.deadline.take().is_some_and(|at| at <= now));
                Notice::Timeout
            }
            Event::Shutdown => Notice::Shutdown,
            Event::Disturbed => Notice::Disturbed,
            Event::Socket { socket, outcome } => Notice::Socket(socket, outcome),
            Event::Unsent { socket } => Notice::Unsent(socket),
            Event::Upgrade => return,
        };
        self.say(notice);
    }

    fn datagram(&mut self, socket: SocketKey, peer: SocketAddr, datagram: &[u8], _: Instant) {
        self.say(Notice::Datagram(socket, peer, datagram.to_vec()));
    }

    fn accepted(&mut self, _: ListenerKey, peer: SocketAddr, _: Instant) -> Option<ConnKey> {
        let conn = self.open();
        self.say(Notice::Accepted(conn, peer));
        Some(conn)
    }

    fn order(&mut self, order: Order, now: Instant) {
        let command = match order {
            Order::Listen(addr) => Command::Listen {
                listener: self.listeners.insert(()).unwrap(),
                addr,
            },
            Order::Unlisten(listener) => Command::Unlisten { listener },
            Order::Accept(listener, on) => Command::Accept { listener, on },
            Order::Dial(target) => {
                let conn = self.open();
                self.say(Notice::Dialing(conn));
                Command::Dial { conn, target }
            }
            Order::Resolve(host, port) => {
                let (conn, host) = (self.open(), host.to_owned());
                self.say(Notice::Dialing(conn));
                Command::Resolve { conn, host, port }
            }
            Order::DialFound(conn, addrs) => {
                let target = DialTarget::Addrs(addrs);
                Command::Dial { conn, target }
            }
            Order::Tls(conn, name) => Command::StartTls {
                conn,
                server_name: name.to_owned(),
                trust: Trust::Kit,
            },
            Order::Send(conn, bytes) => {
                if let Some(side) = self.conns.get_mut(conn) {
                    side.out.extend(&bytes);
                }
                Command::Wake { conn }
            }
            Order::Pause(conn, on) => {
                if let Some(side) = self.conns.get_mut(conn) {
                    side.paused = on;
                }
                match on {
                    true => return,
                    false => Command::Wake { conn },
                }
            }
            Order::Finish(conn) => Command::Finish { conn },
            Order::Close(conn, how) => {
                self.conns.remove(conn);
                Command::Close { conn, how }
            }
            Order::Raw(commands) => return self.commands.extend(commands),
            Order::Timer(span) => return self.deadline = Some(now + span),
            Order::Nap(span) => return thread::sleep(span),
            Order::Stop => Command::Stop,
        };
        self.commands.push_back(command);
    }

    fn read_space(&mut self, conn: ConnKey) -> &mut [u8] {
        match self.conns.get_mut(conn) {
            Some(side) if !side.paused => &mut side.space,
            _ => &mut [],
        }
    }

    fn received(&mut self, conn: ConnKey, count: usize, _: Instant) {
        let side = self.conns.get_mut(conn).unwrap();
        let notice = match count {
            0 => Notice::Fin(conn),
            _ => Notice::Data(conn, side.space[..count].to_vec()),
        };
        self.say(notice);
    }

    fn transmit(&mut self, conn: ConnKey, _: Instant) -> &[u8] {
        match self.conns.get(conn) {
            Some(side) => side.out.bytes(),
            None => &[],
        }
    }

    fn transmitted(&mut self, conn: ConnKey, count: usize, _: Instant) {
        let side = self.conns.get_mut(conn).unwrap();
        side.out.consume(count);
    }

    fn poll_command(&mut self) -> Option<Command<Notice>> {
        self.commands.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }
}

/// A reactor with a [`Remote`] on a thread of its own.
pub struct Rig {
    pub handle: Handle<Order>,
    notices: mpsc::Receiver<Notice>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(Remote::new(), Options::default())
    }

    pub fn with(machine: Remote, options: Options) -> Rig {
        let mut reactor = Reactor::new(machine, options).unwrap();
        let handle = reactor.handle();
        let (sender, notices) = mpsc::channel();
        let thread = thread::spawn(move || {
            let tell = |notice| {
                let _ = sender.send(notice);
            };
            reactor.run(tell).unwrap();
        });
        Rig {
            handle,
            notices,
            thread: Some(thread),
        }
    }

    pub fn order(&self, order: Order) {
        self.handle.send(order).unwrap();
    }

    /// The next thing that the machine hears.
    pub fn next(&self) -> Notice {
        self.notices
            .recv_timeout(PATIENCE)
            .expect("the machine heard nothing")
    }

    /// Whether the machine hears nothing for a moment.
    pub fn is_quiet(&self) -> bool {
        self.notices
            .recv_timeout(Duration::from_millis(150))
            .is_err()
    }

    pub fn listen(&self, addr: &str) -> (ListenerKey, SocketAddr) {
        self.order(Order::Listen(addr.parse().unwrap()));
        match self.next() {
            Notice::Listening(key, Ok(addr)) => (key, addr),
            other => panic!("not listening: {other:?}"),
        }
    }

    /// A connection from a test's own socket: that socket, and what the machine calls it.
    pub fn accept_from(&self, addr: SocketAddr) -> (TcpStream, ConnKey) {
        let stream = TcpStream::connect(addr).unwrap();
        match self.next() {
            Notice::Accepted(key, _) => (stream, key),
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub fn dial(&self, target: DialTarget) -> ConnKey {
        self.order(Order::Dial(target));
        match self.next() {
            Notice::Dialing(key) => key,
            other => panic!("not dialing: {other:?}"),
        }
    }

    /// Dials, and waits until the connection stands.
    pub fn connect(&self, target: DialTarget) -> ConnKey {
        let key = self.dial(target);
        match self.next() {
            Notice::Connected(connected, _) if connected == key => key,
            other => panic!("not connected: {other:?}"),
        }
    }

    /// All bytes up to the peer's FIN.
    pub fn data_to_fin(&self, key: ConnKey) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.next() {
                Notice::Data(from, bytes) if from == key => all.extend(bytes),
                Notice::Fin(from) if from == key => return all,
                other => panic!("neither data nor FIN: {other:?}"),
            }
        }
    }

    /// `count` bytes, neither more nor fewer.
    pub fn data(&self, key: ConnKey, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next() {
                Notice::Data(from, bytes) if from == key => all.extend(bytes),
                other => panic!("no data: {other:?}"),
            }
        }
        assert_eq!(all.len(), count);
        all
    }

    pub fn ended(&self, key: ConnKey) -> Ended {
        match self.next() {
            Notice::Ended(ended, how) if ended == key => how,
            other => panic!("not ended: {other:?}"),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.handle.send(Order::Stop);
        let outcome = self.thread.take().unwrap().join();
        if !thread::panicking() {
            outcome.unwrap();
        }
    }
}
