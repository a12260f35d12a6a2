//! The real host: sockets, clocks, signals and TLS around one machine, on one thread.
//!
//! What it is for: to carry bytes between a [`Machine`] and the world, with no system call that the
//! traffic does not need. What it never does: decide. It knows nothing of HTTP, frames or credit.
//!
//! Order of calls: [`Reactor::new`], [`Reactor::handle`] for other threads, [`Reactor::run`] until
//! the machine says [`Command::Stop`](crate::machine::Command::Stop).
//!
//! A turn (`turn.rs`): obey commands; flush what was woken; reap what was closed; wait until the
//! next deadline, or not at all when work is posted; read the clock once; latch readiness as bits;
//! tell signals and orders; accept; serve each posted conn one quantum, and post it again when it
//! is still ready; tell deadlines.
//!
//! Invariants:
//! - Every source is registered once, edge-triggered, in both directions; every edge that was not
//!   used up stays latched, so nothing waits for an edge that will not come.
//! - After anything told, commands are drained before the next thing is told (`settle`).
//! - A conn is read only when no woken conn waits to be flushed (law 7).
//! - [`Command::Close`](crate::machine::Command::Close) wins over a Wake before it: the key is
//!   dead, and what the machine had not handed over yet is not sent.

pub mod cgroup;
mod clock;
mod conn;
mod datagrams;
mod dial;
mod entropy;
mod inherited;
mod listener;
pub mod logging;
mod network;
mod obey;
pub mod outlet;
pub mod process;
mod resolve;
mod secure;
mod signal;
mod socket;
pub mod successor;
#[cfg(feature = "client")]
mod tls;
mod token;
mod turn;
mod unix;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use mio::{Events, Poll, Waker};

use crate::clock::Instant;
use crate::limits::EVENTS_A_TURN;
use crate::machine::{ConnKey, Event, Handler, ListenerKey, Machine, SocketKey};
use crate::timers::Timers;

pub use clock::{Clock, elapsed, now};
pub use entropy::os_entropy;
pub use inherited::{Inherited, from_systemd};
pub use secure::Connector;
#[cfg(feature = "client")]
pub use tls::connector;

use conn::{Conns, Link};
use datagrams::Sockets;
use listener::Listening;
use network::Network;
use resolve::{Answer, Resolver};
use signal::Signals;

/// What a reactor is to do besides running its machine.
#[derive(Default)]
pub struct Options {
    /// Tell SIGTERM, SIGINT and SIGHUP as [`Event::Shutdown`]. Only one reactor of a process may.
    pub signals: bool,
    /// Tell SIGUSR2 as [`Event::Upgrade`], where signals are told.
    pub upgrades: bool,
    /// Listening sockets that somebody else has opened.
    pub inherited: Vec<Inherited>,
    /// Tell changed routes and addresses, and waking up at once, as [`Event::Disturbed`].
    pub watch_network: bool,
    /// Give a dialled connection up when what was sent stays unacknowledged for so long (Linux).
    pub user_timeout: Option<Duration>,
    /// Whom [`DialTarget::Handler`](crate::machine::DialTarget::Handler) reaches, by number.
    pub handlers: Vec<Handler>,
    /// Makes TLS connections for [`Command::StartTls`](crate::machine::Command::StartTls).
    pub tls: Option<Connector>,
}

/// Runs one machine.
pub struct Reactor<M: Machine> {
    machine: M,
    poll: Poll,
    events: Events,
    clock: Clock,
    now: Instant,
    /// The second of the wall clock that the machine knows.
    dated: Option<u64>,
    turn: u64,
    stopped: bool,
    conns: Conns,
    /// At the index that the machine's key has.
    listeners: Vec<Option<Listening>>,
    sockets: Sockets,
    /// Sockets to receive from in this turn or the next.
    receiving: VecDeque<SocketKey>,
    /// Where a datagram is received.
    datagram_space: Vec<u8>,
    /// Sockets that the machine has not asked for yet, or may ask for again.
    inherited: Vec<Inherited>,
    /// Conns with something to transmit, in the order of their Wakes.
    woken: VecDeque<ConnKey>,
    /// Conns to flush once everybody else was served, before the host waits.
    woken_last: Vec<ConnKey>,
    /// Conns to serve in this turn or the next.
    posted: VecDeque<ConnKey>,
    /// Listeners to accept from in this turn or the next.
    accepting: VecDeque<ListenerKey>,
    /// What became of commands, to be told after the drain.
    news: VecDeque<Event>,
    notices: Vec<M::Notice>,
    /// What was closed in this turn.
    reaped: Vec<Link>,
    dial_timers: Timers<ConnKey>,
    resolver: Resolver,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    /// Connections inside this process that have news.
    stirred: (mpsc::Sender<ConnKey>, mpsc::Receiver<ConnKey>),
    handlers: Vec<Handler>,
    signals: Option<Signals>,
    network: Option<Network>,
    user_timeout: Option<Duration>,
    tls: obey::TlsState,
    inbox: mpsc::Receiver<Inbox<M::Order>>,
    handle: Handle<M::Order>,
}

