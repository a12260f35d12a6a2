//! A host that runs a machine over the simulated net, and holds both to the laws above the seam.
//!
//! It is as strict as `src/machine.rs` allows: it transmits only where a wake or a socket that was
//! full asks for it, reads only where an empty space has not stopped it, serves connections in any
//! order, and bothers the machine with dead keys.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;

use hoody_tunnel::clock::Instant;
use hoody_tunnel::lawful::Lawful;
use hoody_tunnel::machine::{
    CloseHow, Command, ConnKey, DialTarget, Ended, Event, Found, IoFailure, ListenerKey, Machine,
};

use crate::dice::Dice;
use crate::net::{End, Gone, Net, Owner};
use crate::posted::Posted;

pub struct Host<M: Machine> {
    pub machine: Lawful<M>,
    owner: Owner,
    dice: Dice,
    socks: BTreeMap<ConnKey, Sock>,
    by_end: BTreeMap<End, ConnKey>,
    listeners: BTreeMap<ListenerKey, Listening>,
    /// Sockets that listen already, of the process before.
    inherited: BTreeSet<SocketAddr>,
    woken: VecDeque<ConnKey>,
    /// These are flushed once nobody else has work.
    woken_last: Vec<ConnKey>,
    posted: Posted,
    cut: Cut,
    /// The system tells what it holds.
    tells_held: bool,
    answers: VecDeque<(ListenerKey, Result<SocketAddr, IoFailure>)>,
    /// Dials that failed for want of a descriptor, which the machine is yet to be told.
    undialled: VecDeque<ConnKey>,
    /// Names that the machine is yet to be told the addresses of.
    sought: VecDeque<(ConnKey, Found)>,
    /// Connections of which the machine is to be told what the system holds.
    probed: VecDeque<ConnKey>,
    /// Connections that asked for TLS.
    doubting: VecDeque<ConnKey>,
    /// Keys that the machine has closed or lost; it must never name them again.
    dead: BTreeSet<ConnKey>,
    last_dead: Option<ConnKey>,
    pub notices: VecDeque<M::Notice>,
    pub stopped: bool,
    now: Instant,
    /// Accepting and dialling fail for want of descriptors until then.
    pub no_descriptors_until: u64,
    /// The process is not scheduled until then.
    pub asleep_until: u64,
    /// Since when, if it does.
    pub asleep_since: u64,
    /// How far from the net everything is that it dials.
    pub is_far: bool,
    /// A planted bug: one wake of so many is lost.
    pub lose_every: Option<u64>,
    wakes: u64,
}

/// How much a socket takes and gives at once.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Whole,
    Parts,
    Crumbs,
}

impl Cut {
    fn piece(self, dice: &mut Dice, most: usize) -> usize {
        let piece = match self {
            Cut::Whole => most,
            Cut::Parts => 1 + dice.below(most.max(1) as u64) as usize,
            Cut::Crumbs if dice.once_in(8) => 1 + dice.size(4000),
            Cut::Crumbs => 1000 + dice.below(8000) as usize,
        };
        piece.min(most)
    }
}

struct Sock {
    end: End,
    connected: bool,
    /// The machine had no room; reading waits for a wake.
    paused: bool,
    /// There may be something to transmit.
    flushing: bool,
    /// It is to take what there is room for, however little.
    tries: bool,
    fin_told: bool,
    /// It was told of a FIN behind bytes that it does not read.
    fin_announced: bool,
}

struct Listening {
    addr: SocketAddr,
    open: bool,
    accepting: bool,
}

impl<M: Machine> Host<M> {
    pub fn new(machine: M, owner: Owner, dice: Dice, net: &mut Net) -> Host<M> {
        Host::inheriting(machine, owner, dice, BTreeSet::new(), net)
    }

