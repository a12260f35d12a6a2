//! Connecting to one of several addresses.
//!
//! The addresses are tried in turn: the next one starts when one has failed, or has not answered
//! for a quarter of a second (RFC 8305 in small), and the first that stands wins.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::Registry;
use mio::event::{Event, Source};
use mio::net::TcpStream;

use crate::clock::Instant;
use crate::limits::{DIAL_NEXT_AFTER, DIAL_TIMEOUT};
use crate::machine::{ConnKey, IoFailure};

use super::socket::{
    interest, kind, reset_on_close, sentence, set_nodelay, set_notsent_lowat, set_user_timeout,
};
use super::token::{self, Class};

/// A connection that does not stand yet.
#[derive(Debug)]
pub(super) struct Dial {
    key: ConnKey,
    addrs: Vec<SocketAddr>,
    /// The first of `addrs` that was not tried yet.
    next: usize,
    next_at: Instant,
    give_up: Instant,
    attempts: Vec<Attempt>,
    failures: Failures,
    user_timeout: Option<Duration>,
}

#[derive(Debug)]
struct Attempt {
    number: usize,
    addr: SocketAddr,
    stream: TcpStream,
    stirred: Option<Stirred>,
}

/// What the system said about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stirred {
    /// It is writable and nothing else, which a connect is only when it is through.
    Standing,
    /// It has to be asked.
    Unclear,
}

/// What a look at a dial came to.
#[derive(Debug)]
pub(super) enum Progress {
    /// Look again at this moment, or when an attempt stirs.
    Pending(Instant),
    /// It stands. `quiet`: there is nothing to read yet.
    Connected {
        stream: TcpStream,
        peer: SocketAddr,
        quiet: bool,
    },
    Failed(IoFailure),
}

impl Dial {
    /// Will try `addrs` in their order, once asked for its [`Dial::progress`].
    pub(super) fn new(
        key: ConnKey,
        mut addrs: Vec<SocketAddr>,
        user_timeout: Option<Duration>,
        now: Instant,
    ) -> Dial {
        addrs.truncate(token::ATTEMPTS);
        Dial {
            key,
            addrs,
            next: 0,
            next_at: now,
            give_up: now + DIAL_TIMEOUT,
            attempts: Vec::new(),
            failures: Failures::default(),
            user_timeout,
        }
    }

    /// Keeps what the system said about attempt `number`.
    pub(super) fn latch(&mut self, number: usize, event: &Event) {
        let plain = event.is_writable()
            && !event.is_readable()
            && !event.is_error()
            && !event.is_read_closed()
            && !event.is_write_closed();
        let linux = cfg!(any(target_os = "linux", target_os = "android"));
        for attempt in &mut self.attempts {
            if attempt.number == number {
                attempt.stirred = Some(match plain && linux {
                    true => Stirred::Standing,
                    false => Stirred::Unclear,
                });
            }
        }
    }

    /// Has the attempts end in RST when they are dropped: one may stand already, unseen.
    pub(super) fn reset_on_close(&self) {
        for attempt in &self.attempts {
            reset_on_close(&attempt.stream);
        }
    }

    /// Looks at what stirred, and starts what is due.
    pub(super) fn progress(&mut self, registry: &Registry, now: Instant) -> Progress {
        if let Some((attempt, quiet)) = self.look() {
            return Progress::Connected {
                stream: attempt.stream,
                peer: attempt.addr,
                quiet,
            };
        }
        if now >= self.give_up {
            for attempt in &self.attempts {
                let error = io::Error::new(io::ErrorKind::TimedOut, "no answer");
                self.failures.add(attempt.addr, &error);
            }
            return Progress::Failed(self.failures.sum());
        }
        while self.next < self.addrs.len() && (self.attempts.is_empty() || now >= self.next_at) {
            self.start_next(registry);
            self.next_at = now + DIAL_NEXT_AFTER;
        }
        if self.attempts.is_empty() {
            return Progress::Failed(self.failures.sum());
        }
        if self.next < self.addrs.len() {
            return Progress::Pending(self.next_at.min(self.give_up));
        }
        Progress::Pending(self.give_up)
    }

    /// The attempt that stands, if one does, and whether it is quiet; those that failed are struck
    /// off.
    fn look(&mut self) -> Option<(Attempt, bool)> {
        let mut at = 0;
        while at < self.attempts.len() {
            let outcome = match self.attempts[at].stirred.take() {
                None => Ok(false),
                Some(Stirred::Standing) => return Some((self.attempts.swap_remove(at), true)),
                Some(Stirred::Unclear) => standing(&self.attempts[at].stream),
            };
            match outcome {
                Ok(true) => return Some((self.attempts.swap_remove(at), false)),
                Ok(false) => at += 1,
                Err(error) => {
                    let attempt = self.attempts.swap_remove(at);
                    self.failures.add(attempt.addr, &error);
                }
            }
        }
        None
    }

    fn start_next(&mut self, registry: &Registry) {
        let (number, addr) = (self.next, self.addrs[self.next]);
        self.next += 1;
        match self.start(registry, number, addr) {
            Ok(stream) => self.attempts.push(Attempt {
                number,
                addr,
                stream,
                stirred: None,
            }),
            Err(error) => self.failures.add(addr, &error),
        }
    }

