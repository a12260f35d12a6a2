//! Every bound of the protocol and of the process, with its unit and where it comes from.
//!
//! **The rule**: every bound says who yields when it is reached. Whoever holds most of it yields
//! first; nobody waits without a deadline and an answer; nothing that a stranger can hold is needed
//! by an operator, a laptop with the token, or another visitor.
//!
//! Bounds that depend on each other are tied together by the assertions at the end of their
//! section, so that changing one alone does not compile.

mod client;
mod failover;
mod operator;
mod replay;

use std::time::Duration;

pub use client::*;
pub use failover::*;
pub use operator::*;
pub use replay::*;

// ---- wire: messages and frames (PROTOCOL §1.1, §1.2) ----

/// Bytes in one binary WebSocket message, at most (PROTOCOL §1.1).
pub const MAX_MESSAGE: usize = 262_144;
/// Frames in one message, at most, skipped extension frames counted (PROTOCOL §1.1).
pub const MAX_FRAMES: usize = 64;
/// Bytes in one frame's payload, at most (PROTOCOL §1.1).
pub const MAX_FRAME_PAYLOAD: usize = 65_536;
/// Bytes in front of every frame's payload: type, stream id, length (PROTOCOL §1.2).
pub const FRAME_HEADER: usize = 9;

/// Bytes in one bulk DATA frame's payload. With its headers such a frame fills one segment on a
/// loopback or a large local link (MTU 65,536), where the largest frame needs a second one for its
/// last hundred bytes: one more packet, acknowledgement and wake-up for each.
pub const BULK_PAYLOAD: usize = 65_408;

const _: () = assert!(FRAME_HEADER == 1 + 4 + 4);
const _: () = assert!(BULK_PAYLOAD <= MAX_FRAME_PAYLOAD);
// A masked WebSocket header has 14 bytes, IPv6 40, TCP 20, and its timestamps 12.
const _: () = assert!(BULK_PAYLOAD + FRAME_HEADER + 14 + 12 + 20 + 40 <= 65_536);
const _: () = assert!(MAX_FRAME_PAYLOAD + FRAME_HEADER <= MAX_MESSAGE);
const _: () = assert!(MAX_FRAMES * FRAME_HEADER <= MAX_MESSAGE);

/// Bytes in one datagram, at most: what IPv4 has room for beside its header and that of UDP
/// (PROTOCOL §8.1).
pub const MAX_DATAGRAM: usize = 65_507;
/// Bytes of datagrams that may wait on one lane, their headers included; past it the oldest go, of
/// those that wait for their STREAM_OPEN or of the others, whichever are more (PROTOCOL §8.1).
pub const DATAGRAM_QUEUE: usize = 256 * 1024;
/// Messages of datagrams that leave while others wait, before one of these has its turn: a flood of
/// datagrams stops nobody.
pub const DATAGRAM_TURNS: usize = 16;

/// How long a peer of a UDP port may be silent before it is forgotten, unless the operator says
/// otherwise; so long one that has proven itself is safe from others (PROTOCOL §8.1).
pub const DATAGRAMS_IDLE: Duration = Duration::from_secs(60);
/// Of a session's streams, one in so many at most is one of datagrams (PROTOCOL §8.1).
pub const DATAGRAM_STREAMS: usize = 4;
/// Bytes that go back for one byte of a peer that may be another than it says (PROTOCOL §8.1).
pub const UNPROVEN_ANSWERS: u64 = 3;
/// Peers of all UDP ports together, at most: past it newcomers get no stream.
pub const MAX_PEERS: usize = 1 << 18;
/// Datagrams that are taken from one socket in a turn, before others are served.
pub const DATAGRAMS_A_TURN: usize = 64;
/// Bytes that the system is asked to hold for a socket of datagrams, in each direction: what comes
/// while others are served, at a few hundred MBit/s. It may give less.
pub const DATAGRAM_SOCKET: i32 = 2 * 1024 * 1024;
/// Datagrams that wait for the look-up of whom they are for, at most; the oldest go.
pub const DATAGRAMS_FOR_LOOKUP: usize = 16;

