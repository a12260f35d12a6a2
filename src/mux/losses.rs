//! Session credit that went down with a lane (PROTOCOL §5, §7).
//!
//! DATA that was on its way when a secondary lane was lost never arrives, so no WINDOW will ever
//! give its credit back: lane by lane the session would run dry while it looks well. So both ends
//! count the DATA of each lane index, over all connections that had it since the session began.
//! With the next JOIN of that index each tells what it has received (`dataReceived`, **ours**), and
//! the other takes the difference back. The receiver has nothing to mend: to it these bytes were
//! never sent.
//!
//! A peer that does not tell leaves the difference unknown. When such a session has run dry and
//! stays so, only a new connection helps, for it starts with full windows.

use crate::clock::Instant;
use crate::limits::CREDIT_LOST_AFTER;
use crate::mux::session::Session;

/// What a channel carried, in bytes of DATA payload.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// A connection was lost, and the peer has not told what of `sent` it got.
    unsettled: bool,
}

impl Carried {
    /// The connection was lost.
    pub(super) fn lost(&mut self) {
        self.unsettled = self.sent > 0;
    }
}

/// The peer says that it received what it cannot have received, or less than it acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub struct CannotBe;

impl<T: Copy> Session<T> {
    /// Bytes of DATA that have come on this lane index so far, to be told with its next JOIN.
    pub fn data_received(&self, index: usize) -> u64 {
        let channel = self.channels.get(index);
        channel.map_or(0, |channel| channel.carried.received)
    }

    /// The peer joins this lane index again and tells what it has received on it; none when it does
    /// not tell. Called while no lane has the index.
    pub fn settle(&mut self, index: usize, received: Option<u64>) -> Result<(), CannotBe> {
        let Some(received) = received else {
            return Ok(());
        };
        let sent = self.channel(index).carried.sent;
        let lost = sent.checked_sub(received).ok_or(CannotBe)?;
        let lost = u32::try_from(lost).map_err(|_| CannotBe)?;
        self.send.add(lost).map_err(|_| CannotBe)?;
        let carried = &mut self.channel(index).carried;
        carried.sent = received;
        carried.unsettled = false;
        self.call_starved();
        Ok(())
    }

    /// Whether streams have waited for session credit for so long that it must have gone down with
    /// a lane whose peer does not tell what it received.
    pub fn has_run_dry(&self, now: Instant) -> bool {
        !self.line.is_empty()
            && self.channels.iter().any(|it| it.carried.unsettled)
            && now >= self.credit_moved + CREDIT_LOST_AFTER
    }
}