    /// With sockets that listen already.
    pub fn inheriting(
        machine: M,
        owner: Owner,
        dice: Dice,
        inherited: BTreeSet<SocketAddr>,
        net: &mut Net,
    ) -> Host<M> {
        let mut dice = dice;
        let cut = [Cut::Whole, Cut::Parts, Cut::Crumbs][dice.below(3) as usize];
        // Who is given a few bytes a turn waits for as many turns: nothing is bounded by then.
        let cut = if net.good_links { Cut::Whole } else { cut };
        let now = Instant::from_nanos(net.now);
        let mut host = Host {
            machine: Lawful::new(machine, now),
            owner,
            dice,
            socks: BTreeMap::new(),
            by_end: BTreeMap::new(),
            listeners: BTreeMap::new(),
            inherited,
            woken: VecDeque::new(),
            woken_last: Vec::new(),
            posted: Posted::default(),
            cut,
            tells_held: !matches!(cut, Cut::Crumbs),
            answers: VecDeque::new(),
            undialled: VecDeque::new(),
            sought: VecDeque::new(),
            probed: VecDeque::new(),
            doubting: VecDeque::new(),
            dead: BTreeSet::new(),
            last_dead: None,
            notices: VecDeque::new(),
            stopped: false,
            now,
            no_descriptors_until: 0,
            asleep_until: 0,
            asleep_since: 0,
            is_far: true,
            lose_every: None,
            wakes: 0,
        };
        host.settle(net);
        host
    }

    /// Descriptors that are open.
    pub fn descriptors(&self) -> usize {
        self.socks.len() + self.listeners.len()
    }

    pub fn next_timeout(&self) -> Option<u64> {
        if self.stopped {
            return None;
        }
        let due = self.machine.poll_timeout()?.as_nanos();
        Some(due.max(self.asleep_until))
    }

    pub fn post(&mut self, end: End) {
        if let Some(conn) = self.by_end.get(&end) {
            self.posted.insert(*conn);
        }
    }

    /// The process is scheduled again: everything may have changed.
    /// It does nothing until then; who sleeps already goes on with that.
    pub fn sleep(&mut self, now: u64, until: u64) {
        if self.asleep_until <= now {
            self.asleep_since = now;
        }
        self.asleep_until = until;
    }

    pub fn post_all(&mut self) {
        for conn in self.socks.keys() {
            self.posted.insert(*conn);
        }
    }

    pub fn tell(&mut self, event: Event, net: &mut Net) {
        self.now = Instant::from_nanos(net.now);
        if !self.stopped {
            self.machine.handle(event, self.now);
            self.settle(net);
        }
    }

    pub fn order(&mut self, order: M::Order, net: &mut Net) {
        self.now = Instant::from_nanos(net.now);
        if !self.stopped {
            self.machine.order(order, self.now);
            self.settle(net);
        }
    }

    /// One piece of work. False when there is none at this moment.
    pub fn step(&mut self, net: &mut Net) -> bool {
        if self.stopped || self.asleep_until > net.now {
            return false;
        }
        self.now = Instant::from_nanos(net.now);
        if let Some((listener, outcome)) = self.answers.pop_front() {
            self.machine
                .handle(Event::Listening { listener, outcome }, self.now);
            self.settle(net);
            return true;
        }
        if let Some(conn) = self.undialled.pop_front() {
            self.dead.insert(conn);
            let how = Ended::Failed(shortage());
            self.machine.handle(Event::Ended { conn, how }, self.now);
            self.settle(net);
            return true;
        }
        if let Some((conn, found)) = self.sought.pop_front() {
            let found = vec![found];
            self.machine
                .handle(Event::Resolved { conn, found }, self.now);
            self.settle(net);
            return true;
        }
        if let Some(conn) = self.probed.pop_front() {
            self.tell_held(conn, net);
            return true;
        }
        if let Some(conn) = self.doubting.pop_front() {
            self.find_no_tls(conn, net);
            return true;
        }
        if self.flush_woken(net) {
            return true;
        }
        if self.machine.poll_timeout().is_some_and(|at| at <= self.now) {
            self.machine.handle(Event::Timeout, self.now);
            self.settle(net);
            return true;
        }
        if self.last_dead.is_some() && self.dice.once_in(200) {
            self.bother(net);
            return true;
        }
        if self.accept(net) {
            return true;
        }
        if self.posted.is_empty() {
            let Some(conn) = self.woken_last.pop() else {
                return false;
            };
            self.flush(conn, net);
            return true;
        }
        let next = match net.good_links {
            true => self.posted.take_first(),
            false => self.posted.take_any(&mut self.dice),
        };
        let Some(conn) = next else {
            return false;
        };
        self.serve(conn, net);
        true
    }

