//! Two sessions joined in memory: what one transmits the other receives, in any pieces.
//!
//! The harness acts like the strictest host there may be: a lane is flushed only after a wake named
//! it, a sender tries again only after a wake named it, a lane is read only while it lends room. So
//! a wake that is lost is a transfer that never ends, and [`Pair::run`] stopping is the proof. All
//! that leaves is decoded again by an onlooker that holds it to the limits of the wire.

mod bounds;
mod channels;
mod connected;
mod credit;
mod datagrams;
mod faults;
mod keeping;
mod lanes;
mod law;
mod line;
mod one_lane;
mod order;
mod outgoing;
mod overdue;
mod parts;
mod relieving;
mod replay;
mod shares;
mod time;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::limits::MAX_LANES;
use crate::machine::ConnKey;
use crate::mux::{Channel, Incoming, Session, Side, StreamKey, Terms, Transport, Violation, Wake};
use crate::table::Key;
use crate::wire::code::Code;
use crate::wire::frame::FrameType;
use crate::wire::message::FrameDecoder;
use crate::ws::{Role, WsDecoder, WsEvent, WsStep};

/// How the wire cuts what goes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Whole,
    SingleBytes,
    Random(u64),
}

/// What an end was told, by stream id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Control(FrameType, Vec<u8>),
    Opened(u32, Vec<u8>),
    Head(u32, Vec<u8>),
    Trailers(u32, Vec<u8>),
    Connected(u32, Vec<u8>),
    Eof(u32),
    Reset(u32, Code, bool),
    Closed(Option<u16>),
}

/// A frame that left an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    pub lane: usize,
    pub kind: FrameType,
    pub id: u32,
    pub len: usize,
}

/// What a stream still has to send.
#[derive(Debug)]
struct Source {
    key: StreamKey,
    bytes: Vec<u8>,
    at: usize,
    eof: bool,
}

/// One end and its local world.
pub(super) struct End {
    pub mux: Session<u32>,
    pub seen: Vec<Seen>,
    pub got: BTreeMap<u32, Vec<u8>>,
    pub datagrams: Vec<(u32, Vec<u8>)>,
    pub left: Vec<Left>,
    pub fault: Option<Violation>,
    /// Whether the local side takes all DATA at once.
    pub takes: bool,
    /// Whether its streams keep to their shares of the session's credit, as older peers do not.
    pub shares: bool,
    /// How often a sender was called.
    pub calls: usize,
    looks: usize,
    /// Streams whose local side takes nothing, whatever `takes` says.
    pub stuck: BTreeSet<u32>,
    /// DATA bytes that the local side has not taken, by stream.
    pub waiting: BTreeMap<u32, usize>,
    pub keys: BTreeMap<u32, StreamKey>,
    sources: BTreeMap<u32, Source>,
    awake: BTreeSet<usize>,
    /// Bytes on their way to the other end, by lane.
    wire: Vec<VecDeque<u8>>,
    onlookers: Vec<Onlooker>,
}

/// Decodes what a lane sends, and holds it to the protocol.
struct Onlooker {
    decoder: WsDecoder,
    buf: Vec<u8>,
    masks: BTreeSet<[u8; 4]>,
    masked: bool,
}

pub(super) struct Pair {
    pub kit: End,
    pub client: End,
    pub now: Instant,
    cut: Cut,
    /// Bytes that still get through, from the kit and from the client.
    pub lets_through: [usize; 2],
    /// Bytes that a wire holds before its sender has to wait, like a socket's buffer.
    pub wire_holds: usize,
    dice: Entropy,
}

pub(super) fn terms(side: Side) -> Terms {
    Terms {
        side,
        stream_window: 256 * 1024,
        session_window: 1024 * 1024,
        max_streams: 64,
        grow_windows: false,
        header_case: false,
        udp: false,
        trailers: false,
        forward: false,
        head_parts: 0,
        queue_opens: crate::limits::LANE_QUEUE_OPENS,
        replay: None,
    }
}

pub(super) fn conn(index: usize) -> ConnKey {
    Key::unpack(1 << 32 | index as u64)
}

/// A kit's lane that stands.
pub(super) fn kit_channel() -> Channel {
    let mut channel = Channel::default();
    channel.attach(Transport::server(conn(0), Instant::ZERO), None);
    channel
}

/// Bytes that tell where they belong.
pub(super) fn pattern(id: u32, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u32).wrapping_mul(31).wrapping_add(id) as u8 ^ (at >> 8) as u8)
        .collect()
}

