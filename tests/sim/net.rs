//! The world's wires: connections with a latency, a rate and a bound, which may freeze, vanish or
//! be reset.
//!
//! It models what a machine can see of TCP: bytes in order, FIN behind them, RST that overtakes
//! nothing but may destroy what was not read, writes that are taken until a buffer is full, and a
//! peer that is gone without anybody knowing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;

use crate::dice::Dice;

/// Who is told when something happens at an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Kit,
    Client(usize),
    Actor(usize),
    Nobody,
}

/// One end of a connection: its number, and which side.
pub type End = (usize, usize);

/// How a connection was ended by somebody else than its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    Refused,
    Reset,
    TimedOut,
}

struct Wire {
    /// Owner, and whether it has closed its end.
    ends: [(Owner, bool); 2],
    /// From the end of the same index to the other.
    ways: [Way; 2],
    latency: u64,
    /// Nanoseconds a byte.
    pace: u64,
    frozen_until: u64,
    vanished: bool,
    gone: [Option<Gone>; 2],
    pub established: bool,
    /// When whoever listens took it.
    accepted_at: Option<u64>,
    /// From then on it is reset at both ends.
    cut_at: Option<u64>,
    pub dialled: SocketAddr,
}

#[derive(Default)]
struct Way {
    flying: VecDeque<(u64, Vec<u8>)>,
    landed: VecDeque<u8>,
    /// Bytes flying or landed.
    held: usize,
    /// Bytes that were read, of which the acknowledgement cannot come through.
    unacknowledged: usize,
    bound: usize,
    last_arrival: u64,
    fin: bool,
    fin_at: Option<u64>,
    fin_landed: bool,
    reset_at: Option<u64>,
    /// The RST destroys what was not read when it lands.
    reset_destroys: bool,
    /// Nothing arrives this way until then.
    shut_until: u64,
    /// Somebody on the way has ended it: what is written later goes nowhere.
    swallowed: bool,
    /// The connection is reset behind so many more bytes.
    cut_after: Option<usize>,
}

/// A planted bug, so that the oracle can prove itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    DropByte,
    RepeatByte,
    SwapBytes,
    FinForReset,
    /// The kit says that it has taken one frame more than it has, or one less (PROTOCOL §9).
    OneMore,
    OneLess,
    /// It says what cannot be.
    NoCount,
}

/// What happens to a connection that is yet to be dialled to the kit.
#[derive(Debug, Clone, Copy)]
pub enum Misfortune {
    /// It is reset behind so many bytes from this side.
    CutAfter(usize, usize),
    /// What this side sends comes so much later.
    Late(usize, u64),
}

pub struct Net {
    /// One for each of the next connections to the kit.
    pub misfortunes: VecDeque<Option<Misfortune>>,
    pub now: u64,
    pub dice: Dice,
    wires: BTreeMap<usize, Wire>,
    next: usize,
    alarms: BinaryHeap<Reverse<(u64, End)>>,
    changed: BTreeSet<End>,
    pub listeners: BTreeMap<SocketAddr, Owner>,
    /// How many more processes have one.
    pub shared: BTreeMap<SocketAddr, u32>,
    /// Connections that wait to be accepted, and where.
    pub backlog: Vec<(SocketAddr, End)>,
    pub sabotage: Option<(Sabotage, u64)>,
    /// Connections that were sent away at the door, without a word.
    pub refused: BTreeSet<usize>,
    /// Every connection is quick, and holds little.
    pub good_links: bool,
}

/// How quick a connection is.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    pub latency: u64,
    pub pace: u64,
    pub bound: usize,
}

pub const MICRO: u64 = 1_000;
pub const MILLI: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

impl Net {
    pub fn new(dice: Dice) -> Net {
        Net {
            misfortunes: VecDeque::new(),
            now: 0,
            dice,
            wires: BTreeMap::new(),
            next: 0,
            alarms: BinaryHeap::new(),
            changed: BTreeSet::new(),
            listeners: BTreeMap::new(),
            shared: BTreeMap::new(),
            backlog: Vec::new(),
            sabotage: None,
            refused: BTreeSet::new(),
            good_links: false,
        }
    }