    /// Some systems do not tell; to be seen is that nothing hangs on it.
    fn tell_held(&mut self, conn: ConnKey, net: &mut Net) {
        if let Some(sock) = self.socks.get(&conn)
            && self.tells_held
        {
            let bytes = net.held(sock.end);
            self.machine.handle(Event::Holds { conn, bytes }, self.now);
            self.settle(net);
        }
    }

    /// Nobody here speaks TLS, and each answer shows that.
    fn find_no_tls(&mut self, conn: ConnKey, net: &mut Net) {
        let Some(sock) = self.remove(conn) else {
            return;
        };
        net.reset(sock.end);
        let how = Ended::Failed(IoFailure {
            kind: ErrorKind::InvalidData,
            text: "TLS: the answer is no TLS, as of a plain server".into(),
        });
        self.machine.handle(Event::Ended { conn, how }, self.now);
        self.settle(net);
    }

    /// Says things about a dead key, which must be ignored (law 3).
    fn bother(&mut self, net: &mut Net) {
        let Some(conn) = self.last_dead else { return };
        assert!(
            self.machine.read_space(conn).is_empty(),
            "room on a dead key"
        );
        self.machine.received(conn, 0, self.now);
        self.settle(net);
        let bytes = self.machine.transmit(conn, self.now);
        assert!(bytes.is_empty(), "bytes on a dead key");
        let how = Ended::Reset;
        for event in [Event::PeerFinished { conn }, Event::Ended { conn, how }] {
            self.machine.handle(event, self.now);
            self.settle(net);
        }
    }

    fn accept(&mut self, net: &mut Net) -> bool {
        let ready = net.backlog.iter().position(|(addr, end)| {
            net.owner(*end) == self.owner
                && self
                    .listeners
                    .values()
                    .any(|it| it.addr == *addr && it.open && it.accepting)
        });
        let Some(at) = ready else { return false };
        let (addr, end) = net.backlog[at];
        let listener = self
            .listeners
            .iter()
            .find(|(_, it)| it.addr == addr)
            .map(|(key, _)| *key)
            .expect("the listener was just found");
        if self.no_descriptors_until > net.now {
            if let Some(it) = self.listeners.get_mut(&listener) {
                it.accepting = false;
            }
            let why = shortage();
            self.machine
                .handle(Event::AcceptFailed { listener, why }, self.now);
            self.settle(net);
            return true;
        }
        net.backlog.remove(at);
        let peer = SocketAddr::from((
            [10, 1, 0, (end.0 % 250) as u8],
            40_000 + (end.0 % 20_000) as u16,
        ));
        match self.machine.accepted(listener, peer, self.now) {
            Some(conn) => {
                self.add(conn, end, true);
                net.adopt(end, self.owner);
                self.posted.insert(conn);
            }
            None => {
                net.refused.insert(end.0);
                net.close(end);
            }
        }
        self.settle(net);
        true
    }

    fn add(&mut self, conn: ConnKey, end: End, connected: bool) {
        assert!(!self.dead.contains(&conn), "{conn:?} was named before");
        let sock = Sock {
            end,
            connected,
            paused: false,
            flushing: false,
            tries: false,
            fin_told: false,
            fin_announced: false,
        };
        assert!(self.socks.insert(conn, sock).is_none(), "{conn:?} twice");
        self.by_end.insert(end, conn);
    }

    fn remove(&mut self, conn: ConnKey) -> Option<Sock> {
        let sock = self.socks.remove(&conn)?;
        self.by_end.remove(&sock.end);
        self.dead.insert(conn);
        self.last_dead = Some(conn);
        Some(sock)
    }