const _: () = assert!(MAX_DATAGRAM <= MAX_FRAME_PAYLOAD);
const _: () = assert!(MAX_DATAGRAM + FRAME_HEADER <= DATAGRAM_QUEUE);

// ---- wire: heads in STREAM_OPEN and STREAM_RESPONSE_HEAD (PROTOCOL §4, §11) ----

/// Header fields in one HTTP head, at most (PROTOCOL §11).
pub const MAX_HEADER_FIELDS: usize = 128;
/// Header fields in one head on its way between kit and client, at most: a full head and the few
/// that a kit adds (Host, three of X-Forwarded, two of an upgrade) with room for an older one's.
pub const MAX_PASSED_FIELDS: usize = MAX_HEADER_FIELDS + 8;
/// The same for a long head.
pub const MOST_PASSED_FIELDS: usize = MOST_FIELDS + 8;
/// Bytes in a visitor's request head, at most, unless the operator says otherwise (PROTOCOL §11).
pub const MAX_HTTP_HEAD: usize = 32 * 1024;
/// Bytes in any head, at most: in a local server's answer, and in what an operator may allow.
pub const LONGEST_HEAD: usize = 256 * 1024;
/// Header fields in any head, at most.
pub const MOST_FIELDS: usize = 1000;
/// Bytes and fields of a head that everybody's may have, at least: what flags may not go below.
pub const LEAST_HEAD: usize = 4 * 1024;
/// See [`LEAST_HEAD`].
pub const LEAST_FIELDS: usize = 16;
/// Bytes of JSON before STREAM_OPEN or STREAM_RESPONSE_HEAD in HEAD_PART frames, at most: the
/// longest head of plain octets, with what JSON adds to each of its fields.
pub const MAX_HEAD_PARTS: usize = LONGEST_HEAD + 16 * MOST_FIELDS;
/// Long heads whose parts one session may hold at once, at most: they come one after the other.
pub const HEADS_IN_PARTS: usize = 8;
/// HEAD_PART frames of one head, at most.
pub const HEAD_PARTS: usize = 64;

const _: () = assert!(MAX_HEAD_PARTS < HEAD_PARTS / 2 * MAX_FRAME_PAYLOAD);
const _: () = assert!(MAX_HTTP_HEAD <= LONGEST_HEAD && MAX_HEADER_FIELDS <= MOST_FIELDS);
const _: () = assert!(LEAST_HEAD <= MAX_HTTP_HEAD && LEAST_FIELDS <= MAX_HEADER_FIELDS);

/// Bytes of interim (1xx) heads that may wait for a visitor who does not read, before one more ends
/// the exchange: no credit counts heads.
pub const INTERIM_WAITING: usize = 16 * 1024;
/// Bytes of interim heads that a local server may send for one request: a hint or two of any size,
/// or a sign of life every few seconds for hours.
pub const INTERIM_HEADS: usize = 64 * 1024;

const _: () = assert!(MAX_HTTP_HEAD < MAX_FRAME_PAYLOAD);
const _: () = assert!(MAX_HTTP_HEAD < INTERIM_HEADS);

// ---- wire: credit (PROTOCOL §5) ----

/// Bytes in the smallest window that may be configured: some clients send 64 KiB only when 64 KiB
/// is free, and a quarter of a window may be withheld (PROTOCOL §5).
pub const MIN_WINDOW: u32 = 256 * 1024;
/// Bytes a stream may have in flight when nothing else was said (PROTOCOL §2).
pub const DEFAULT_STREAM_WINDOW: u32 = 1024 * 1024;
/// Bytes a session may have in flight when nothing else was said (PROTOCOL §2).
pub const DEFAULT_SESSION_WINDOW: u32 = 16 * 1024 * 1024;
/// Bytes a stream's window may grow to under `grow-windows` (PROTOCOL §5).
pub const MAX_STREAM_WINDOW: u32 = 16 * 1024 * 1024;
/// Bytes a session's window may grow to under `grow-windows` (PROTOCOL §5).
pub const MAX_SESSION_WINDOW: u32 = 64 * 1024 * 1024;