impl End {
    fn new(terms: Terms, lanes: usize) -> End {
        let mut end = End {
            mux: Session::new(terms, Instant::ZERO),
            seen: Vec::new(),
            got: BTreeMap::new(),
            datagrams: Vec::new(),
            left: Vec::new(),
            fault: None,
            takes: true,
            shares: true,
            calls: 0,
            looks: 0,
            stuck: BTreeSet::new(),
            waiting: BTreeMap::new(),
            keys: BTreeMap::new(),
            sources: BTreeMap::new(),
            awake: BTreeSet::new(),
            wire: (0..MAX_LANES).map(|_| VecDeque::new()).collect(),
            onlookers: (0..MAX_LANES).map(|_| Onlooker::new(terms.side)).collect(),
        };
        for index in 0..lanes {
            end.attach(index, Instant::ZERO);
        }
        end
    }

    pub(super) fn attach(&mut self, index: usize, now: Instant) {
        let lane = self.transport(index, now);
        self.mux.attach(index, lane);
    }

    /// A connection that can carry lane `index`. What was on the wire of another one is lost.
    pub(super) fn transport(&mut self, index: usize, now: Instant) -> Transport {
        self.wire[index].clear();
        self.onlookers[index] = Onlooker::new(self.mux.terms().side);
        match self.mux.terms().side {
            Side::Kit => Transport::server(conn(index), now),
            Side::Client => Transport::client(conn(index), Entropy::from_seed(index as u64), now),
        }
    }

    /// Opens a stream that sends `bytes`, then EOF if `eof`.
    pub(super) fn open(&mut self, bytes: Vec<u8>, eof: bool, now: Instant) -> u32 {
        let key = self.mux.open(0, b"{}", now).expect("a stream");
        let id = self.mux.streams.resolve_mut(key).id;
        self.mux.streams.resolve_mut(key).tag = id;
        self.keys.insert(id, key);
        self.source(id, bytes, eof);
        id
    }

    /// Has a stream send `bytes`, then EOF if `eof`.
    pub(super) fn source(&mut self, id: u32, bytes: Vec<u8>, eof: bool) {
        let key = self.keys[&id];
        let source = Source {
            key,
            bytes,
            at: 0,
            eof,
        };
        self.sources.insert(id, source);
        self.try_sender(id, Instant::ZERO);
    }

    fn try_sender(&mut self, id: u32, now: Instant) {
        let Some(source) = self.sources.get_mut(&id) else {
            return;
        };
        let left = &source.bytes[source.at..];
        source.at += match self.shares {
            true => self.mux.send(source.key, left, now),
            false => self.mux.send_greedily(source.key, left, now),
        };
        if source.at == source.bytes.len() {
            if source.eof {
                self.mux.send_eof(source.key, now);
            }
            self.sources.remove(&id);
        }
    }

    /// Whether all that was to be sent has been handed to the session.
    pub(super) fn sent_all(&self) -> bool {
        self.sources.is_empty()
    }

    /// How much of a source was handed to the session.
    pub(super) fn sent_of(&self, id: u32) -> usize {
        self.sources.get(&id).map_or(usize::MAX, |source| source.at)
    }

    pub(super) fn reset(&mut self, id: u32, code: Code) {
        self.sources.remove(&id);
        self.waiting.remove(&id);
        self.mux.reset(self.keys[&id], code, "asked for");
    }

    /// The local side takes up to `count` bytes of a stream.
    pub(super) fn take(&mut self, id: u32, count: usize, now: Instant) {
        let waiting = self.waiting.entry(id).or_default();
        let count = count.min(*waiting);
        *waiting -= count;
        self.mux.passed_on(self.keys[&id], count, now);
    }

    fn settle(&mut self, now: Instant) {
        while let Some(wake) = self.mux.poll_wake() {
            match wake {
                Wake::Lane(key) | Wake::LaneLast(key) => {
                    self.awake.insert(key.index());
                }
                Wake::Sender(id) => {
                    self.calls += 1;
                    self.try_sender(id, now);
                }
            }
        }
        if !self.shares {
            // It stands in no line, so nobody calls it.
            let all: Vec<u32> = self.sources.keys().copied().collect();
            all.into_iter().for_each(|id| self.try_sender(id, now));
        }
        // With hundreds of streams every look takes its time.
        self.looks += 1;
        if self.mux.streams().len() < 32 || self.looks.is_multiple_of(64) {
            self.mux.check_invariants();
        }
    }