    /// Some quality for a connection, near or far.
    pub fn quality(&mut self, far: bool) -> Quality {
        let dice = &mut self.dice;
        let latency = match far {
            true => dice.within(MILLI, 80 * MILLI),
            false => dice.within(20 * MICRO, 300 * MICRO),
        };
        if self.good_links {
            return Quality {
                latency: latency / 4,
                pace: [1, 10][self.dice.below(2) as usize],
                bound: 16_384 + self.dice.size(64 * 1024),
            };
        }
        let dice = &mut self.dice;
        Quality {
            latency,
            pace: [1, 10, 100, 1000][dice.below(4) as usize],
            bound: 4096 + dice.size(256 * 1024),
        }
    }

    /// A connection from `owner` to whoever listens at `addr`. The answer comes after a round trip.
    pub fn dial(&mut self, owner: Owner, addr: SocketAddr, quality: Quality) -> End {
        let id = self.next;
        self.next += 1;
        let way = || Way {
            bound: quality.bound,
            ..Way::default()
        };
        let wire = Wire {
            ends: [(owner, false), (Owner::Nobody, false)],
            ways: [way(), way()],
            latency: quality.latency,
            pace: quality.pace,
            frozen_until: 0,
            vanished: false,
            gone: [None, None],
            established: false,
            accepted_at: None,
            cut_at: None,
            dialled: addr,
        };
        self.wires.insert(id, wire);
        self.alarm((id, 0), self.now + 2 * quality.latency);
        if self.is_to_kit((id, 0)) {
            match self.misfortunes.pop_front().flatten() {
                Some(Misfortune::CutAfter(side, count)) => self.cut_after((id, side), count),
                Some(Misfortune::Late(side, by)) => self.partition((id, side), self.now + by),
                None => {}
            }
        }
        (id, 0)
    }

    pub fn alarm(&mut self, end: End, at: u64) {
        self.alarms.push(Reverse((at, end)));
    }

    pub fn next_alarm(&self) -> Option<u64> {
        self.alarms.peek().map(|Reverse((at, _))| *at)
    }

    /// Lets everything happen whose time has come.
    pub fn advance(&mut self, now: u64) {
        self.now = now;
        while let Some(Reverse((at, end))) = self.alarms.peek().copied() {
            if at > now {
                return;
            }
            self.alarms.pop();
            self.arrive(end);
        }
    }

    fn arrive(&mut self, end: End) {
        let now = self.now;
        self.changed.insert(end);
        let Some(wire) = self.wires.get_mut(&end.0) else {
            return;
        };
        if !wire.established && end.1 == 0 && wire.gone[0].is_none() {
            self.establish(end);
            return;
        }
        let until = wire.frozen_until.max(wire.ways[1 - end.1].shut_until);
        if until > now {
            return self.alarm(end, until);
        }
        let cut = wire.cut_at.is_some_and(|at| at <= now);
        let vanished = wire.vanished;
        let way = &mut wire.ways[1 - end.1];
        while let Some((at, _)) = way.flying.front() {
            if *at > now {
                break;
            }
            if let Some((_, bytes)) = way.flying.pop_front()
                && !vanished
            {
                way.landed.extend(bytes);
            }
        }
        if vanished {
            return;
        }
        if way.fin_at.is_some_and(|at| at <= now) && way.flying.is_empty() {
            way.fin_landed = true;
        }
        if cut {
            wire.cut_at = None;
            return self.cut(end, Gone::Reset);
        }
        if way.reset_at.is_some_and(|at| at <= now) {
            wire.gone[end.1] = Some(Gone::Reset);
            if way.reset_destroys {
                way.held -= way.landed.len();
                way.landed.clear();
            }
        }
        let closed = wire.ends[end.1].1;
        let unwanted = closed && (!wire.ways[1 - end.1].landed.is_empty());
        if unwanted && wire.gone[1 - end.1].is_none() && wire.ways[end.1].reset_at.is_none() {
            // Bytes for an end that is closed: the kernel answers with RST.
            self.send_reset(end);
        }
    }

