//! The turn: what a reactor does, in which order, over and over.

use std::io;
use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{ACCEPTS_A_TURN, READ_QUANTUM, WRITE_QUANTUM};
use crate::machine::{ConnKey, Ended, Event, ListenerKey, Machine};

use super::conn::Link;
use super::listener::Accepted;
use super::obey::{find, post_listener};
use super::socket::{ended_by, failure};
use super::token::{self, Class};
use super::{Clock, Inbox, Reactor};

impl<M: Machine> Reactor<M> {
    /// One turn.
    pub(super) fn turn(&mut self, on_notice: &mut impl FnMut(&Self, M::Notice)) -> io::Result<()> {
        self.settle();
        self.flush_woken();
        self.flush_woken_last();
        self.reaped.clear();
        self.hand_out(on_notice);
        if self.stopped {
            return Ok(());
        }
        let due = self.wait()?;
        self.turn += 1;
        self.now = self.clock.now();
        let jumped = self.clock.jumped(self.now);
        self.tell_date();
        self.latch();
        let overslept = due.is_some_and(|due| Clock::overslept(self.now, due));
        self.tell_disturbed(jumped || overslept);
        self.accept();
        self.receive();
        self.serve_posted();
        // After the bytes: when the process was stopped for a while, what arrived meanwhile proves
        // life before a deadline can deny it.
        self.tell_deadlines();
        let busy = self.clock.now().since(self.now);
        self.machine.turn_ended(busy, self.conns.len());
        Ok(())
    }

    /// Waits for something to do; says when it meant to be back at the latest.
    fn wait(&mut self) -> io::Result<Option<Instant>> {
        let due = self.due();
        let span = due.map(|due| match due <= self.now {
            true => Duration::ZERO,
            false => due.since(self.clock.now()),
        });
        match self.poll.poll(&mut self.events, span) {
            Ok(()) => {}
            // A signal: what it means comes as readiness with the next turn.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            Err(error) => return Err(error),
        }
        Ok(due)
    }