    fn polled(&mut self, lane: usize, incoming: Incoming<u32>, now: Instant) {
        let payload = |span: &std::ops::Range<usize>| self.mux.payload(lane, span).to_vec();
        match incoming {
            Incoming::Control { kind, payload: at } => {
                self.seen.push(Seen::Control(kind, payload(&at)));
            }
            Incoming::Opened {
                id,
                payload: at,
                hasty,
            } => {
                self.seen.push(Seen::Opened(id, payload(&at)));
                if hasty {
                    self.mux.refuse(lane, id, Code::RefusedStream, "hasty");
                } else if let Some(key) = self.mux.accept(lane, id, id, now) {
                    self.keys.insert(id, key);
                }
            }
            Incoming::Head {
                tag, payload: at, ..
            } => self.seen.push(Seen::Head(tag, payload(&at))),
            Incoming::Data {
                tag,
                payload: at,
                stream,
            } => {
                let bytes = payload(&at);
                self.got.entry(tag).or_default().extend_from_slice(&bytes);
                if self.takes && !self.stuck.contains(&tag) {
                    self.mux.passed_on(stream, bytes.len(), now);
                } else {
                    *self.waiting.entry(tag).or_default() += bytes.len();
                }
            }
            Incoming::Connected { tag, payload: at } => {
                self.seen.push(Seen::Connected(tag, payload(&at)));
            }
            Incoming::Trailers { tag, payload: at } => {
                self.seen.push(Seen::Trailers(tag, payload(&at)));
            }
            Incoming::Datagram { tag, payload: at } => self.datagrams.push((tag, payload(&at))),
            Incoming::Eof { tag, .. } => self.seen.push(Seen::Eof(tag)),
            Incoming::Reset {
                tag,
                code,
                violation,
                ..
            } => {
                self.sources.remove(&tag);
                self.waiting.remove(&tag);
                self.seen.push(Seen::Reset(tag, code, violation));
            }
            Incoming::Closed { code } => self.seen.push(Seen::Closed(code)),
        }
    }

    pub(super) fn was_reset(&self, id: u32) -> Option<Code> {
        self.seen.iter().find_map(|seen| match seen {
            Seen::Reset(tag, code, _) if *tag == id => Some(*code),
            _ => None,
        })
    }

    pub(super) fn count_left(&self, kind: FrameType) -> usize {
        self.left.iter().filter(|frame| frame.kind == kind).count()
    }
}

impl Onlooker {
    fn new(side: Side) -> Onlooker {
        Onlooker {
            decoder: WsDecoder::new(match side {
                Side::Kit => Role::Client,
                Side::Client => Role::Server,
            }),
            buf: Vec::new(),
            masks: BTreeSet::new(),
            masked: side == Side::Client,
        }
    }

    /// Gives the frames that were completed.
    fn look(&mut self, lane: usize, bytes: &[u8]) -> Vec<Left> {
        let mut left = Vec::new();
        self.buf.extend_from_slice(bytes);
        loop {
            let mask = self.mask();
            let step = self.decoder.next(&mut self.buf).expect("a good WebSocket");
            let WsStep::Item { consumed, event } = step else {
                return left;
            };
            if let (true, Some(mask)) = (self.masked, mask) {
                assert!(self.masks.insert(mask), "a mask was used twice");
            }
            if let WsEvent::Message(range) = event {
                let frames = FrameDecoder::new(&self.buf[range]).expect("a legal message");
                left.extend(frames.map(|frame| Left {
                    lane,
                    kind: frame.kind,
                    id: frame.stream_id,
                    len: frame.payload.len(),
                }));
            }
            self.buf.drain(..consumed);
        }
    }

    /// The mask of the frame at the front, if its header is there.
    fn mask(&self) -> Option<[u8; 4]> {
        let at = match self.buf.get(1)? & 0x7F {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        self.buf.get(at..at + 4)?.try_into().ok()
    }
}

impl Pair {
    pub(super) fn new(cut: Cut) -> Pair {
        Pair::with(cut, terms(Side::Kit), terms(Side::Client), 1)
    }

    pub(super) fn with(cut: Cut, kit: Terms, client: Terms, lanes: usize) -> Pair {
        let seed = match cut {
            Cut::Random(seed) => seed,
            _ => 0,
        };
        Pair {
            kit: End::new(kit, lanes),
            client: End::new(client, lanes),
            now: Instant::ZERO,
            cut,
            wire_holds: 256 * 1024,
            lets_through: [usize::MAX; 2],
            dice: Entropy::from_seed(seed),
        }
    }

