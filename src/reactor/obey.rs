//! What the host does when the machine commands it.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mio::Interest;

use crate::limits::{DEPART_WITHIN, DIAL_TIMEOUT, KNOCK_AGAIN, MAX_FOUND};
use crate::machine::{
    CloseHow, Command, ConnKey, DialTarget, Ended, Event, Found, ListenerKey, Machine, Trust,
};

use super::Reactor;
use super::conn::{Conn, Link};
use super::dial::{Dial, Progress};
use super::inherited;
use super::listener::{Listening, listen};
use super::resolve::{self, Answer, Asker};
use super::secure::{Connector, Departing, Secured};
use super::socket::{Socket, ended_by, failure};
use super::token::{self, Class};

impl<M: Machine> Reactor<M> {
    /// Obeys until the machine is silent and was told all news, one at a time.
    pub(super) fn settle(&mut self) {
        loop {
            while let Some(command) = self.machine.poll_command() {
                self.obey(command);
            }
            let Some(event) = self.news.pop_front() else {
                return;
            };
            if self.concerns_the_living(&event) {
                self.machine.handle(event, self.now);
            }
        }
    }

    /// Whether the machine still knows whom `event` is about. News wait for the end of a drain, in
    /// which their key may have been closed.
    fn concerns_the_living(&mut self, event: &Event) -> bool {
        match event {
            Event::Connected { conn, .. }
            | Event::Resolved { conn, .. }
            | Event::Secured { conn }
            | Event::Holds { conn, .. } => self.conns.get_mut(*conn).is_some(),
            Event::Listening {
                listener,
                outcome: Ok(_),
            }
            | Event::AcceptFailed { listener, .. } => {
                find(&mut self.listeners, *listener).is_some()
            }
            Event::Socket {
                socket,
                outcome: Ok(_),
            }
            | Event::Unsent { socket } => self.sockets.has(*socket),
            _ => true,
        }
    }

    fn obey(&mut self, command: Command<M::Notice>) {
        match command {
            Command::Listen { listener, addr } => self.listen(listener, addr),
            Command::Unlisten { listener } => {
                if let Some(listening) = find(&mut self.listeners, listener) {
                    // Another descriptor of the same socket may stay open, and would keep it
                    // registered under a number that the next one gets.
                    let socket = &mut listening.socket;
                    let _ = self.poll.registry().deregister(socket);
                    self.listeners[listener.index()] = None;
                }
            }
            Command::Accept { listener, on } => {
                if let Some(listening) = find(&mut self.listeners, listener) {
                    listening.on = on;
                    post_listener(&mut self.accepting, listening);
                }
            }
            Command::Resolve { conn, host, port } => self.seek(conn, host, port),
            Command::OpenSocket { socket, at } => self.open_socket(socket, at),
            Command::Send {
                socket,
                peer,
                datagram,
            } => self.send(socket, peer, datagram),
            Command::CloseSocket { socket } => self.close_socket(socket),
            Command::Dial { conn, target } => self.dial(conn, target),
            Command::StartTls {
                conn,
                server_name,
                trust,
            } => self.start_tls(conn, &server_name, &trust),
            Command::Introduce { conn, visitor } => {
                if let Some(conn) = self.conns.get_mut(conn)
                    && let Link::Plain(socket) = &mut conn.link
                {
                    socket.introduce(visitor);
                }
            }
            Command::Wake { conn } => self.wake(conn),
            Command::WakeLast { conn } => self.wake_last(conn),
            Command::ResetIfKilled { conn } => {
                if let Some(conn) = self.conns.get_mut(conn) {
                    conn.reset_if_killed();
                }
            }
            Command::Probe { conn } => self.probe(conn),
            Command::Finish { conn } => {
                if let Some(entry) = self.conns.get_mut(conn) {
                    entry.finishing = true;
                    self.wake(conn);
                }
            }
            Command::Close { conn, how } => self.close(conn, how),
            Command::Notify(notice) => self.notices.push(notice),
            Command::Stop => self.stopped = true,
        }
    }

    fn listen(&mut self, key: ListenerKey, addr: SocketAddr) {
        let (opened, stays) = match inherited::take(&mut self.inherited, addr) {
            Some((socket, stays)) => (socket, stays),
            None => (listen(addr), false),
        };
        let opened = opened.and_then(|(mut socket, addr)| {
            let token = token::of(Class::Listener, key, 0);
            let registry = self.poll.registry();
            registry.register(&mut socket, token, Interest::READABLE)?;
            Ok((socket, addr))
        });
        let outcome = match opened {
            Ok((socket, addr)) => {
                let listening = Listening {
                    stays,
                    key,
                    socket,
                    on: true,
                    ready: false,
                    posted: false,
                };
                if self.listeners.len() <= key.index() {
                    self.listeners.resize_with(key.index() + 1, || None);
                }
                self.listeners[key.index()] = Some(listening);
                Ok(addr)
            }
            Err(error) => Err(failure(&error)),
        };
        self.news.push_back(Event::Listening {
            listener: key,
            outcome,
        });
    }

