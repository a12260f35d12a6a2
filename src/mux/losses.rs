//! Session credit that went down with a lane (PROTOCOL §5, §7).
//!
//! DATA that was on its way when a secondary lane was lost never arrives, so no WINDOW will ever
//! give its credit back: lane by lane the session would run dry while it looks well. So both ends
//! count the DATA of each lane index, over all connections that had it since the session began.
//! With the next JOIN of that index each tells what it has received (`dataReceived`, **ours**), and
//! the other takes the difference back. The receiver has nothing to mend: to it these bytes were
//! never sent.
//!
//! Under replay (PROTOCOL §9) nothing goes down with a lane that is resumed. Where an index begins
//! anew all the same, session credit that the lane carried may be lost too: each also tells the sum
//! of WINDOW(0) that it took there (`creditReceived`), and the other gives the rest again.
//!
//! A peer that does not tell leaves the difference unknown. When such a session has run dry and
//! stays so, only a new connection helps, for it starts with full windows.

/// What a channel carried, in bytes of DATA payload.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// The sums of WINDOW(0) that left by it and came on it.
    pub(super) credit_given: u64,
    pub(super) credit_taken: u64,
    /// A connection was lost, and the peer has not told what of `sent` it got.
    pub(super) unsettled: bool,
}

/// The peer says that it received what it cannot have received, or less than it acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub struct CannotBe;

impl Carried {
    /// How many bytes never arrived where the peer has received so many.
    pub(super) fn missing(&self, received: u64) -> Result<u32, CannotBe> {
        let lost = self.sent.checked_sub(received).ok_or(CannotBe)?;
        u32::try_from(lost).map_err(|_| CannotBe)
    }

    /// What never arrived was taken back.
    pub(super) fn settle(&mut self, received: u64) {
        self.sent = received;
        self.unsettled = false;
    }

    /// The connection was lost.
    pub(super) fn lost(&mut self) {
        self.unsettled = self.sent > 0;
    }
}