const _: () = assert!(MIN_WINDOW as usize / 4 >= MAX_FRAME_PAYLOAD);
const _: () = assert!(MIN_WINDOW <= DEFAULT_STREAM_WINDOW);
const _: () = assert!(DEFAULT_STREAM_WINDOW <= DEFAULT_SESSION_WINDOW);
const _: () = assert!(DEFAULT_STREAM_WINDOW <= MAX_STREAM_WINDOW);
const _: () = assert!(DEFAULT_SESSION_WINDOW <= MAX_SESSION_WINDOW);
const _: () = assert!(MAX_STREAM_WINDOW <= MAX_SESSION_WINDOW);

// ---- ws: WebSocket framing (RFC 6455) ----

/// Bytes in a control frame's payload, at most (RFC 6455 §5.5).
pub const MAX_WS_CONTROL: usize = 125;
/// Fragments in one WebSocket message, at most: a bound of ours, so that headers of empty fragments
/// cannot fill a lane's buffer. Proxies that cut a message again make a few dozen.
pub const MAX_WS_FRAGMENTS: usize = 1024;
/// Bytes of spent headers and control frames that may lie between a half-joined message and the
/// next frame before the decoder closes the gap: a bound of ours, large enough that closing it
/// (a move of at most `MAX_MESSAGE` bytes) stays cheap against the bytes that opened it.
pub const WS_GAP: usize = 16 * 1024;
/// Bytes a lane's receive buffer must be able to hold so that any legal message can be completed in
/// place: the message, its largest header, one control frame, and the gap between fragments.
pub const MAX_WS_BUFFERED: usize = MAX_MESSAGE + 32 * 1024;

const _: () = assert!(
    MAX_WS_BUFFERED >= MAX_MESSAGE + WS_GAP + MAX_WS_FRAGMENTS * 8 + 6 * 16 + MAX_WS_CONTROL + 14
);

// ---- http: heads and bodies (RFC 9112) ----

/// Names of other fields that the `Connection` fields of one head may list, at most: a bound of
/// ours, since every field is compared with each of them. Real traffic names one or two.
pub const MAX_CONNECTION_NAMES: usize = 16;
/// Bytes in the extensions of one chunk, at most: a bound of ours. They are skipped, never kept.
pub const MAX_CHUNK_EXTENSION: usize = 256;
/// Bytes in a body's trailers, at most: a bound of ours. Their fields are bounded as a head's are.
pub const MAX_TRAILERS: usize = 8 * 1024;

// Trailers of that size always fit a frame, however their octets are escaped in JSON.
const _: () = assert!(2 * MAX_TRAILERS + 8 * MAX_HEADER_FIELDS + 64 <= MAX_FRAME_PAYLOAD);

// A field's place in a head of the usual size is kept as 16-bit offsets, the count as a byte.
const _: () = assert!(MAX_HTTP_HEAD <= u16::MAX as usize);
const _: () = assert!(MAX_HEADER_FIELDS <= u8::MAX as usize);

// ---- mux: lanes and streams ----