    pub(super) fn wake(&mut self, key: ConnKey) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.paused = false;
            if !conn.woken {
                conn.woken = true;
                self.woken.push_back(key);
            }
        }
    }

    fn wake_last(&mut self, key: ConnKey) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.paused = false;
            if !conn.woken_last {
                conn.woken_last = true;
                self.woken_last.push(key);
            }
        }
    }

    /// Has a connection tried again that was full, and tells what the system holds for it.
    fn probe(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let Some(held) = conn.link.socket().map(Socket::held) else {
            return;
        };
        conn.writable = true;
        conn.flush_due = true;
        if let Some(bytes) = held {
            self.news.push_back(Event::Holds { conn: key, bytes });
        }
        self.post(key);
    }

    fn dial(&mut self, key: ConnKey, target: DialTarget) {
        match target {
            DialTarget::Addr(addr) => self.dial_addrs(key, vec![addr]),
            DialTarget::Addrs(addrs) => self.dial_addrs(key, addrs),
            DialTarget::Name(name, port) => match resolve::known(&name, port) {
                Some(addrs) => self.dial_addrs(key, addrs),
                None => {
                    self.conns.insert(Conn::new(key, Link::Resolving));
                    self.dial_timers.arm(key, self.now + DIAL_TIMEOUT);
                    self.resolve((Asker::Conn(key), name, port));
                }
            },
            DialTarget::Unix(path) => {
                let knock = super::unix::Knock::new(path, self.now);
                let link = Link::Knocking(Box::new(knock));
                self.conns.insert(Conn::new(key, link));
                self.knock(key);
            }
            DialTarget::Handler(number) => self.dial_handler(key, number),
        }
    }

    /// Looks a name up for the machine to see.
    fn seek(&mut self, key: ConnKey, host: String, port: u16) {
        self.conns.insert(Conn::new(key, Link::Seeking));
        self.dial_timers.arm(key, self.now + DIAL_TIMEOUT);
        match resolve::known(&host, port) {
            Some(addrs) => self.sought(key, &addrs),
            None => self.resolve((Asker::Conn(key), host, port)),
        }
    }

    /// Tells the machine which addresses a name has, and waits for it to dial.
    fn sought(&mut self, key: ConnKey, addrs: &[SocketAddr]) {
        if addrs.len() > MAX_FOUND {
            let error = io::Error::new(io::ErrorKind::InvalidData, "it has too many addresses");
            return self.end(key, Ended::Failed(failure(&error)));
        }
        self.dial_timers.disarm(key);
        let found = |addr: &SocketAddr| Found {
            addr: *addr,
            is_local: resolve::is_local(addr.ip()),
        };
        let found = addrs.iter().map(found).collect();
        self.news.push_back(Event::Resolved { conn: key, found });
    }

    fn dial_addrs(&mut self, key: ConnKey, addrs: Vec<SocketAddr>) {
        let dial = Dial::new(key, addrs, self.user_timeout, self.now);
        let link = Link::Dialing(Box::new(dial));
        match self.conns.get_mut(key) {
            // The machine has seen whom it dials.
            Some(conn) => conn.link = link,
            None => self.conns.insert(Conn::new(key, link)),
        }
        self.progress(key);
    }

    fn dial_handler(&mut self, key: ConnKey, number: u32) {
        let Some(handler) = self.handlers.get(number as usize) else {
            let text = format!("there is no handler {number}");
            let why = failure(&io::Error::new(io::ErrorKind::NotFound, text));
            let how = Ended::Failed(why);
            return self.news.push_back(Event::Ended { conn: key, how });
        };
        let (stirred, bell) = (self.stirred.0.clone(), Arc::clone(&self.handle.bell));
        let inside = handler(Arc::new(move || {
            // A thread may outlive the loop, and then its news interests nobody.
            let _ = stirred.send(key);
            bell.ring();
        }));
        let mut conn = Conn::new(key, Link::Plain(Socket::Inside(inside)));
        // There are no edges here: a read that came back short proves nothing.
        conn.greedy = true;
        self.conns.insert(conn);
        let peer = NOBODY;
        self.news.push_back(Event::Connected { conn: key, peer });
    }

    pub(super) fn resolve(&mut self, question: (Asker, String, u16)) {
        let (answers, bell) = (self.answers.0.clone(), Arc::clone(&self.handle.bell));
        self.resolver.ask(question, move |answer| {
            // The loop may have ended meanwhile, and then the answer interests nobody.
            let _ = answers.send(answer);
            bell.ring();
        });
    }

    /// A look-up came back.
    pub(super) fn resolved(&mut self, (asker, answer): Answer) {
        let (conns, sockets) = (&mut self.conns, &mut self.sockets);
        let waits = |asker| match asker {
            Asker::Conn(key) => conns.get_mut(key).is_some(),
            Asker::Socket(key) => sockets.has(key),
        };
        if let Some(question) = self.resolver.answered(waits) {
            self.resolve(question);
        }
        let key = match asker {
            Asker::Conn(key) => key,
            Asker::Socket(key) if self.sockets.has(key) => return self.socket_for(key, answer),
            Asker::Socket(_) => return,
        };
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        match answer {
            Ok(addrs) if matches!(conn.link, Link::Seeking) => self.sought(key, &addrs),
            Ok(addrs) => {
                let dial = Dial::new(key, addrs, self.user_timeout, self.now);
                conn.link = Link::Dialing(Box::new(dial));
                self.progress(key);
            }
            Err(error) => self.end(key, Ended::Failed(failure(&error))),
        }
    }

    /// Tries a Unix socket, or tries it again.
    pub(super) fn knock(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let Link::Knocking(knock) = &conn.link else {
            return;
        };
        match knock.again(
            self.poll.registry(),
            token::of(Class::Conn, key, 0),
            self.now,
        ) {
            Ok(Some(socket)) => {
                conn.link = Link::Plain(socket);
                // Where somebody passes descriptors a read stops short before them.
                conn.greedy = true;
                self.dial_timers.disarm(key);
                let peer = NOBODY;
                self.news.push_back(Event::Connected { conn: key, peer });
            }
            Ok(None) => self.dial_timers.arm(key, self.now + KNOCK_AGAIN),
            Err(why) => self.end(key, Ended::Failed(why)),
        }
    }

    /// Looks how a dial gets on.
    pub(super) fn progress(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let Link::Dialing(dial) = &mut conn.link else {
            return;
        };
        match dial.progress(self.poll.registry(), self.now) {
            Progress::Pending(until) => self.dial_timers.arm(key, until),
            Progress::Connected {
                stream,
                peer,
                quiet,
            } => {
                conn.link = Link::Plain(Socket::Tcp(stream));
                self.dial_timers.disarm(key);
                if !quiet {
                    // Bytes or an end came with the edge that said connected.
                    conn.readable = true;
                    conn.read_closed = true;
                    self.post(key);
                }
                self.news.push_back(Event::Connected { conn: key, peer });
            }
            Progress::Failed(why) => self.end(key, Ended::Failed(why)),
        }
    }

    /// Ends a connection because the world did; the machine is told with the next `settle`.
    pub(super) fn end(&mut self, key: ConnKey, how: Ended) {
        if let Some(conn) = self.conns.remove(key) {
            self.dial_timers.disarm(key);
            self.reaped.push(conn.link);
            self.news.push_back(Event::Ended { conn: key, how });
        }
    }

    fn close(&mut self, key: ConnKey, how: CloseHow) {
        let Some(mut conn) = self.conns.remove(key) else {
            return;
        };
        self.dial_timers.disarm(key);
        if how == CloseHow::Clean {
            conn.ends_well();
        }
        match (&mut conn.link, how) {
            (Link::Plain(socket), CloseHow::Reset) => drop(socket.reset_on_close()),
            (Link::Dialing(dial), CloseHow::Reset) => dial.reset_on_close(),
            (Link::Plain(socket), CloseHow::Clean) if conn.readable && !conn.ended => {
                socket.drain();
            }
            (Link::Tls(tls), CloseHow::Reset) => drop(tls.socket().reset_on_close()),
            (Link::Tls(tls), CloseHow::Clean) => {
                let waits = conn.broken.is_none() && matches!(tls.finish(), Ok(false));
                if waits {
                    return self.let_depart(key, conn.link);
                }
            }
            _ => {}
        }
        self.reaped.push(conn.link);
    }

    /// Puts `key` into the queue of conns to serve.
    pub(super) fn post(&mut self, key: ConnKey) {
        if let Some(conn) = self.conns.get_mut(key)
            && !conn.posted
        {
            conn.posted = true;
            self.posted.push_back(key);
        }
    }

    /// Takes in a connection that a listener accepted.
    pub(super) fn adopt(&mut self, key: ConnKey, stream: mio::net::TcpStream) {
        let mut socket = Socket::Tcp(stream);
        let token = token::of(Class::Conn, key, 0);
        let registered = socket.register(self.poll.registry(), token);
        self.conns.insert(Conn::new(key, Link::Plain(socket)));
        if let Err(error) = registered {
            self.end(key, ended_by(&error));
        }
    }
}