    fn establish(&mut self, end: End) {
        let Some(wire) = self.wires.get_mut(&end.0) else {
            return;
        };
        if wire.vanished {
            return;
        }
        match self.listeners.get(&wire.dialled) {
            Some(owner) => {
                wire.established = true;
                wire.ends[1].0 = *owner;
                let addr = wire.dialled;
                if wire.ends[0].1 {
                    // Given up before it stood.
                    wire.ends[1].1 = true;
                    return self.bury(end.0);
                }
                self.backlog.push((addr, (end.0, 1)));
            }
            None => wire.gone[0] = Some(Gone::Refused),
        }
    }

    /// A listening socket is closed. One that more processes have goes on listening.
    pub fn close_listener(&mut self, addr: SocketAddr) {
        if let Some(more) = self.shared.get_mut(&addr).filter(|more| **more > 0) {
            *more -= 1;
            return;
        }
        self.listeners.remove(&addr);
        let waiting = self.backlog.iter().filter(|(at, _)| *at == addr);
        let waiting: Vec<End> = waiting.map(|(_, end)| *end).collect();
        for end in waiting {
            self.refused.insert(end.0);
            self.reset(end);
        }
    }

    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The port that it was dialled to.
    pub fn port(&self, end: End) -> u16 {
        self.wires.get(&end.0).map_or(0, |wire| wire.dialled.port())
    }

    /// Whether it was dialled to a kit's own listener.
    pub fn is_to_kit(&self, end: End) -> bool {
        self.wires
            .get(&end.0)
            .is_some_and(|wire| wire.dialled.port() == 50)
    }

    pub fn take_changed(&mut self) -> BTreeSet<End> {
        std::mem::take(&mut self.changed)
    }

    pub fn owner(&self, end: End) -> Owner {
        self.wires
            .get(&end.0)
            .map_or(Owner::Nobody, |wire| wire.ends[end.1].0)
    }

    pub fn adopt(&mut self, end: End, owner: Owner) {
        if let Some(wire) = self.wires.get_mut(&end.0) {
            wire.ends[end.1].0 = owner;
            if end.1 == 1 {
                wire.accepted_at.get_or_insert(self.now);
            }
        }
        self.changed.insert(end);
    }

    /// Whether it ended as soon as it was accepted: nobody was there for it.
    pub fn was_sent_away(&self, end: End) -> bool {
        let wire = self.wires.get(&end.0);
        let accepted = wire.and_then(|wire| wire.accepted_at);
        self.refused.contains(&end.0) || accepted.is_some_and(|at| self.now < at + MILLI)
    }

    /// Whether nobody ever took it: there was no listener, or none any more.
    pub fn was_never_accepted(&self, end: End) -> bool {
        let wire = self.wires.get(&end.0);
        wire.is_some_and(|wire| wire.accepted_at.is_none())
    }

    /// Whether what is sent on it arrives nowhere, and nobody knows.
    pub fn has_vanished(&self, end: End) -> bool {
        self.wires.get(&end.0).is_some_and(|wire| wire.vanished)
    }

    pub fn is_established(&self, end: End) -> bool {
        self.wires.get(&end.0).is_some_and(|wire| wire.established)
    }

    pub fn readable(&self, end: End) -> usize {
        self.wires
            .get(&end.0)
            .map_or(0, |wire| wire.ways[1 - end.1].landed.len())
    }

    /// Whether the other end's FIN is the next thing to be read.
    pub fn at_fin(&self, end: End) -> bool {
        self.wires.get(&end.0).is_some_and(|wire| {
            let way = &wire.ways[1 - end.1];
            way.fin_landed && way.landed.is_empty()
        })
    }

    /// Whether the other end's FIN has come, though there may be bytes in front of it.
    pub fn fin_landed(&self, end: End) -> bool {
        let wire = self.wires.get(&end.0);
        wire.is_some_and(|wire| wire.ways[1 - end.1].fin_landed)
    }

    pub fn gone(&self, end: End) -> Option<Gone> {
        self.wires.get(&end.0).and_then(|wire| wire.gone[end.1])
    }