/// Bytes of bulk that may wait in a lane's outbox before its streams stop reading their sockets:
/// more makes small exchanges wait behind bulk, less starves the socket (DESIGN: fairness).
pub const LANE_QUEUE_SOFT: usize = 2 * BULK_PAYLOAD;
/// Bytes that may wait in a lane's outbox before no further stream is opened on it: what bulk may
/// be, with room for the ordinary heads of a thousand streams.
pub const LANE_QUEUE_OPENS: usize = 1024 * 1024;
/// Bytes that make a lane be flushed at once; less waits until everybody who is ready was served,
/// so that small frames of many streams share a message and a system call.
pub const FLUSH_AT_ONCE: usize = 16 * 1024;
/// Bytes of answers (PONG, WINDOW) that may wait for a peer that does not read, before we stop
/// reading from it.
pub const LANE_URGENT_MAX: usize = 64 * 1024;
/// Bytes that may wait in a lane's queue before we stop reading from its peer. Bulk and the opening
/// of streams stop long before, so what fills the rest answers a peer that asks and does not read.
pub const LANE_QUEUE_MAX: usize = 2 * LANE_QUEUE_OPENS;
/// Bytes of room that a lane offers to one read, at least and at most. One bulk message a read
/// keeps the bytes in the processor's cache on their way through.
pub const LANE_READ_MIN: usize = 16 * 1024;
/// See [`LANE_READ_MIN`].
pub const LANE_READ_MAX: usize = MAX_FRAME_PAYLOAD + 64;
/// Lanes of one session, at most (PROTOCOL §7: `maxConnections` 2..=16).
pub const MAX_LANES: usize = 16;
/// Ranges of stream ids that were jumped over and may still come on another lane, at most.
pub const MAX_ID_GAPS: usize = 64;
/// How long the local side of a stream must have taken nothing at all before it may be cut, and
/// that only while others are short and memory does not suffice (PROTOCOL §5). Slow is not stalled:
/// whose system takes large steps, one at a time, has as long as one lasts at [`SLOW_READS`].
pub const CUT_STALLED_AFTER: Duration = Duration::from_secs(30);
/// The longest that such a step may last: 420 KB at [`SLOW_READS`], which is somewhat more than the
/// sixteenth that Linux waits for of a buffer that grew to its 6 MiB (tcp(7) `tcp_rmem`).
pub const CUT_STALLED_LATEST: Duration = Duration::from_secs(120);
/// Bytes a second of a local side that is slow and not stalled: 4 KB/s with some leeway.
pub const SLOW_READS: u64 = 3_500;
/// How long a stream's local side must have taken nothing before the host is asked whether the
/// peer's system takes anything, and how often it is asked again.
pub const PROBE_STILL_EVERY: Duration = Duration::from_secs(3);
/// Streams of a session of which it is asked in one sweep, at most. Each costs the host two system
/// calls.
pub const PROBES_AT_ONCE: usize = 128;
/// Session credit is gathered up to this part of the window before it goes back.
pub const SESSION_GATHERS: u32 = 8;
/// Bytes of session credit that are worth a WINDOW where the peer has none left.
pub const CLAIM_LEAST: u32 = 4 * 1024;
/// Bytes of a stream's credit that are worth a WINDOW where its session is contended.
pub const CLAIM_LEAST_OF_STREAM: u32 = 256;
/// Bytes that a sender which shares its session's credit may have outstanding on each stream as
/// long as memory suffices for giving credit back early, however many they are.
pub const EARLY_KEEPS_PIECES_OF: u32 = 64 * 1024;
/// Of what is left of a session's credit, a stream that holds nothing may always have this part.
pub const SHARE_LEAST_PART: u64 = 128;
/// Bytes that make it worth to call a stream that waits for its share.
pub const SHARE_WORTH: u32 = 16 * 1024;
/// Bytes of a peer's session credit below which it counts as used up.
pub const DRY_BELOW: u32 = 16 * 1024;
/// How long it must be used up before newcomers are refused rather than kept waiting.
pub const DRY_AFTER: Duration = Duration::from_millis(500);
/// How long streams wait for session credit before it counts as lost, where lanes were lost.
pub const CREDIT_LOST_AFTER: Duration = Duration::from_secs(30);
/// How long a stream's credit may be withheld without a word while its local side takes bytes: what
/// the peer hears of them is how it tells a slow exchange from one that stands still.
pub const PROGRESS_UNSAID: Duration = Duration::from_secs(2);
/// Streams whose progress is told in one sweep, at most; who has waited longest goes first. Peers
/// count WINDOWs ([`FLOOD_WINDOW`]).
pub const PROGRESS_AT_ONCE: usize = 128;
/// How often streams are looked over for stalls and half-closed idleness.
pub const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// How often a link is measured for windows that may grow, at most: a PING each, and peers count
/// those ([`FLOOD_PING`]).
pub const PROBE_EVERY: Duration = Duration::from_millis(250);

/// A bucket's size: how many at once, and how many more a second.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Tokens in a full bucket.
    pub burst: u32,
    /// Tokens added a second.
    pub per_second: u32,
}