    fn piece(&mut self, most: usize) -> usize {
        match self.cut {
            Cut::Whole => most,
            Cut::SingleBytes => most.min(1),
            Cut::Random(_) => {
                let top = if self.dice.below(4) == 0 { 20 } else { 100_000 };
                most.min(1 + self.dice.below(top) as usize)
            }
        }
    }

    fn end(&mut self, side: Side) -> (&mut End, &mut End) {
        match side {
            Side::Kit => (&mut self.kit, &mut self.client),
            Side::Client => (&mut self.client, &mut self.kit),
        }
    }

    /// Moves one piece from an end's lane to its wire. Whether anything moved.
    fn flush(&mut self, side: Side, lane: usize) -> bool {
        let (holds, piece) = (self.wire_holds, self.piece(usize::MAX));
        let now = self.now;
        let (end, _) = self.end(side);
        if !end.awake.contains(&lane) || end.wire[lane].len() >= holds {
            return false;
        }
        let room = holds - end.wire[lane].len();
        let bytes = end.mux.transmit(lane);
        if bytes.is_empty() {
            end.awake.remove(&lane);
            return false;
        }
        let bytes = bytes[..bytes.len().min(room).min(piece)].to_vec();
        end.mux.transmitted(lane, bytes.len());
        end.left.extend(end.onlookers[lane].look(lane, &bytes));
        end.wire[lane].extend(bytes);
        end.settle(now);
        true
    }

    /// Moves one piece from a wire to the other end.
    pub(super) fn deliver(&mut self, from: Side, lane: usize) -> bool {
        let let_through = self.lets_through[from as usize];
        let piece = self.piece(usize::MAX).min(let_through);
        let now = self.now;
        let (sender, end) = self.end(from);
        let wire = &mut sender.wire[lane];
        let Some(receiver) = end.mux.lanes_mut().get_mut(lane) else {
            wire.clear();
            return false;
        };
        if wire.is_empty() || end.fault.is_some() || let_through == 0 {
            return false;
        }
        let space = receiver.read_space();
        let count = space.len().min(wire.len()).min(piece);
        if count == 0 {
            return false;
        }
        let (front, back) = wire.as_slices();
        let cut = front.len().min(count);
        space[..cut].copy_from_slice(&front[..cut]);
        space[cut..count].copy_from_slice(&back[..count - cut]);
        wire.drain(..count);
        receiver.received(count, now);
        let passed = count;
        loop {
            match end.mux.poll(lane, now) {
                Ok(Some(incoming)) => end.polled(lane, incoming, now),
                Ok(None) => break,
                Err(violation) => {
                    end.fault = Some(violation);
                    break;
                }
            }
        }
        end.settle(now);
        self.lets_through[from as usize] = let_through.saturating_sub(passed);
        true
    }

    /// Has both ends act on what was done to them, and moves bytes until none can move.
    pub(super) fn run(&mut self) {
        while self.step() {}
    }

    /// One round over all lanes in both directions. Whether anything moved.
    pub(super) fn step(&mut self) -> bool {
        let now = self.now;
        self.kit.settle(now);
        self.client.settle(now);
        let mut moved = false;
        for lane in 0..MAX_LANES {
            for side in [Side::Kit, Side::Client] {
                moved |= self.flush(side, lane);
                moved |= self.deliver(side, lane);
            }
        }
        moved
    }

    /// Puts frames of the test's own on the wire, as the client would.
    pub(super) fn inject(&mut self, frames: &[(FrameType, u32, &[u8])]) {
        let mut lane = Transport::client(conn(0), Entropy::from_seed(99), self.now);
        for (kind, id, payload) in frames {
            lane.ahead.push(*kind, *id, payload);
        }
        let bytes = lane.transmit().to_vec();
        self.client.wire[0].extend(bytes);
    }

    pub(super) fn pass_time(&mut self, span: Duration) {
        self.now = self.now + span;
    }

    /// Asserts that nothing is left of what was sent: no stream, no byte, no credit.
    pub(super) fn assert_quiet(&self) {
        for end in [&self.kit, &self.client] {
            assert_eq!(end.fault, None);
            let left: Vec<u32> = end.sources.keys().copied().collect();
            assert!(left.is_empty(), "senders were forgotten: {left:?}");
            assert_eq!(end.mux.streams().len(), 0, "streams are left");
            assert_eq!(end.mux.buffered(), 0, "credit is held");
        }
    }
}