/// Whom the machine is told to have reached where there is no address.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Finds a listener unless it is gone.
pub(super) fn find(
    listeners: &mut [Option<Listening>],
    key: ListenerKey,
) -> Option<&mut Listening> {
    match listeners.get_mut(key.index()) {
        Some(Some(listening)) if listening.key == key => Some(listening),
        _ => None,
    }
}

/// Queues `listening` when connections wait and are wanted.
pub(super) fn post_listener(accepting: &mut VecDeque<ListenerKey>, listening: &mut Listening) {
    if listening.on && listening.ready && !listening.posted {
        listening.posted = true;
        accepting.push_back(listening.key);
    }
}

/// What the host keeps for TLS besides the connections.
pub(super) struct TlsState {
    connector: Option<Connector>,
    departing: Vec<(ConnKey, Departing)>,
}

impl TlsState {
    pub(super) fn new(connector: Option<Connector>) -> TlsState {
        TlsState {
            connector,
            departing: Vec::new(),
        }
    }

    fn start(&mut self, socket: Socket, name: &str, trust: &Trust) -> io::Result<Box<dyn Secured>> {
        match &mut self.connector {
            Some(connector) => connector.start(socket, name, trust),
            None => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this program has no TLS",
            )),
        }
    }
}

impl<M: Machine> Reactor<M> {
    fn start_tls(&mut self, key: ConnKey, server_name: &str, trust: &Trust) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let link = std::mem::replace(&mut conn.link, Link::Resolving);
        let Link::Plain(socket) = link else {
            // A machine that asks twice, or too early, has a fault of its own.
            unreachable!("TLS was asked for on a connection that is not a plain standing one");
        };
        let (stirred, thorough) = (conn.readable, conn.read_closed || conn.greedy);
        let started = self.tls.start(socket, server_name, trust).map(|mut tls| {
            if stirred {
                tls.stirred(thorough);
            }
            Link::Tls(tls)
        });
        match started {
            Ok(link) => {
                conn.link = link;
                conn.securing = true;
                conn.readable = true;
                self.dial_timers.arm(key, self.now + DIAL_TIMEOUT);
                self.post(key);
            }
            Err(error) => self.end(key, Ended::Failed(failure(&error))),
        }
    }

    /// Goes on with the handshake of a connection that is being secured.
    pub(super) fn secure(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let Link::Tls(tls) = &mut conn.link else {
            return;
        };
        match tls.handshake() {
            Ok(true) => {
                conn.securing = false;
                // Plaintext may have come with the end of the handshake.
                conn.readable = true;
                conn.flush_due = true;
                self.dial_timers.disarm(key);
                self.post(key);
                self.news.push_back(Event::Secured { conn: key });
            }
            Ok(false) => {}
            Err(error) => self.end(key, Ended::Failed(failure(&error))),
        }
    }

    fn let_depart(&mut self, key: ConnKey, link: Link) {
        let Link::Tls(mut tls) = link else {
            return;
        };
        let token = token::of(Class::Departing, key, 0);
        if tls
            .socket_mut()
            .reregister(self.poll.registry(), token)
            .is_ok()
        {
            let until = self.now + DEPART_WITHIN;
            self.tls
                .departing
                .push((key, Departing { link: tls, until }));
        }
    }

    /// Told: a departing connection became writable.
    pub(super) fn departed(&mut self, token: mio::Token) {
        self.tls.departing.retain_mut(|(key, departing)| {
            !token::names(token, *key) || matches!(departing.link.finish(), Ok(false))
        });
    }

    /// Lets go of what did not depart in time; gives the next deadline.
    pub(super) fn hurry_departing(&mut self) -> Option<crate::clock::Instant> {
        let now = self.now;
        self.tls
            .departing
            .retain(|(_, departing)| departing.until > now);
        self.tls.departing.iter().map(|(_, one)| one.until).min()
    }

    /// After the run: waits, within a bound, for what was closed to get out.
    pub(super) fn depart(&mut self) -> io::Result<()> {
        while let Some(until) = self.hurry_departing() {
            let span = until.since(self.now);
            super::socket::retry(|| self.poll.poll(&mut self.events, Some(span)))?;
            self.now = self.clock.now();
            let tokens: Vec<_> = self.events.iter().map(mio::event::Event::token).collect();
            for token in tokens {
                if token::class(token) == Class::Departing {
                    self.departed(token);
                }
            }
        }
        Ok(())
    }
}