/// STREAM_OPEN and RESET frames that our own streams do not explain.
pub const FLOOD_OPEN_RESET: Allowance = Allowance {
    burst: 1024,
    per_second: 200,
};
/// Streams that a client opens where it may (PROTOCOL §8): one too many is refused.
pub const HASTY_OPENS: Allowance = Allowance {
    burst: 1024,
    per_second: 200,
};
/// PING frames.
pub const FLOOD_PING: Allowance = Allowance {
    burst: 64,
    per_second: 10,
};
/// WINDOW frames that data we sent does not explain.
pub const FLOOD_WINDOW: Allowance = Allowance {
    burst: 4096,
    per_second: 500,
};
/// Session frames that want an answer, and stream frames on ids that were never given, which are
/// answered with RESET: what answers them waits in memory until the peer reads. The burst fits a
/// BIND and an UNBIND for every binding that may be configured.
pub const FLOOD_ASKING: Allowance = Allowance {
    burst: 2048,
    per_second: 100,
};
/// DATA frames without a byte.
pub const FLOOD_EMPTY_DATA: Allowance = Allowance {
    burst: 256,
    per_second: 50,
};
/// WINDOW frames that one DATA frame of ours explains: existing clients answer with two, and a
/// proxy may have cut the credit in pieces (PROTOCOL §5 asks for "that and more").
pub const WINDOWS_EARNED_PER_DATA: u32 = 4;

const _: () = assert!(LANE_READ_MIN <= LANE_READ_MAX);
// Whoever dials says what went wrong before nothing else than its time is known.
const _: () = assert!(FORWARD_WITHIN.as_millis() > 2 * DIAL_TIMEOUT.as_millis());
// Telling of progress alone never looks like a flood.
const _: () = assert!(
    PROGRESS_AT_ONCE as u128 * 1000 <= FLOOD_WINDOW.per_second as u128 * SWEEP_EVERY.as_millis()
);
// Who waits for a slow upload hears of it more than once before it gives up.
const _: () = assert!(VISITOR_GONE_AFTER.as_millis() >= 2 * PROGRESS_UNSAID.as_millis());
const _: () = assert!(LANE_QUEUE_SOFT >= MAX_FRAME_PAYLOAD + FRAME_HEADER);
const _: () = assert!(LANE_QUEUE_OPENS >= LANE_QUEUE_OPENS_LEAST);
const _: () = assert!(MIN_WINDOW as u64 * 8 <= MIN_MEMORY / 2);
const _: () = assert!(DEFAULT_SESSION_WINDOW as u64 * 8 <= DEFAULT_MEMORY / 2);
// Two peers that both wait to be read would wait for ever: what we begin ourselves must not choke.
const _: () = assert!(LANE_QUEUE_MAX / 2 >= LANE_QUEUE_OPENS);

// ---- kit: what can be configured, descriptors ----

/// Descriptors in the smallest budget: with fewer the reserves of `kit/budget.rs` would be empty.
pub const MIN_FD_BUDGET: usize = 24;
/// Descriptors in the largest budget: four times what Linux lets one process have by default.
pub const MAX_FD_BUDGET: usize = 1 << 22;
/// Sessions at once that may be configured.
pub const MAX_SESSIONS: usize = 4096;
/// Bindings of one session that may be configured.
pub const MAX_BINDINGS: usize = 1024;
/// Streams of one session at once that may be configured.
pub const MAX_STREAMS: usize = 65_536;
/// Connections that have proven nothing yet that may be configured.
pub const MAX_PRE_AUTH: usize = 4096;
/// Visitors who may go that are looked for at once when their places are wanted.
pub const YIELD_AT_ONCE: usize = 32;
/// How soon they are looked for again where there were none.
pub const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How long who has said nothing yet stays in any case: what it said may still lie in its socket.
pub const FRESH_MAY_STAY: Duration = Duration::from_millis(100);
/// How long who was never served and says nothing at all may stay where others want its place.
pub const SILENT_MAY_STAY: Duration = Duration::from_millis(400);
/// So many of one address that have said nothing yet are no browser's: more are asked for at once
/// than it opens ahead.
pub const MANY_FRESH: usize = 7;
/// One part in so many of all places is much for one address: it yields, where nobody is idle.
pub const MUCH: usize = 8;
/// Bytes of memory for what peers send, at least and at most, that may be configured, and how many
/// where nothing says how much there is.
pub const MIN_MEMORY: u64 = 4 << 20;
/// See [`MIN_MEMORY`].
pub const MAX_MEMORY: u64 = 1 << 40;
/// See [`MIN_MEMORY`].
pub const DEFAULT_MEMORY: u64 = 256 << 20;
/// Bytes of it that the program itself is reckoned to need, with its tables of connections.
pub const PROGRAM_MEMORY: u64 = 2 << 20;
/// What one session may take of that which the others leave in the pool: three of four parts.
pub const POOL_SHARE: (u64, u64) = (3, 4);
/// Bytes of memory that a lane may need: a message on its way in, bulk on its way out.
pub const LANE_MEMORY: usize = 256 * 1024;
/// Bytes that may always wait in a lane before no further stream is opened on it.
pub const LANE_QUEUE_OPENS_LEAST: usize = LANE_QUEUE_SOFT + 2 * MAX_FRAME_PAYLOAD;