    fn start(&self, registry: &Registry, number: usize, addr: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(addr)?;
        set_nodelay(&stream)?;
        if !addr.ip().is_loopback() {
            // What is for real lines would only cost calls here.
            set_notsent_lowat(&stream);
            if let Some(span) = self.user_timeout {
                set_user_timeout(&stream, span);
            }
        }
        let token = token::of(Class::Conn, self.key, number);
        stream.register(registry, token, interest())?;
        Ok(stream)
    }
}

/// Whether a connect is through: `false` while it still runs.
fn standing(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// What went wrong with each address, for one sentence in the end.
#[derive(Debug, Default)]
struct Failures {
    kind: Option<io::ErrorKind>,
    text: String,
}

impl Failures {
    fn add(&mut self, addr: SocketAddr, error: &io::Error) {
        // Whatever others said: with a descriptor it might have gone well.
        if self.kind != Some(io::ErrorKind::QuotaExceeded) {
            self.kind = Some(kind(error));
        }
        if !self.text.is_empty() {
            self.text.push_str("; ");
        }
        self.text.push_str(&format!("{addr}: {}", sentence(error)));
    }

    fn sum(&mut self) -> IoFailure {
        IoFailure {
            kind: self.kind.unwrap_or(io::ErrorKind::NotFound),
            text: std::mem::take(&mut self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use mio::{Events, Poll};

    use super::*;
    use crate::table::Key;

    fn address(listener: &TcpListener) -> SocketAddr {
        listener.local_addr().unwrap()
    }

    /// An address that refuses.
    fn refusing() -> SocketAddr {
        address(&TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// A listener whose queue is full, so that nobody answers a connect.
    fn silent() -> (TcpListener, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: listen(2) on an open socket, to shorten its queue.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let streams = (0..4).map(|_| TcpStream::connect(address(&listener)).unwrap());
        let streams = streams.collect();
        (listener, streams)
    }

    fn dial(addrs: Vec<SocketAddr>) -> (Poll, Dial) {
        let dial = Dial::new(Key::unpack(1 << 32 | 1), addrs, None, Instant::ZERO);
        (Poll::new().unwrap(), dial)
    }

    /// Goes on until the dial is decided, with `now` standing still.
    fn decide(poll: &mut Poll, dial: &mut Dial, now: Instant) -> Progress {
        let mut events = Events::with_capacity(8);
        loop {
            match dial.progress(poll.registry(), now) {
                Progress::Pending(_) => {}
                decided => return decided,
            }
            poll.poll(&mut events, Some(Duration::from_secs(20)))
                .unwrap();
            assert!(!events.is_empty(), "nothing stirs");
            for event in &events {
                dial.latch(token::attempt(event.token()), event);
            }
        }
    }

    #[test]
    fn a_dial_that_failed_for_want_of_descriptors_says_so_whatever_else_failed() {
        let addr = refusing();
        let (none, refused) = (libc::EMFILE, libc::ECONNREFUSED);
        for order in [[none, refused], [refused, none]] {
            let mut failures = Failures::default();
            for number in order {
                failures.add(addr, &io::Error::from_raw_os_error(number));
            }
            assert!(failures.sum().is_shortage(), "{order:?}");
        }
    }

    #[test]
    fn a_refusing_address_passes_the_turn_on_at_once() {
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut poll, mut dial) = dial(vec![refusing(), refusing(), address(&good)]);
        match decide(&mut poll, &mut dial, Instant::ZERO) {
            Progress::Connected { peer, .. } => assert_eq!(peer, address(&good)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_silent_address_is_raced_by_the_next_after_a_moment() {
        let (full, _streams) = silent();
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut poll, mut dial) = dial(vec![address(&full), address(&good)]);
        let Progress::Pending(next) = dial.progress(poll.registry(), Instant::ZERO) else {
            panic!("decided too early");
        };
        assert_eq!(next, Instant::ZERO + DIAL_NEXT_AFTER);
        assert_eq!(dial.attempts.len(), 1);
        match decide(&mut poll, &mut dial, next) {
            Progress::Connected { peer, .. } => assert_eq!(peer, address(&good)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn in_the_end_each_address_is_named_with_its_reason() {
        let (full, _streams) = silent();
        let bad = refusing();
        let (mut poll, mut dial) = dial(vec![bad, address(&full)]);
        let end = Instant::ZERO + DIAL_TIMEOUT;
        loop {
            match dial.progress(poll.registry(), Instant::ZERO) {
                Progress::Pending(until) if until == end => break,
                Progress::Pending(_) => {}
                other => panic!("{other:?}"),
            }
            let mut events = Events::with_capacity(8);
            poll.poll(&mut events, Some(Duration::from_secs(20)))
                .unwrap();
            for event in &events {
                dial.latch(token::attempt(event.token()), event);
            }
        }
        let Progress::Failed(why) = dial.progress(poll.registry(), end) else {
            panic!("not failed");
        };
        assert_eq!(why.kind, io::ErrorKind::TimedOut);
        let full = address(&full);
        assert_eq!(
            why.text,
            format!("{bad}: Connection refused; {full}: no answer")
        );
    }
}
