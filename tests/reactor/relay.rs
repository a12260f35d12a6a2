//! A machine that joins every accepted connection to one that it dials: FIN for FIN, RST for RST.
//! Bytes are lent: what was read is transmitted from where it lies.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use hoody_tunnel::clock::Instant;
use hoody_tunnel::machine::{
    CloseHow, Command, Conn, ConnKey, DialTarget, Event, Listener, ListenerKey, Machine,
};
use hoody_tunnel::reactor::{Handle, Options, Reactor};
use hoody_tunnel::table::{Key, Table};

use crate::shared::becomes;

/// One end of a pair, and what was read from it and waits to be written to the other.
struct End {
    other: ConnKey,
    space: Vec<u8>,
    waiting: std::ops::Range<usize>,
    starved: bool,
    fin: bool,
    finished: bool,
}

pub struct Relay {
    target: DialTarget,
    listen: SocketAddr,
    listener: Table<Listener, ()>,
    ends: Table<Conn, End>,
    commands: VecDeque<Command<SocketAddr>>,
}

impl Relay {
    pub fn new(target: DialTarget) -> Relay {
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut relay = Relay {
            target,
            listen,
            listener: Table::new(1),
            ends: Table::new(100_000),
            commands: VecDeque::new(),
        };
        let listener = relay.listener.insert(()).unwrap();
        let addr = relay.listen;
        let command = Command::Listen { listener, addr };
        relay.commands.push_back(command);
        relay
    }

    fn open(&mut self, other: ConnKey) -> ConnKey {
        let end = End {
            other,
            space: Vec::new(),
            waiting: 0..0,
            starved: false,
            fin: false,
            finished: false,
        };
        self.ends.insert(end).ok().unwrap()
    }

    fn end(&mut self, conn: ConnKey) -> Option<&mut End> {
        self.ends.get_mut(conn)
    }

    /// After everything from `conn` is written: passes its FIN on; forgets a pair that is over.
    fn settle(&mut self, conn: ConnKey) {
        let Some(end) = self.end(conn) else { return };
        let other = end.other;
        if end.fin && end.waiting.is_empty() && !end.finished {
            end.finished = true;
            self.commands.push_back(Command::Finish { conn: other });
        }
        let over = [conn, other].map(|key| self.end(key).is_some_and(|end| end.finished));
        if over == [true, true] {
            for conn in [conn, other] {
                self.ends.remove(conn);
                let how = CloseHow::Clean;
                self.commands.push_back(Command::Close { conn, how });
            }
        }
    }
}

impl Machine for Relay {
    type Order = mpsc::Sender<usize>;
    type Notice = SocketAddr;

    fn handle(&mut self, event: Event, _: Instant) {
        match event {
            Event::Listening { outcome, .. } => {
                self.commands.push_back(Command::Notify(outcome.unwrap()));
            }
            Event::Connected { conn, .. } => self.commands.push_back(Command::Wake { conn }),
            Event::Ended { conn, .. } => {
                if let Some(end) = self.ends.remove(conn) {
                    let conn = end.other;
                    self.ends.remove(conn);
                    let how = CloseHow::Reset;
                    self.commands.push_back(Command::Close { conn, how });
                }
            }
            Event::Shutdown => self.commands.push_back(Command::Stop),
            _ => {}
        }
    }

    fn accepted(&mut self, _: ListenerKey, _: SocketAddr, _: Instant) -> Option<ConnKey> {
        let visitor = self.open(Key::unpack(0));
        let upstream = self.open(visitor);
        self.end(visitor)?.other = upstream;
        self.commands.push_back(Command::Dial {
            conn: upstream,
            target: self.target.clone(),
        });
        Some(visitor)
    }

    fn order(&mut self, order: mpsc::Sender<usize>, _: Instant) {
        let _ = order.send(self.ends.len());
    }

    fn read_space(&mut self, conn: ConnKey) -> &mut [u8] {
        match self.end(conn) {
            Some(end) if end.waiting.is_empty() => {
                end.space.resize(64 * 1024, 0);
                &mut end.space
            }
            Some(end) => {
                end.starved = true;
                &mut []
            }
            None => &mut [],
        }
    }

    fn received(&mut self, conn: ConnKey, count: usize, _: Instant) {
        let end = self.end(conn).unwrap();
        end.waiting = 0..count;
        end.fin |= count == 0;
        let other = end.other;
        self.commands.push_back(Command::Wake { conn: other });
        self.settle(conn);
    }

    fn transmit(&mut self, conn: ConnKey, _: Instant) -> &[u8] {
        let Some(other) = self.end(conn).map(|end| end.other) else {
            return &[];
        };
        match self.end(other) {
            Some(end) => &end.space[end.waiting.clone()],
            None => &[],
        }
    }

    fn transmitted(&mut self, conn: ConnKey, count: usize, _: Instant) {
        let other = self.end(conn).unwrap().other;
        let end = self.end(other).unwrap();
        end.waiting.start += count;
        if end.waiting.is_empty() && std::mem::take(&mut end.starved) {
            self.commands.push_back(Command::Wake { conn: other });
        }
        self.settle(other);
    }

    fn poll_command(&mut self) -> Option<Command<SocketAddr>> {
        self.commands.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// A relay on a thread of its own.
pub struct Running {
    pub addr: SocketAddr,
    handle: Handle<mpsc::Sender<usize>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    pub fn new(target: DialTarget, options: Options) -> Running {
        let mut reactor = Reactor::new(Relay::new(target), options).unwrap();
        let handle = reactor.handle();
        let (sender, addrs) = mpsc::channel();
        let body = move || reactor.run(|addr| sender.send(addr).unwrap()).unwrap();
        let named = thread::Builder::new().name("reactor".into());
        let thread = named.spawn(body).unwrap();
        Running {
            addr: addrs.recv().unwrap(),
            handle,
            thread: Some(thread),
        }
    }

    /// Waits until every connection is over.
    pub fn wait_until_empty(&self) {
        let (sender, counts) = mpsc::channel();
        becomes("the ends of connections that stand", 0, || {
            self.handle.send(sender.clone()).unwrap();
            counts.recv().unwrap()
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.handle.shutdown();
        let outcome = self.thread.take().unwrap().join();
        if !thread::panicking() {
            outcome.unwrap();
        }
    }
}
