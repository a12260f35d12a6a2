//! What streams, connections and visitors are called, for all parts alike.

use std::net::IpAddr;

use crate::limits::MAX_LANES;
use crate::machine::ConnKey;
use crate::table::Key;

/// Marks keys that name exchanges.
#[derive(Debug)]
pub(super) enum ExchangeMark {}
/// Our name for what hangs on a stream.
pub(super) type ExchangeKey = Key<ExchangeMark>;

/// Names of connections below this number are lanes'. One more generation of them may be saying
/// goodbye.
pub(super) const LANE_CONNS: usize = 2 * MAX_LANES;

/// For whom a bound is shared: one address, which for IPv6 is a network of 2^64 of them, since any
/// host has so many. `None` is everybody of whom the kit does not tell.
pub(super) type Origin = Option<IpAddr>;

/// Whether a connection is one to the kit; else it is to a local server.
pub(super) fn is_lanes(conn: ConnKey) -> bool {
    conn.index() < LANE_CONNS
}