    pub fn read(&mut self, end: End, out: &mut [u8]) -> usize {
        let Some(wire) = self.wires.get_mut(&end.0) else {
            return 0;
        };
        let way = &mut wire.ways[1 - end.1];
        let count = out.len().min(way.landed.len());
        let (front, back) = way.landed.as_slices();
        let cut = front.len().min(count);
        out[..cut].copy_from_slice(&front[..cut]);
        out[cut..count].copy_from_slice(&back[..count - cut]);
        way.landed.drain(..count);
        way.held -= count;
        let until = wire.ways[end.1].shut_until;
        let way = &mut wire.ways[1 - end.1];
        if until > self.now {
            way.unacknowledged += count;
            self.alarm((end.0, 1 - end.1), until);
        } else {
            way.unacknowledged = 0;
            if count > 0 && !wire.vanished {
                self.changed.insert((end.0, 1 - end.1));
            }
        }
        count
    }

    /// How much a write would take now.
    pub fn room(&self, end: End) -> usize {
        let bound = self
            .wires
            .get(&end.0)
            .map_or(0, |wire| wire.ways[end.1].bound);
        bound.saturating_sub(self.held(end))
    }

    /// How much the system holds that was written.
    pub fn held(&self, end: End) -> usize {
        let wire = self.wires.get(&end.0);
        wire.map_or(0, |wire| {
            let way = &wire.ways[end.1];
            match wire.ways[1 - end.1].shut_until > self.now {
                true => way.held + way.unacknowledged,
                false => way.held,
            }
        })
    }

    /// Resets it at both ends once so many more bytes have arrived from `end`.
    pub fn cut_after(&mut self, end: End, count: usize) {
        if let Some(wire) = self.wires.get_mut(&end.0) {
            wire.ways[end.1].cut_after = Some(count);
        }
    }

    /// What was to be reset later is not.
    pub fn cut_no_more(&mut self) {
        for wire in self.wires.values_mut() {
            wire.ways.iter_mut().for_each(|way| way.cut_after = None);
        }
    }

    /// Writes; who `tries` was not told that there is room.
    pub fn write(&mut self, end: End, bytes: &[u8], tries: bool) -> usize {
        let room = self.room(end);
        let count = bytes.len().min(room);
        // A system calls a full socket writable again only when a good part of it is free.
        let least = self
            .wires
            .get(&end.0)
            .map_or(0, |wire| wire.ways[end.1].bound / 3);
        if count == 0 || (count < bytes.len() && room < least && !tries) {
            return 0;
        }
        let mut bytes = bytes[..count].to_vec();
        self.sabotage(end, &mut bytes);
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&end.0) else {
            return 0;
        };
        let way = &mut wire.ways[end.1];
        assert!(!way.fin, "bytes behind a FIN");
        if way.swallowed {
            return count;
        }
        let cut = way.cut_after.is_some_and(|left| left <= bytes.len());
        if let Some(left) = &mut way.cut_after {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        way.held += bytes.len();
        let at = way.last_arrival.max(now + wire.latency) + wire.pace * bytes.len() as u64;
        way.last_arrival = at;
        if cut {
            way.swallowed = true;
            wire.cut_at = Some(at);
        }
        way.flying.push_back((at, bytes));
        self.alarm((end.0, 1 - end.1), at);
        count
    }

    /// The planted bug: in the bytes that the kit or a client writes to its local side.
    fn sabotage(&mut self, end: End, bytes: &mut Vec<u8>) {
        let Some((kind, countdown)) = self.sabotage else {
            return;
        };
        if matches!(
            kind,
            Sabotage::OneMore | Sabotage::OneLess | Sabotage::NoCount
        ) {
            if self.owner(end) == Owner::Kit && self.is_to_kit(end) {
                miscount(bytes, kind, &mut self.dice);
            }
            return;
        }
        let local = matches!(self.owner((end.0, 1 - end.1)), Owner::Actor(_))
            && !matches!(self.owner(end), Owner::Actor(_));
        if !local || bytes.len() < 400 {
            return;
        }
        let left = countdown.saturating_sub(1);
        self.sabotage = Some((kind, left));
        if left > 0 {
            return;
        }
        let at = bytes.len() - 50;
        match kind {
            Sabotage::DropByte => drop(bytes.remove(at)),
            Sabotage::RepeatByte => bytes.insert(at, bytes[at]),
            Sabotage::SwapBytes => bytes.swap(at, at + 1),
            _ => return,
        }
        self.sabotage = None;
    }

