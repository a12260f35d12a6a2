//! What an operator may ask for, and how long it takes (PROTOCOL §6, §10).

use std::time::Duration;

/// Milliseconds that an operator may give the streams of a session to end (PROTOCOL §10).
pub const MAX_KILL_GRACE_MS: u64 = 5000;
/// Milliseconds they get when the operator says nothing.
pub const DEFAULT_KILL_GRACE_MS: u64 = 50;
/// How long an operator may keep an address away, at most.
pub const MAX_BAN: Duration = Duration::from_secs(24 * 60 * 60);
/// Addresses that are kept away at once, at most.
pub const MAX_BANS: usize = 256;
/// Sessions that an operator has ended whose clients, back late, are still told so, at most.
pub const MAX_KILLED_KEPT: usize = 256;
/// How long visitors wait in the backlog for laptops whose sessions a kit before has handed over.
pub const HANDED_WAITS: Duration = Duration::from_secs(5);
/// How long laptops and visitors get at most to take the last words of a kit that ends.
pub const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a kit whose successor has the ports serves visitors who were with it already.
pub const YIELDS_FOR: Duration = Duration::from_millis(250);
/// Visitors who wait for laptops that are away at once, at most.
pub const MAX_HELD_VISITORS: usize = 1024;
/// They have at most one part in so many of the places of visitors.
pub const HELD_PART: usize = 4;
/// And those at one port at most so much of that: three of four parts.
pub const HELD_AT_ONE_PORT: (usize, usize) = (3, 4);
