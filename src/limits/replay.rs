//! What is kept so that nothing is lost with a connection, and coming back with another one
//! (PROTOCOL §7, §9).

use std::time::Duration;

use super::LANE_QUEUE_SOFT;

/// Bytes of reliable frames after which the peer is told that we have them (PROTOCOL §9), and less
/// where it may have less unacknowledged.
pub const ACK_BYTES: usize = 256 * 1024;
/// Frames after which it is.
pub const ACK_FRAMES: u64 = 64;
/// How long it may not be told of one.
pub const ACK_WITHIN: Duration = Duration::from_millis(50);
/// Bytes of a lane that each side says it keeps, at least: less, and nothing is kept (PROTOCOL §9).
pub const MIN_REPLAY_BUFFER: u32 = 512 * 1024;
/// Bytes of it that are kept when nothing else was said.
pub const DEFAULT_REPLAY_BUFFER: u32 = 4 * 1024 * 1024;
/// Bytes of it that may be configured, at most.
pub const MAX_REPLAY_BUFFER: u32 = 64 * 1024 * 1024;
/// Bytes of one session that are kept, at most, however much memory there is.
pub const MOST_KEPT: u32 = 256 * 1024 * 1024;
/// How far the epochs that a kit gives out are ahead of those that the kit before it had given when
/// it was asked.
pub const EPOCHS_AHEAD: u64 = 1 << 20;
/// How long a client's streams wait for its kit, which mostly gives up long before.
pub const STREAMS_WAIT_FOR: Duration = Duration::from_secs(600);
/// How long streams that the peer opened on a lane may wait for it although we know of none: as
/// long as a kit waits for its client, if it was told nothing else.
pub const UNSEEN_WAIT_FOR: Duration = Duration::from_secs(60);
/// How long a lane may bring nothing until it counts as silent, where its peer promised to be heard
/// more often: nobody who waits for it is judged meanwhile (PROTOCOL §6, §9).
pub const LANE_SILENT_AFTER: Duration = Duration::from_secs(3);
/// Bytes in one block of what a lane sends and keeps: a few messages of bulk.
pub const REPLAY_BLOCK: usize = 256 * 1024;
/// Blocks that a busy lane may always keep for what comes next; it keeps as many as it just needed.
pub const SPARE_BLOCKS: usize = 2;
/// How long a join ticket is good (PROTOCOL §7).
pub const TICKET_LIFE: Duration = Duration::from_secs(10);
/// The same where streams wait for their lanes: their client may have several ways to try
/// (PROTOCOL §9).
pub const LONG_TICKET_LIFE: Duration = Duration::from_secs(30);
/// Tickets for one lane that are good at once, at most: clients ask every few seconds, and what was
/// given before may be on its way to be used.
pub const TICKETS_A_LANE: usize = 8;

const _: () = assert!(REPLAY_BLOCK >= LANE_QUEUE_SOFT);