    fn ended(&mut self, conn: ConnKey, how: Gone, net: &mut Net) {
        if let Some(sock) = self.remove(conn) {
            net.forget(sock.end);
        }
        let failure = |kind, text: &str| {
            Ended::Failed(IoFailure {
                kind,
                text: text.into(),
            })
        };
        let how = match how {
            Gone::Reset => Ended::Reset,
            Gone::Refused => failure(ErrorKind::ConnectionRefused, "connection refused"),
            Gone::TimedOut => failure(ErrorKind::TimedOut, "timed out"),
        };
        self.machine.handle(Event::Ended { conn, how }, self.now);
        self.settle(net);
    }

    fn serve(&mut self, conn: ConnKey, net: &mut Net) {
        let Some(sock) = self.socks.get(&conn) else {
            return;
        };
        let end = sock.end;
        if let Some(how) = net.gone(end) {
            // The system may still hand out what came before a reset.
            let reads_first = sock.connected && !sock.paused && net.readable(end) > 0;
            if !(reads_first && how == Gone::Reset && self.dice.once_in(2)) {
                return self.ended(conn, how, net);
            }
            self.posted.insert(conn);
        }
        if !sock.connected {
            if net.is_established(end) {
                if let Some(sock) = self.socks.get_mut(&conn) {
                    sock.connected = true;
                }
                let peer = SocketAddr::from(([10, 0, 0, 1], 50));
                self.machine
                    .handle(Event::Connected { conn, peer }, self.now);
                self.settle(net);
                self.posted.insert(conn);
            }
            return;
        }
        if sock.flushing {
            self.flush(conn, net);
            self.flush_woken(net);
        }
        self.read(conn, net);
        self.announce_fin(conn, net);
    }

    /// Tells of a FIN behind bytes that the machine does not read, once (law 9).
    fn announce_fin(&mut self, conn: ConnKey, net: &mut Net) {
        if let Some(sock) = self.socks.get_mut(&conn)
            && sock.paused
            && !sock.fin_told
            && net.fin_landed(sock.end)
            && !std::mem::replace(&mut sock.fin_announced, true)
        {
            let event = Event::PeerFinished { conn };
            self.machine.handle(event, self.now);
            self.settle(net);
        }
    }

    /// Reads once; posts the connection again when there is more.
    fn read(&mut self, conn: ConnKey, net: &mut Net) {
        let Some(sock) = self.socks.get_mut(&conn) else {
            return;
        };
        let (end, available) = (sock.end, net.readable(sock.end));
        let fin = net.at_fin(end);
        if sock.paused || sock.fin_told || (available == 0 && !fin) {
            return;
        }
        let space = self.machine.read_space(conn);
        if space.is_empty() {
            sock.paused = true;
            return;
        }
        let top = space.len().min(available);
        let count = self.cut.piece(&mut self.dice, top);
        // Now and then the socket turns out to be empty, and nothing is told.
        if self.dice.once_in(50) {
            self.posted.insert(conn);
            return;
        }
        net.read(end, &mut space[..count]);
        if count == 0 {
            sock.fin_told = true;
        } else {
            self.posted.insert(conn);
        }
        self.machine.received(conn, count, self.now);
        self.settle(net);
    }

    fn flush_woken(&mut self, net: &mut Net) -> bool {
        let mut any = false;
        while let Some(conn) = self.woken.pop_front() {
            any = true;
            self.flush(conn, net);
        }
        any
    }

    fn flush(&mut self, conn: ConnKey, net: &mut Net) {
        loop {
            let Some(sock) = self.socks.get_mut(&conn) else {
                return;
            };
            if !sock.connected || !sock.flushing {
                return;
            }
            let end = sock.end;
            let bytes = self.machine.transmit(conn, self.now);
            if net.gone(end).is_some() {
                self.posted.insert(conn);
                return;
            }
            if bytes.is_empty() {
                sock.flushing = false;
                return;
            }
            let some = self.cut.piece(&mut self.dice, bytes.len());
            let tries = std::mem::take(&mut sock.tries);
            let count = net.write(end, &bytes[..some], tries);
            if count == 0 {
                return;
            }
            self.machine.transmitted(conn, count, self.now);
            self.settle(net);
        }
    }

