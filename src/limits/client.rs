//! The client: the laptop's side (bounds of ours).

use std::time::Duration;

use super::*;

/// The shortest silence after which a client may look for its kit.
pub const CLIENT_KEEPALIVE_MIN: Duration = Duration::from_millis(100);
/// The longest: proxies drop connections that are quiet for a minute.
pub const CLIENT_KEEPALIVE_MAX: Duration = Duration::from_secs(60);
/// Bytes of a token, at most.
pub const CLIENT_TOKEN_BYTES: usize = 4096;
/// Bytes of a file with certificates, at most.
pub const CLIENT_CA_BYTES: usize = 1024 * 1024;
/// Bytes of a binding's label, of the host that a pull listens on, and of a `Host` by name, at most
/// each: a name of DNS fits, and a BIND with all of them is far smaller than a frame.
pub const CLIENT_NAME_BYTES: usize = 255;
/// Bytes of a session's id, and of a ticket's nonce, at most each: a client says them again, all
/// its tickets in one frame, whatever its kit made them of. Ours have 38 and 32.
pub const MAX_SESSION_ID: usize = 128;
/// See [`MAX_SESSION_ID`].
pub const MAX_NONCE: usize = 256;
/// Bytes of a Unix socket's path, at most, without the NUL that ends it for the system.
pub const UNIX_PATH: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    107
} else {
    103
};
/// How long a Unix socket whose server does not accept as fast as others dial is left alone: the
/// system does not tell when there is room.
pub const KNOCK_AGAIN: Duration = Duration::from_millis(20);
/// Ports that a client forwards to the container, at most.
pub const CLIENT_FORWARDS: usize = 64;
/// Ports behind the one asked for that are tried where it is taken; also tries to open one again
/// that another machine of ours has just let go.
pub const FORWARD_PORTS_TRIED: u16 = 20;
/// How long such a try waits.
pub const LISTEN_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Bindings that a client keeps, at most; a kit allows fewer.
pub const CLIENT_BINDINGS: usize = 64;
/// Local connections at once, at most. More than all the streams that a session may have, with the
/// last eighth kept for addresses that hold few, so that the real bound is the descriptors that
/// there are. Past it idle ones are closed; then who holds least is served first, and
/// everybody else hears after [`SLOT_WAIT`] that there is none.
pub const UPSTREAMS: usize = CLIENT_STREAMS + CLIENT_STREAMS / 4;
/// How long a stream waits for a local connection, at most: a visitor is answered within a second.
pub const SLOT_WAIT: Duration = Duration::from_millis(600);
/// How long a client makes do with the descriptors it has once the system had no more, before it
/// tries some more.
pub const SHORT_FOR: Duration = Duration::from_millis(250);
/// Descriptors that it leaves free then, for its connections to the kit.
pub const SHORT_SPARE: usize = 2;
/// Bytes of requests' heads that a client keeps at once, as they came: those that wait for a local
/// connection or an answer. Past it streams are refused, first those of the address that has most.
pub const CLIENT_HEADS: usize = 16 * 1024 * 1024;
/// How long the first refusals are gathered before they are told.
pub const REFUSALS_GATHER: Duration = Duration::from_millis(500);
/// How often they are told, at most: one line for a flood of them.
pub const REFUSALS_EVERY: Duration = Duration::from_secs(10);
/// Idle connections that are kept to one local server, at most.
pub const POOL_IDLE: usize = 128;
/// How long an idle connection to a local server is kept: less than the 5 s after which common
/// servers close it.
pub const POOL_IDLE_FOR: Duration = Duration::from_secs(4);
/// How old an idle connection may be for a request that cannot be sent twice.
pub const POOL_FRESH_FOR: Duration = Duration::from_secs(1);
/// Room for one read of a local server's head or chunk framing, in bytes.
pub const UPSTREAM_READ: usize = 16 * 1024;
/// Bytes of the fields that a user has put into each request to a local server, at most.
pub const OWN_FIELDS_BYTES: usize = 8 * 1024;
/// URLs of one kit that a client may be given.
pub const CLIENT_WAYS: usize = 16;
/// After so long a way to the kit that failed is as good as the others. Each failure after another
/// makes it twice as long, up to [`WAY_FORGIVEN_MAX`]: a lane that is tried as seldom would else
/// come back to the same dead way each time.
pub const WAY_FORGIVEN_AFTER: Duration = Duration::from_secs(30);
/// The longest such time.
pub const WAY_FORGIVEN_MAX: Duration = Duration::from_secs(3600);
/// After so long without a failure idle lanes go back to a way that has worked before: a try that
/// fails costs a lane for a moment.
pub const WAY_SHARES_AFTER: Duration = Duration::from_secs(300);
/// For so long a way that led to another kit than the session's is not tried again. Each time that
/// it does so again it is twice as long, up to [`WAY_ELSEWHERE_MAX`]: while a kit hands over to its
/// successor one address leads to both.
pub const WAY_ELSEWHERE_FOR: Duration = Duration::from_secs(5);
/// The longest such time.
pub const WAY_ELSEWHERE_MAX: Duration = Duration::from_secs(300);
/// The first pause between two tries to reach a kit; it doubles up to [`RETRY_MAX`].
pub const RETRY_FIRST: Duration = Duration::from_millis(250);
/// The longest pause between two tries to reach a kit.
pub const RETRY_MAX: Duration = Duration::from_secs(10);
/// The longest pause while a session may still be there to come back to ([`COMING_BACK`]).
pub const RETRY_SOON: Duration = Duration::from_secs(1);
/// For so long after a loss tries are as frequent as that: a kit's usual grace.
pub const COMING_BACK: Duration = Duration::from_secs(60);
/// A session that stood for so long is tried again at once when it is lost, if it was not lost
/// over and over.
pub const STOOD_AFTER: Duration = Duration::from_secs(1);
/// A session that stood for so long has nothing to do with losses before.
pub const STABLE_AFTER: Duration = Duration::from_secs(5);
/// How long a TCP connection to a kit may take before a fresh try is better.
pub const REACH_WITHIN: Duration = Duration::from_secs(5);
/// How many tries to come back to a session are given up as soon as that also later on the way.
pub const QUICK_TRIES: u32 = 2;
/// How long each later step on the way to a kit may take otherwise: proxy, TLS, upgrade, HELLO.
pub const STEP_WITHIN: Duration = Duration::from_secs(10);
/// How long a kit may take to answer after the network changed.
pub const PROBE_WITHIN: Duration = Duration::from_millis(1200);
/// How long after it what comes may have been on its way before, in our system's buffers say, and
/// is no sign of life.
pub const STALE_WITHIN: Duration = Duration::from_millis(600);
/// What a client may promise about how often it sends (PROTOCOL §6), from and to.
pub const PROMISE_MIN: Duration = Duration::from_millis(500);
/// See [`PROMISE_MIN`].
pub const PROMISE_MAX: Duration = Duration::from_secs(30);
/// What a kit allows a promise beside three times its span.
pub const PROMISE_SLACK: Duration = Duration::from_secs(2);
/// How soon a binding is tried again that was ours before a reconnect and was refused; the pause
/// doubles up to [`REBIND_MAX`].
pub const REBIND_EVERY: Duration = Duration::from_secs(2);
/// The longest pause between two such tries.
pub const REBIND_MAX: Duration = Duration::from_secs(30);
/// For so long nothing is heard of a kit after it told of bindings that an earlier process left:
/// its visitors come with the session, and would find nobody.
pub const CLAIM_SOON: Duration = Duration::from_secs(2);
/// For so long a binding that an earlier process left waits for a user to claim it. Then the kit
/// has it back: its visitors would be answered by nobody.
pub const CLAIM_WITHIN: Duration = Duration::from_secs(30);
/// How soon a secondary lane is asked for again that did not come about; the pause doubles up to
/// [`REJOIN_MAX`].
pub const REJOIN_EVERY: Duration = Duration::from_secs(2);
/// The longest pause between two tries to join a lane.
pub const REJOIN_MAX: Duration = Duration::from_secs(30);
/// So much of a file with a client's kept session is read, in bytes.
pub const STATE_BYTES: u64 = 1024 * 1024;
/// So many files of other runs are looked through at a start.
pub const STATE_FILES: usize = 256;
/// How long streams may take to finish when the client closes.
pub const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How long the last frames may take to leave.
pub const GOODBYE_WITHIN: Duration = Duration::from_millis(500);
/// How long a half-closed stream may be idle on the client's side: longer than on the kit's, since
/// a response that has nothing to say for a while looks the same from here (PROTOCOL §4).
pub const CLIENT_HALF_CLOSE: Duration = Duration::from_secs(3600);
/// Bytes of a kit's that a client holds beyond its session's first window, at most: credit that
/// went back early, and windows that grew (PROTOCOL §5).
pub const CLIENT_BEYOND_WINDOWS: u32 = 64 * 1024 * 1024;
/// Bytes for a kit that a client keeps until they are acknowledged, on all lanes of a session
/// together, at most (PROTOCOL §9): what was asked for is lowered to it.
pub const CLIENT_KEPT: u32 = 32 * 1024 * 1024;
/// Streams that a client takes at once, at most, whatever the kit says that it may open.
/// It costs nothing until they come; the kit's own bound is 1024.
pub const CLIENT_STREAMS: usize = 16 * 1024;
/// Sockets for datagrams that a client has open at once, at most, one for each stream of them.
pub const CLIENT_SOCKETS: usize = CLIENT_STREAMS / 16;
/// How long the ends of streams are gathered before they are told.
pub const TELL_AFTER: Duration = Duration::from_millis(20);
/// So many of them are told at once.
pub const EVENTS_AT_ONCE: usize = 256;
/// Buffers of requests that are kept for the next ones: 16 KiB each.
pub const SPARE_BUFFERS: usize = 64;
/// Events that are kept while nobody takes them.
pub const EVENTS_KEPT: usize = 4096;

const _: () = assert!(MAX_LANES < UPSTREAMS);
const _: () = assert!(CLIENT_KEPT / MAX_LANES as u32 >= MIN_REPLAY_BUFFER);
const _: () = assert!(CLIENT_KEPT <= CLIENT_BEYOND_WINDOWS / 2);
// Escaped, an octet takes six, and a token comes with the id.
const _: () = assert!(MAX_LANES * 6 * (MAX_NONCE + 64) <= MAX_FRAME_PAYLOAD);
const _: () = assert!(6 * (MAX_SESSION_ID + CLIENT_TOKEN_BYTES) < MAX_FRAME_PAYLOAD / 2);
const _: () = assert!(UPSTREAMS - UPSTREAMS / 8 >= CLIENT_STREAMS);
const _: () = assert!(HANDLER_AHEAD > MAX_HTTP_HEAD);
/// Handlers of this process that one session serves, at most.
pub const CLIENT_HANDLERS: u32 = 64;
/// Bytes of a kit's answer to an operator's question, at most.
pub const CLIENT_REPLY_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a request's body that a handler did not read and that are skipped, at most, so that the
/// connection can serve another request.
pub const HANDLER_SKIP: u64 = 256 * 1024;