// ---- reactor: what one turn may do, and how long the host waits (bounds of ours) ----

/// Events that one turn takes from the kernel: 3 KiB of memory; the rest comes with the next turn.
pub const EVENTS_A_TURN: usize = 256;
/// Connections that one turn accepts on one listener, so that a storm leaves room for others.
pub const ACCEPTS_A_TURN: usize = 16;
/// Bytes that one connection is read for in a turn, at most, whatever space the machine lends.
pub const READ_QUANTUM: usize = 256 * 1024;
/// Bytes that one connection transmits in a turn before the others get theirs; the last write may
/// go past it.
pub const WRITE_QUANTUM: usize = 256 * 1024;
/// Connections in the backlog of a listening socket; the kernel caps it at `somaxconn`.
pub const LISTEN_BACKLOG: i32 = 1024;
/// Unsent bytes that the kernel takes for one socket: enough for the line, and no queue that nobody
/// can put in another order.
pub const NOTSENT_LOWAT: i32 = 128 * 1024;
/// Seconds of silence after which an accepted connection is probed, so that a visitor whose power
/// went does not hold a descriptor for ever.
pub const KEEPALIVE_IDLE_SECS: i32 = 75;
/// Seconds between two probes.
pub const KEEPALIVE_STEP_SECS: i32 = 15;
/// Unanswered probes after which a connection is dead.
pub const KEEPALIVE_PROBES: i32 = 4;
/// How long a name may take to resolve, and then all its addresses together to connect.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an address may be silent before the next one is tried too (RFC 8305 §5).
pub const DIAL_NEXT_AFTER: Duration = Duration::from_millis(250);
/// How long a connection that a client asks for may take, look-up and dial together.
pub const FORWARD_WITHIN: Duration = Duration::from_secs(25);
/// Octets of the name of a host, at most (RFC 1035 §2.3.4).
pub const MAX_HOST: usize = 255;
/// Addresses of one name that is looked up for a machine to judge: more is no answer.
pub const MAX_FOUND: usize = 64;
/// Names that are looked up at once; each costs a thread for as long as it takes.
pub const RESOLVER_THREADS: usize = 8;
/// Requests that in-process handlers work on at once, each on a thread of its own. Others wait for
/// [`HANDLER_WAIT`] and are then refused; idle connections and slow readers hold none of them.
pub const HANDLER_THREADS: usize = 64;
/// Threads more, for reading bodies of responses: handlers that hang cannot have them.
pub const HANDLER_READERS: usize = 8;
/// How long a request waits for a thread, at least; twice as long at most.
pub const HANDLER_WAIT: Duration = Duration::from_millis(400);
/// Bytes of a response's body that are read ahead of its visitor, and of a request that are held
/// for its handler: a smaller body comes whole before the handler is asked.
pub const HANDLER_AHEAD: usize = 128 * 1024;
/// How long an idle handler thread waits for work before it ends.
pub const HANDLER_IDLE: Duration = Duration::from_secs(10);
/// Bytes thrown away before a clean close, at most, so that the kernel sends FIN and not RST.
pub const CLOSE_DRAIN: usize = 256 * 1024;
/// How far a witness clock may move against ours before it counts as a jump, and how late a turn
/// may be before it counts as one.
pub const CLOCK_JUMP: Duration = Duration::from_millis(1500);
/// How long after the first message a change of network is told: they come in bursts.
pub const NETWORK_SETTLE: Duration = Duration::from_millis(300);
/// Bytes of ciphertext that one TLS connection reads at a time.
pub const TLS_STAGE: usize = 64 * 1024;
/// How long a closed TLS connection may take to get its last records out.
pub const DEPART_WITHIN: Duration = Duration::from_secs(2);

