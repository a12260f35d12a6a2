//! Giving a lane up for another one while others of its session are heard (PROTOCOL §9).

use std::time::Duration;

use super::{CLIENT_KEEPALIVE_MIN, PROMISE_MIN};

/// How long a lane that carries streams may be silent before it is asked for a sign of life, where
/// there are others to go to.
pub const ASK_AFTER: Duration = Duration::from_millis(500);
/// How long the answer may take, at least.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// How many round trips of the lane it may take, if that is longer.
pub const ANSWER_ROUND_TRIPS: u32 = 4;
/// How long it may take, at most: each time in vain doubles it, as long as nothing new was
/// acknowledged.
pub const ANSWER_WITHIN_MAX: Duration = Duration::from_secs(10);
/// How often somebody looks whether others are heard while an answer is awaited, in parts of what
/// it may take.
pub const LOOKS_AN_ANSWER: u32 = 4;

const _: () = assert!(ANSWER_WITHIN.as_millis() < ANSWER_WITHIN_MAX.as_millis());
const _: () = assert!(CLIENT_KEEPALIVE_MIN.as_millis() < ASK_AFTER.as_millis());
const _: () = assert!(ASK_AFTER.as_millis() <= PROMISE_MIN.as_millis());