    /// Obeys until the machine is silent (law 1).
    fn settle(&mut self, net: &mut Net) {
        let mut count = 0;
        while let Some(command) = self.machine.poll_command() {
            self.obey(command, net);
            count += 1;
            assert!(count < 100_000, "commands without end");
        }
    }

    fn obey(&mut self, command: Command<M::Notice>, net: &mut Net) {
        match command {
            Command::Listen { listener, addr } => self.listen(listener, addr, net),
            Command::Unlisten { listener } => {
                if let Some(it) = self.listeners.remove(&listener)
                    && it.open
                {
                    net.close_listener(it.addr);
                }
            }
            Command::Accept { listener, on } => {
                if let Some(it) = self.listeners.get_mut(&listener) {
                    it.accepting = on;
                }
            }
            Command::Resolve { conn, host, port } => {
                assert!(!self.dead.contains(&conn), "{conn:?} was named before");
                let found = Found {
                    addr: resolve(&host, port),
                    is_local: true,
                };
                self.sought.push_back((conn, found));
            }
            Command::Dial { conn, .. } if self.no_descriptors_until > net.now => {
                assert!(!self.dead.contains(&conn), "{conn:?} was named before");
                self.undialled.push_back(conn);
            }
            Command::Dial { conn, target } => {
                let addr = match target {
                    DialTarget::Addr(addr) => addr,
                    DialTarget::Addrs(addrs) => addrs[0],
                    DialTarget::Name(name, port) => resolve(&name, port),
                    DialTarget::Unix(path) => behind(&path),
                    DialTarget::Handler(number) => panic!("no handler {number} here"),
                };
                let far = self.is_far && addr.ip() == resolve("kit", 0).ip();
                let mut quality = net.quality(far);
                if net.good_links && !far {
                    // More would hide from us how slowly a server takes what it is sent.
                    quality.bound = 4096 + self.dice.size(4096);
                }
                let end = net.dial(self.owner, addr, quality);
                self.add(conn, end, false);
            }
            Command::StartTls { conn, .. } => self.doubting.push_back(conn),
            Command::OpenSocket { .. } | Command::Send { .. } | Command::CloseSocket { .. } => {
                panic!("nobody asked for datagrams")
            }
            Command::Introduce { .. } => panic!("nobody serves by a handler"),
            Command::Wake { conn } => self.wake(conn),
            Command::WakeLast { conn } => self.wake_last(conn),
            Command::ResetIfKilled { .. } => {}
            Command::Probe { conn } => {
                if let Some(sock) = self.socks.get_mut(&conn) {
                    (sock.flushing, sock.tries) = (true, true);
                    self.probed.push_back(conn);
                    self.posted.insert(conn);
                }
            }
            Command::Finish { conn } => {
                if let Some(sock) = self.socks.get_mut(&conn) {
                    net.finish(sock.end);
                }
            }
            Command::Close { conn, how } => {
                self.undialled.retain(|other| *other != conn);
                self.sought.retain(|(other, _)| *other != conn);
                if let Some(sock) = self.remove(conn) {
                    match how {
                        CloseHow::Clean => {
                            // A host drains what it can, so that the kernel sends FIN and not RST.
                            let mut waste = vec![0; net.readable(sock.end)];
                            net.read(sock.end, &mut waste);
                            net.close(sock.end);
                        }
                        CloseHow::Reset => net.reset(sock.end),
                    }
                }
            }
            Command::Notify(notice) => self.notices.push_back(notice),
            Command::Stop => self.stopped = true,
        }
    }

    /// The planted bug.
    fn loses(&mut self) -> bool {
        self.wakes += 1;
        self.lose_every
            .is_some_and(|nth| self.wakes.is_multiple_of(nth))
    }