    /// FIN behind everything written.
    pub fn finish(&mut self, end: End) {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&end.0) else {
            return;
        };
        let way = &mut wire.ways[end.1];
        if std::mem::replace(&mut way.fin, true) {
            return;
        }
        let at = way.last_arrival.max(now + wire.latency);
        way.fin_at = Some(at);
        self.alarm((end.0, 1 - end.1), at);
    }

    /// Closes an end in order: FIN, and RST for whatever comes (or came) unread.
    pub fn close(&mut self, end: End) {
        let Some(wire) = self.wires.get_mut(&end.0) else {
            return;
        };
        wire.ends[end.1].1 = true;
        let unread = !wire.ways[1 - end.1].landed.is_empty();
        if unread {
            self.send_reset(end);
        } else {
            self.finish(end);
        }
        self.disown(end);
    }

    /// Ends both directions with RST.
    pub fn reset(&mut self, end: End) {
        if matches!(self.sabotage, Some((Sabotage::FinForReset, _))) {
            return self.close(end);
        }
        if let Some(wire) = self.wires.get_mut(&end.0) {
            wire.ends[end.1].1 = true;
        }
        self.send_reset(end);
        self.disown(end);
    }

    fn disown(&mut self, end: End) {
        if let Some(wire) = self.wires.get_mut(&end.0) {
            wire.ends[end.1].0 = Owner::Nobody;
            if !wire.established {
                wire.ends[1].1 = true;
            }
        }
        self.backlog.retain(|(_, waiting)| *waiting != end);
        self.bury(end.0);
    }

    fn send_reset(&mut self, end: End) {
        let now = self.now;
        let keeps = self.dice.once_in(2);
        let Some(wire) = self.wires.get_mut(&end.0) else {
            return;
        };
        let way = &mut wire.ways[end.1];
        // What has not left yet never will.
        while way
            .flying
            .back()
            .is_some_and(|(at, _)| *at > now + wire.latency)
        {
            if let Some((_, bytes)) = way.flying.pop_back() {
                way.held -= bytes.len();
            }
        }
        way.fin_at = way.fin_at.filter(|at| *at <= now + wire.latency);
        way.reset_destroys = !keeps;
        let at = now + wire.latency;
        way.reset_at = Some(at);
        self.alarm((end.0, 1 - end.1), at);
    }

    /// Whoever owns it is gone, process and all: its kernel resets.
    pub fn kill(&mut self, end: End, silently: bool) {
        if silently {
            if let Some(wire) = self.wires.get_mut(&end.0) {
                wire.vanished = true;
                wire.ends[end.1].1 = true;
            }
            self.disown(end);
        } else {
            self.reset(end);
        }
    }

    fn bury(&mut self, id: usize) {
        if let Some(wire) = self.wires.get(&id)
            && wire.ends.iter().all(|(_, closed)| *closed)
        {
            self.wires.remove(&id);
        }
    }

    /// The owner has read the end's end (a reset, a refusal) and forgets it.
    pub fn forget(&mut self, end: End) {
        if let Some(wire) = self.wires.get_mut(&end.0) {
            wire.ends[end.1].1 = true;
        }
        self.disown(end);
    }

    /// The ends that `owner` has.
    pub fn ends_of(&self, owner: Owner) -> Vec<End> {
        let ends = self.wires.iter().flat_map(|(id, wire)| {
            [0, 1]
                .into_iter()
                .filter(move |side| wire.ends[*side] == (owner, false))
                .map(move |side| (*id, side))
        });
        ends.collect()
    }

    /// How long the slowest of an owner's connections to the kit takes for so many bytes: at most a
    /// buffer of them is on its way at any time.
    pub fn slowest_lane(&self, owner: Owner, bytes: u64) -> u64 {
        let lanes = self.wires.values().filter(|wire| {
            wire.ends[0].0 == owner && wire.dialled.port() == 50 && wire.established
        });
        let times = lanes.map(|wire| {
            let bound = wire.ways[0].bound.max(1) as u64;
            bytes * wire.pace + bytes * wire.latency / bound
        });
        times.max().unwrap_or(0)
    }

    /// From now on nothing arrives on this connection, and nobody knows.
    pub fn vanish(&mut self, end: End) {
        if let Some(wire) = self.wires.get_mut(&end.0) {
            wire.vanished = true;
        }
    }

    /// Nothing arrives until then, and everything afterwards.
    pub fn freeze(&mut self, end: End, until: u64) {
        if let Some(wire) = self.wires.get_mut(&end.0) {
            wire.frozen_until = wire.frozen_until.max(until);
        }
    }

    /// Nothing that `end` sends arrives until then; what the other end sends does.
    pub fn partition(&mut self, end: End, until: u64) {
        if let Some(wire) = self.wires.get_mut(&end.0) {
            let way = &mut wire.ways[end.1];
            way.shut_until = way.shut_until.max(until);
        }
    }

    /// A middlebox ends what `end` sends: the other end reads FIN, and `end` is not told.
    pub fn end_on_the_way(&mut self, end: End) {
        if let Some(wire) = self.wires.get_mut(&end.0) {
            let way = &mut wire.ways[end.1];
            let lost: usize = way.flying.iter().map(|(_, bytes)| bytes.len()).sum();
            way.flying.clear();
            way.held -= lost;
            (way.swallowed, way.fin_landed) = (true, true);
            self.changed.insert(end);
            self.changed.insert((end.0, 1 - end.1));
        }
    }

    /// The network resets a connection at both ends.
    pub fn cut(&mut self, end: End, how: Gone) {
        if let Some(wire) = self.wires.get_mut(&end.0) {
            for side in [0, 1] {
                wire.gone[side] = Some(how);
                self.changed.insert((end.0, side));
            }
        }
    }

    /// The system gives up on connections that vanished.
    pub fn time_out_vanished(&mut self) {
        let vanished: Vec<usize> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.vanished)
            .map(|(id, _)| *id)
            .collect();
        for id in vanished {
            self.cut((id, 0), Gone::TimedOut);
        }
    }

    pub fn count(&self) -> usize {
        self.wires.len()
    }

    pub fn describe(&self, end: End) -> String {
        match self.wires.get(&end.0) {
            None => format!("{end:?}: buried"),
            Some(wire) => format!(
                "{end:?} to {}: ends {:?}, held {}/{}, landed {}/{}, gone {:?}, vanished {}",
                wire.dialled,
                wire.ends,
                wire.ways[0].held,
                wire.ways[1].held,
                wire.ways[0].landed.len(),
                wire.ways[1].landed.len(),
                wire.gone,
                wire.vanished
            ),
        }
    }

    pub fn describe_all(&self) -> String {
        let lines: Vec<String> = self
            .wires
            .keys()
            .map(|id| self.describe((*id, 0)))
            .collect();
        lines.join("\n")
    }
}

/// Changes what a HELLO_OK or JOIN_OK says was received.
fn miscount(bytes: &mut [u8], kind: Sabotage, dice: &mut Dice) {
    const KEY: &[u8] = b"\"received\":";
    let Some(at) = bytes.windows(KEY.len()).position(|some| some == KEY) else {
        return;
    };
    let digits = &mut bytes[at + KEY.len()..];
    let Some(end) = digits.iter().position(|it| !it.is_ascii_digit()) else {
        return;
    };
    let last = end - 1;
    match kind {
        Sabotage::OneMore if digits[last] < b'9' => digits[last] += 1,
        Sabotage::OneLess if digits[last] > b'0' => digits[last] -= 1,
        // Far more than it can have been sent.
        Sabotage::NoCount if end >= 4 && dice.once_in(2) => digits[..end].fill(b'9'),
        // Nothing, although it goes on.
        Sabotage::NoCount => bytes[at + 1..at + 9].copy_from_slice(b"recieved"),
        _ => {}
    }
}
