//! Settling what went down with a lane (`losses.rs`) when its index is joined again.

use crate::clock::Instant;
use crate::limits::CREDIT_LOST_AFTER;
use crate::mux::session::Session;

/// The peer says that it received what it cannot have received, or less than it acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub struct CannotBe;

impl<T: Copy> Session<T> {
    /// Bytes of DATA that have come on this lane index so far, to be told with its next JOIN.
    pub fn data_received(&self, index: usize) -> u64 {
        let channel = self.channels.get(index);
        channel.map_or(0, |channel| channel.carried.received)
    }

    /// The sum of WINDOW(0) that was taken on this lane index so far, to be told likewise.
    pub fn credit_received(&self, index: usize) -> Option<u64> {
        self.terms.replay.as_ref()?;
        let channel = self.channels.get(index);
        Some(channel.map_or(0, |channel| channel.carried.credit_taken))
    }

    /// The peer joins this lane index again and tells what it has received on it, of DATA and of
    /// credit; none when it does not tell. Called while no lane has the index.
    pub fn settle(
        &mut self,
        index: usize,
        received: Option<u64>,
        credit: Option<u64>,
    ) -> Result<(), CannotBe> {
        if let (Some(credit), Some(_)) = (credit, &self.terms.replay) {
            let given = self.channel(index).carried.credit_given;
            let lost = given.checked_sub(credit).ok_or(CannotBe)?;
            let lost = u32::try_from(lost).map_err(|_| CannotBe)?;
            self.channel(index).carried.credit_given = credit;
            if lost > 0 {
                self.give_credit(lost);
            }
        }
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