const _: () = assert!(READ_QUANTUM >= LANE_READ_MAX);

// ---- kit: the front and its guards ----

/// Wrong tokens that cost an address nothing: people mistype.
pub const AUTH_FREE_FAILURES: u32 = 3;
/// How long the next attempt waits then; each failure doubles it.
pub const AUTH_DELAY_FIRST: Duration = Duration::from_millis(100);
/// How long an attempt waits at most, so that nobody behind the same proxy is locked out, and HELLO
/// is answered before a client gives up.
pub const AUTH_DELAY_MAX: Duration = Duration::from_secs(2);
/// One failure is forgotten after so long.
pub const AUTH_FORGET_AFTER: Duration = Duration::from_secs(10);
/// Addresses whose failures are remembered, at most.
pub const MAX_THROTTLED_PEERS: usize = 1024;
/// EXPOSE ports whose requests are counted under a label of their own; the others share one.
pub const MAX_LABELLED_BINDINGS: usize = 64;

// ---- kit: connections, visitors, bindings ----

/// Connections that the kit's table holds, at most; the descriptor budget is the real bound.
pub const MAX_CONNS: usize = 1 << 20;
/// Listening sockets, at most.
pub const MAX_LISTENERS: usize = 1 << 16;
/// How long a first request on the kit's own listener may take to come.
pub const FRONT_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent before it has to make room for another of its own address,
/// once there are as many unproven ones as may be: time for a request, or an upgrade and HELLO.
pub const PRE_AUTH_MAY_STAY: Duration = Duration::from_secs(1);
/// Connections to the kit's own listener at once that have asked nothing yet: this part of the
/// descriptors, within bounds. At the cap the oldest of the address that holds most goes for each
/// newcomer; and whoever wants a descriptor, an operator, a laptop or a visitor, may have theirs.
/// More than come in before those who spoke are read ([`ACCEPTS_A_TURN`]).
pub const HALL_PART: usize = 8;
/// See [`HALL_PART`].
pub const MIN_HALL: usize = 64;
/// See [`HALL_PART`].
pub const MAX_HALL: usize = 1024;
const _: () = assert!(MIN_HALL > 2 * ACCEPTS_A_TURN && MIN_HALL <= MAX_HALL);
/// Places before HELLO that are kept for this machine's own connections: those that come from
/// loopback without a proxy's fields.
pub const LOOPBACK_RESERVE: usize = 8;
/// How long an operator's keep-alive connection may be idle.
pub const FRONT_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a visitor's head may take (PROTOCOL §11).
pub const VISITOR_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a response may stand still, or not begin, once its visitor has sent FIN, before the
/// visitor counts as gone: who half-closes may wait for a quick answer, who aborts looks the same.
pub const VISITOR_GONE_AFTER: Duration = Duration::from_secs(5);
/// How long a visitor may take nothing of a response that waits for it. Its kernel may hold some
/// megabytes for a slow reader and take the next bytes only when a good part of them was read.
pub const VISITOR_STALLED_FOR: Duration = Duration::from_secs(300);
/// How long a visitor's keep-alive connection may be idle between requests.
pub const VISITOR_IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Bytes that are read of a visitor at once, and ahead of their use while a request is served.
pub const VISITOR_AHEAD: usize = 16 * 1024;
/// One read takes at most one part in so many of what is left of the memory for what waits.
pub const AHEAD_SHARE: usize = 256;
/// Bytes that are read of a visitor at once, at least, however much of others waits.
pub const AHEAD_LEAST: usize = 512;
/// Bytes of an unwanted request body that are read away so that the visitor gets its answer, before
/// a pause.
pub const LEAVING_DRAINS: usize = 256 * 1024;
/// How long that pause is: so many bytes in so much time are 1 MiB a second.
pub const LEAVING_PAUSE: Duration = Duration::from_millis(250);
/// How long a visitor who has his answer may go on sending.
pub const LEAVING_UPLOADS: Duration = Duration::from_secs(30);
/// How long a leaving connection's peer may take to close, from its last sign of life.
pub const LEAVING_FOR: Duration = Duration::from_secs(5);
/// How often it is looked whether the system has passed on what precedes a reset.
pub const BREAK_LOOKS: Duration = Duration::from_millis(100);
/// The first port that the kit picks for EXPOSE (PROTOCOL §3).
pub const AUTO_PORT_FIRST: u16 = 20_000;
/// The last one.
pub const AUTO_PORT_LAST: u16 = 65_534;
/// Ports that are tried before the kit gives up picking one.
pub const AUTO_PORT_TRIES: u32 = 32;
/// How long complaints of one kind are counted before their sum is told.
pub const COMPLAINTS_SUMMED: Duration = Duration::from_secs(5);
/// How soon accepting is tried again after the host could not.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(200);