    /// Until when there is nothing to do; `None` is for ever.
    fn due(&mut self) -> Option<Instant> {
        let has_work =
            !self.posted.is_empty() || !self.accepting.is_empty() || !self.woken.is_empty();
        let has_work = has_work || !self.receiving.is_empty();
        debug_assert!(self.woken_last.is_empty(), "bytes wait while the host does");
        if has_work {
            return Some(self.now);
        }
        let mut next: Option<Instant> = None;
        let mut consider = |at: Option<Instant>| {
            next = match (next, at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        consider(self.machine.poll_timeout());
        consider(self.dial_timers.next().map(|(at, _)| at));
        consider(self.network.as_ref().and_then(super::Network::due));
        consider(self.hurry_departing());
        next
    }

    /// Turns events into bits and queues. Only the host's own sources are read here.
    fn latch(&mut self) {
        let mut signals = (0, false);
        let mut rung = false;
        let (mut departed, mut stirred) = (Vec::new(), Vec::new());
        for event in &self.events {
            let token = event.token();
            match token::class(token) {
                Class::Conn => {
                    if let Some(conn) = self.conns.by_token(token) {
                        conn.latch(event);
                        if conn.needs_service() && !conn.posted {
                            conn.posted = true;
                            self.posted.push_back(conn.key);
                        }
                    }
                }
                Class::Listener => {
                    let entry = self.listeners.get_mut(token::index(token));
                    if let Some(Some(listening)) = entry
                        && token::names(token, listening.key)
                    {
                        listening.ready = true;
                        post_listener(&mut self.accepting, listening);
                    }
                }
                Class::Departing => departed.push(token),
                Class::Socket => stirred.push(token),
                Class::Host => match token::index(token) {
                    token::WAKER => rung = true,
                    token::SIGNALS => {
                        signals = self
                            .signals
                            .as_mut()
                            .map_or((0, false), super::Signals::take);
                    }
                    _ => {
                        if let Some(network) = &mut self.network {
                            network.stirred(self.now);
                        }
                    }
                },
            }
        }
        for token in stirred {
            self.socket_stirred(token);
        }
        for token in departed {
            self.departed(token);
        }
        let (ends, upgrade) = signals;
        if upgrade {
            self.tell(Event::Upgrade);
        }
        for _ in 0..ends {
            self.tell(Event::Shutdown);
        }
        if rung {
            self.open_inbox();
        }
    }

    fn open_inbox(&mut self) {
        self.handle.bell.hush();
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Inbox::Order(order) => {
                    self.machine.order(order, self.now);
                    self.settle();
                }
                Inbox::Shutdown => self.tell(Event::Shutdown),
            }
        }
        while let Ok(key) = self.stirred.1.try_recv() {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.stirred();
                self.post(key);
            }
        }
        while let Ok(answer) = self.answers.1.try_recv() {
            self.resolved(answer);
            self.settle();
        }
    }

    fn tell(&mut self, event: Event) {
        self.machine.handle(event, self.now);
        self.settle();
    }

    fn tell_date(&mut self) {
        let second = self.clock.wall_second(self.now);
        if self.dated.replace(second) != Some(second) {
            self.machine.dated(second);
        }
    }

    /// The world went on without us (`missed`), or our addresses changed.
    fn tell_disturbed(&mut self, missed: bool) {
        let network = &mut self.network;
        let changed = network.as_mut().is_some_and(|net| net.changed(self.now));
        if missed || changed {
            self.tell(Event::Disturbed);
        }
    }

    fn tell_deadlines(&mut self) {
        while let Some(key) = self.dial_timers.pop_due(self.now) {
            let late = self.conns.get_mut(key).and_then(|conn| match conn.link {
                Link::Resolving | Link::Seeking => Some("the resolver does not answer"),
                Link::Tls(_) if conn.securing => Some("TLS: no answer"),
                _ => None,
            });
            if let Some(why) = late {
                let error = io::Error::new(io::ErrorKind::TimedOut, why);
                self.end(key, Ended::Failed(failure(&error)));
            } else {
                self.progress(key);
                self.knock(key);
            }
            self.settle();
        }
        if self.machine.poll_timeout().is_some_and(|at| at <= self.now) {
            self.tell(Event::Timeout);
        }
    }

    fn accept(&mut self) {
        for _ in 0..self.accepting.len() {
            let Some(key) = self.accepting.pop_front() else {
                return;
            };
            if let Some(listening) = find(&mut self.listeners, key) {
                listening.posted = false;
            }
            for _ in 0..ACCEPTS_A_TURN {
                if !self.accept_one(key) {
                    break;
                }
            }
            if let Some(listening) = find(&mut self.listeners, key) {
                post_listener(&mut self.accepting, listening);
            }
        }
    }

    /// Accepts once; whether to go on.
    fn accept_one(&mut self, key: ListenerKey) -> bool {
        let Some(listening) = find(&mut self.listeners, key) else {
            return false;
        };
        if !listening.on || !listening.ready {
            return false;
        }
        match listening.accept() {
            Accepted::Conn(stream, peer) => {
                // Without a name the stream falls here, which closes it.
                if let Some(conn) = self.machine.accepted(key, peer, self.now) {
                    self.adopt(conn, stream);
                }
                self.settle();
            }
            Accepted::None => listening.ready = false,
            Accepted::Again => {}
            Accepted::Failed(error) => {
                listening.on = false;
                let why = failure(&error);
                self.tell(Event::AcceptFailed { listener: key, why });
            }
        }
        true
    }

    fn serve_posted(&mut self) {
        self.flush_woken();
        // Only those that are posted by now: who is posted again waits for the next turn.
        for _ in 0..self.posted.len() {
            let Some(key) = self.posted.pop_front() else {
                return;
            };
            self.serve(key);
            self.settle();
            self.flush_woken();
        }
    }

    /// One quantum for one conn.
    fn serve(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        conn.posted = false;
        if !conn.stands() {
            return self.progress(key);
        }
        if conn.securing {
            return self.secure(key);
        }
        if std::mem::take(&mut conn.flush_due) {
            self.flush(key);
            self.flush_woken();
        }
        match self.conns.get_mut(key) {
            Some(conn) if conn.wants_read() => self.read(key),
            Some(conn) if conn.errored => self.meet_error(key),
            _ => {}
        }
        if self.conns.get_mut(key).is_some_and(|conn| conn.owes_fin()) {
            self.announce_fin(key);
        }
        if self.conns.get_mut(key).is_some_and(|conn| conn.is_busy()) {
            self.post(key);
        }
    }

    fn read(&mut self, key: ConnKey) {
        assert!(
            self.woken.is_empty(),
            "a conn is read while a woken one waits (law 7)"
        );
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let space = self.machine.read_space(key);
        if space.is_empty() {
            conn.paused = true;
            if conn.errored || conn.broken.is_some() {
                self.meet_error(key);
            }
            return;
        }
        let length = space.len().min(READ_QUANTUM);
        match conn.link.read(&mut space[..length]) {
            Ok(got) if got.count == 0 && got.more => {}
            Ok(got) if got.count == 0 => match conn.broken.take() {
                Some(how) => self.end(key, how),
                None => {
                    conn.readable = false;
                    conn.ended = true;
                    self.machine.received(key, 0, self.now);
                }
            },
            Ok(got) => {
                conn.readable = got.more || conn.read_closed || conn.greedy;
                self.machine.received(key, got.count, self.now);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.readable = false;
                if let Some(how) = conn.broken.take() {
                    self.end(key, how);
                }
            }
            Err(error) => {
                let how = conn.broken.take().unwrap_or_else(|| ended_by(&error));
                self.end(key, how);
            }
        }
    }

    /// The peer has finished, and the machine does not read that far.
    fn announce_fin(&mut self, key: ConnKey) {
        self.settle();
        if let Some(conn) = self.conns.get_mut(key)
            && conn.owes_fin()
        {
            conn.fin_announced = true;
            self.tell(Event::PeerFinished { conn: key });
        }
    }

    /// The system announced an error, and no read or write will meet it for now.
    fn meet_error(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let Some(socket) = conn.link.socket() else {
            return;
        };
        if !socket.resets_at_once() && !conn.ended {
            return;
        }
        let error = socket.take_error();
        conn.errored = false;
        let how = conn.broken.take().or(error.as_ref().map(ended_by));
        if let Some(how) = how {
            self.end(key, how);
        }
    }

    /// Flushes the conns that Wake named, and those that this wakes in turn.
    pub(super) fn flush_woken(&mut self) {
        while let Some(key) = self.woken.pop_front() {
            let Some(conn) = self.conns.get_mut(key) else {
                continue;
            };
            conn.woken = false;
            self.flush(key);
            self.settle();
            if self.conns.get_mut(key).is_some_and(|conn| conn.is_busy()) {
                self.post(key);
            }
        }
    }

    /// Flushes the conns that WakeLast named: everybody who was ready has been served.
    fn flush_woken_last(&mut self) {
        while let Some(key) = self.woken_last.pop() {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.woken_last = false;
                self.wake(key);
                self.flush_woken();
            }
        }
    }

    /// Transmits until the machine has nothing, the socket is full, or the quantum is spent.
    fn flush(&mut self, key: ConnKey) {
        loop {
            let turn = self.turn;
            let Some(conn) = self.conns.get_mut(key) else {
                return;
            };
            if !conn.wants_write() {
                return;
            }
            if conn.spent_in != turn {
                conn.spent_in = turn;
                conn.spent = 0;
            }
            let outcome = match conn.link.flush() {
                Ok(true) if conn.spent >= WRITE_QUANTUM => {
                    conn.flush_due = true;
                    return;
                }
                Ok(true) => {
                    let bytes = self.machine.transmit(key, self.now);
                    if bytes.is_empty() {
                        return self.finish_if_asked(key);
                    }
                    let offered = bytes.len();
                    let written = conn.link.write(bytes);
                    if let Ok(count) = written {
                        conn.spent += count;
                        conn.writable = count == offered || !conn.link.is_plain();
                    }
                    written
                }
                Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(count) => {
                    self.machine.transmitted(key, count, self.now);
                    self.settle();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    conn.writable = false;
                    return;
                }
                Err(error) => return self.write_failed(key, &error),
            }
        }
    }

    fn finish_if_asked(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if !conn.finishing {
            return;
        }
        conn.ends_well();
        match conn.link.finish() {
            Ok(true) => conn.finished = true,
            Ok(false) => conn.writable = false,
            Err(error) => self.write_failed(key, &error),
        }
    }

    /// The peer takes nothing more. What it sent before may say why (an answer to a request that it
    /// did not read to the end), so that is read first.
    fn write_failed(&mut self, key: ConnKey, error: &io::Error) {
        let how = ended_by(error);
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        if conn.ended || how != Ended::Reset {
            return self.end(key, how);
        }
        conn.broken = Some(how);
        conn.readable = true;
        if let Link::Tls(tls) = &mut conn.link {
            // The edge of what came last may not have been seen yet.
            tls.stirred(true);
        }
        if conn.paused {
            self.meet_error(key);
        } else {
            self.post(key);
        }
    }
}