    fn wake_last(&mut self, conn: ConnKey) {
        if self.loses() {
            return;
        }
        if let Some(sock) = self.socks.get_mut(&conn) {
            sock.flushing = true;
            self.woken_last.push(conn);
        }
    }

    fn wake(&mut self, conn: ConnKey) {
        if self.loses() {
            return;
        }
        if let Some(sock) = self.socks.get_mut(&conn) {
            sock.paused = false;
            sock.flushing = true;
            self.woken.push_back(conn);
            self.posted.insert(conn);
        }
    }

    fn listen(&mut self, listener: ListenerKey, addr: SocketAddr, net: &mut Net) {
        let mut addr = addr;
        if addr.port() == 0 {
            addr.set_port(33_000 + self.dice.below(1000) as u16);
        }
        let taken = !self.inherited.remove(&addr)
            && net.listeners.keys().any(|other| {
                let wild = other.ip().is_unspecified() || addr.ip().is_unspecified();
                other.port() == addr.port() && (other.ip() == addr.ip() || wild)
            });
        let it = Listening {
            addr,
            open: !taken,
            accepting: true,
        };
        let outcome = match taken {
            true => Err(IoFailure {
                kind: ErrorKind::AddrInUse,
                text: "address in use".into(),
            }),
            false => {
                net.listeners.insert(addr, self.owner);
                self.listeners.insert(listener, it);
                Ok(addr)
            }
        };
        self.answers.push_back((listener, outcome));
    }

    /// Another process has the same sockets from now on.
    pub fn share(&mut self, net: &mut Net) -> BTreeSet<SocketAddr> {
        let open = self.listeners.values().filter(|it| it.open);
        let open: BTreeSet<SocketAddr> = open.map(|it| it.addr).collect();
        for addr in &open {
            *net.shared.entry(*addr).or_default() += 1;
        }
        open
    }

    /// What was inherited and is of no use is closed.
    pub fn leave_rest(&mut self, net: &mut Net) {
        for addr in std::mem::take(&mut self.inherited) {
            net.close_listener(addr);
        }
    }

    /// The process ends, whatever it was doing.
    pub fn kill(&mut self, silently: bool, net: &mut Net) {
        self.stopped = true;
        let addrs: Vec<SocketAddr> = self.listeners.values().map(|it| it.addr).collect();
        for addr in addrs {
            net.close_listener(addr);
        }
        for end in net.ends_of(self.owner) {
            net.kill(end, silently);
        }
    }

    /// The ends of its connections to `port` of the kit.
    pub fn ends(&self) -> impl Iterator<Item = End> + '_ {
        self.socks.values().map(|sock| sock.end)
    }

    pub fn describe(&self, net: &Net) -> String {
        let lines: Vec<String> = self
            .socks
            .iter()
            .map(|(key, sock)| {
                format!(
                    "  {key:?} paused {} flushing {} fin {} {}",
                    sock.paused,
                    sock.flushing,
                    sock.fin_told,
                    net.describe(sock.end)
                )
            })
            .collect();
        lines.join("\n")
    }
}

/// What a system says that has no descriptor left.
fn shortage() -> IoFailure {
    IoFailure {
        kind: ErrorKind::QuotaExceeded,
        text: "Too many open files (os error 24)".into(),
    }
}

/// Names of the simulated world.
/// The server behind a Unix socket, whose path ends with its port.
fn behind(path: &std::path::Path) -> SocketAddr {
    let port = path
        .file_name()
        .and_then(|name| name.to_str()?.parse().ok());
    resolve("localhost", port.expect("a port for a name"))
}

pub fn resolve(name: &str, port: u16) -> SocketAddr {
    if let Ok(ip) = name.parse::<std::net::IpAddr>() {
        return SocketAddr::new(ip, port);
    }
    match name {
        "kit" => SocketAddr::from(([10, 0, 0, 1], port)),
        _ => SocketAddr::from(([127, 0, 0, 1], port)),
    }
}