/// What other threads tell the loop.
enum Inbox<O> {
    Order(O),
    Shutdown,
}

impl<M: Machine> Reactor<M> {
    /// A reactor that will run `machine`.
    pub fn new(machine: M, options: Options) -> io::Result<Reactor<M>> {
        signal::ignore_sigpipe()?;
        let poll = Poll::new()?;
        let registry = poll.registry();
        let (sender, inbox) = mpsc::channel();
        let handle = Handle {
            sender,
            bell: Arc::new(Bell {
                waker: Waker::new(registry, token::host(token::WAKER))?,
                rung: AtomicBool::new(false),
            }),
        };
        let signals = match options.signals {
            true => Some(Signals::catch(registry, options.upgrades)?),
            false => None,
        };
        let network = options.watch_network.then(|| Network::watch(registry));
        let clock = Clock::new();
        Ok(Reactor {
            machine,
            now: clock.now(),
            dated: None,
            clock,
            poll,
            events: Events::with_capacity(EVENTS_A_TURN),
            turn: 0,
            stopped: false,
            conns: Conns::default(),
            listeners: Vec::new(),
            sockets: Sockets::default(),
            receiving: VecDeque::new(),
            datagram_space: Vec::new(),
            inherited: options.inherited,
            woken: VecDeque::new(),
            woken_last: Vec::new(),
            posted: VecDeque::new(),
            accepting: VecDeque::new(),
            news: VecDeque::new(),
            notices: Vec::new(),
            reaped: Vec::new(),
            dial_timers: Timers::new(),
            resolver: Resolver::default(),
            answers: mpsc::channel(),
            stirred: mpsc::channel(),
            handlers: options.handlers,
            signals,
            network,
            user_timeout: options.user_timeout,
            tls: obey::TlsState::new(options.tls),
            inbox,
            handle,
        })
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle<M::Order> {
        self.handle.clone()
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Runs until the machine says Stop. `on_notice` gets what the machine notifies, once a turn.
    pub fn run(&mut self, mut on_notice: impl FnMut(M::Notice)) -> io::Result<()> {
        self.run_with(|_, notice| on_notice(notice))
    }

    /// The same; `on_notice` also gets the reactor, to look at.
    pub fn run_with(&mut self, mut on_notice: impl FnMut(&Self, M::Notice)) -> io::Result<()> {
        while !self.stopped {
            self.turn(&mut on_notice)?;
        }
        // What was woken and notified in the turn that ended with Stop.
        self.flush_woken();
        self.hand_out(&mut on_notice);
        self.depart()
    }

    fn hand_out(&mut self, on_notice: &mut impl FnMut(&Self, M::Notice)) {
        for notice in std::mem::take(&mut self.notices) {
            on_notice(self, notice);
        }
    }

    /// All listening sockets, those of datagrams that are for whoever comes, and those that nobody
    /// has asked for: the address of each, and whether
    /// somebody else keeps it open too.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketAddr, BorrowedFd<'_>, bool)> {
        let ours = self.listeners.iter().flatten();
        let ours = ours.filter(|it| !it.stays);
        let ours =
            ours.filter_map(|it| Some((it.socket.local_addr().ok()?, it.socket.as_fd(), false)));
        let datagrams = self.sockets.iter().filter(|it| !it.stays);
        let datagrams = datagrams.filter_map(|it| {
            let socket = it.socket()?;
            Some((socket.local_addr().ok()?, socket.as_fd(), false))
        });
        let ours = ours.chain(datagrams);
        ours.chain(self.inherited.iter().map(Inherited::shown))
    }
}

/// Talks to a running reactor from any thread.
pub struct Handle<O> {
    sender: mpsc::Sender<Inbox<O>>,
    bell: Arc<Bell>,
}

/// The reactor that a handle talked to is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl<O> Handle<O> {
    /// Has the machine told `order`.
    pub fn send(&self, order: O) -> Result<(), Gone> {
        self.tell(Inbox::Order(order))
    }

    /// Asks for a graceful end, as a signal does: [`Event::Shutdown`].
    pub fn shutdown(&self) -> Result<(), Gone> {
        self.tell(Inbox::Shutdown)
    }

    fn tell(&self, message: Inbox<O>) -> Result<(), Gone> {
        self.sender.send(message).map_err(|_| Gone)?;
        self.bell.ring();
        Ok(())
    }
}

// Written by hand: a derive would ask `O` for Clone too.
impl<O> Clone for Handle<O> {
    fn clone(&self) -> Self {
        Handle {
            sender: self.sender.clone(),
            bell: Arc::clone(&self.bell),
        }
    }
}

impl<O> std::fmt::Debug for Handle<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the tunnel has ended")
    }
}

impl std::error::Error for Gone {}

/// Wakes the loop, once for any number of messages.
struct Bell {
    waker: Waker,
    rung: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // It fails only when the loop is gone, and then nobody is left to be woken.
            let _ = self.waker.wake();
        }
    }

    /// Called by the loop before it looks into the inbox, so that no message is missed.
    fn hush(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }
}