// ---- the programs ----

/// Bytes from which on a freed buffer goes back to the system at once: more than those of one bulk
/// message, which come and go all the time.
pub const LARGE_BUFFER: i32 = 256 * 1024;

/// Descriptors that the process needs besides the machine's: standard streams, the poll and its
/// waker, signals, one connection that is accepted and refused, the files that tell of memory and
/// descriptors, and a few for libraries.
pub const HOST_DESCRIPTORS: usize = 16;
/// Characters of one piece of outside text in a line of the log, at most; the rest is cut.
pub const OUTSIDE_TEXT: usize = 200;
/// Characters of a whole line of the log, at most, whatever went into it.
pub const LOG_LINE: usize = 1024;
/// Bytes of log lines that wait for whoever reads them, at most. Past it the newest lines yield:
/// they are dropped and counted.
pub const LOG_WAITING: usize = 256 * 1024;
/// Bytes of the tunnel's own lines that wait for the reader of standard output, at most: those of
/// the events that a session keeps. Past it the newest yield, those about requests first.
pub const SCREEN_WAITING: usize = 2 * 1024 * 1024;
/// The part of those that lines about single requests leave to the others: one in so many.
pub const VITAL_SHARE: usize = 4;
/// Bytes of waiting lines that are written at once: what a pipe takes whole or not at all.
pub const OUTLET_PIECE: usize = 4096;
/// Bytes of room for lines that are kept when a burst of them was written.
pub const SPARE_LINES: usize = 1024;
/// How long a reader may take nothing before the end of the program no longer waits for it.
pub const OUTLET_PATIENCE: Duration = Duration::from_millis(200);
/// How long the end of the program waits for a slow reader, at most.
pub const OUTLET_LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes of stack of a thread that writes lines: it calls nothing deep.
pub const OUTLET_STACK: usize = 64 * 1024;
/// Bytes of freed memory that are worth giving back to the system.
pub const FREED_MATTERS: usize = 1024 * 1024;
/// Bytes that a visitor's connection and its stream take besides what waits on them, about.
pub const CONN_MEMORY: usize = 1024;
/// The same where few connections are left.
pub const FREED_WHEN_QUIET: usize = 64 * 1024;
/// So many are few.
pub const FEW_CONNS: usize = 64;
/// How soon: not for every connection of many.
pub const FREED_GOES_AFTER: Duration = Duration::from_secs(3);
/// Bytes in a token file, at most: an `Authorization` field must fit a head.
pub const MAX_TOKEN_FILE: usize = 4096;
/// Bytes that `hoody-tunnel health` reads, at most.
pub const MAX_HEALTH_ANSWER: usize = 64 * 1024;

/// Characters that a token should have, at least, to be no guess.
pub const TOKEN_ADVISED: usize = 16;
/// How long a pipe that a token is read from may take to give some of it.
pub const SECRET_WITHIN: Duration = Duration::from_secs(5);

const _: () = assert!(MAX_TOKEN_FILE < MAX_HTTP_HEAD);
const _: () = assert!(OUTSIDE_TEXT < LOG_LINE);
// Escaped, a character takes ten bytes.
const _: () = assert!(LOG_LINE * 10 * VITAL_SHARE < LOG_WAITING);
