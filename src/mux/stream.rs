//! One exchange on one lane (PROTOCOL §4).
//!
//! Its two directions end by themselves, each with an EOF. A RESET, whose ever it is, and the loss
//! of its lane take it from any state to its end at once.
//!
//! ```text
//!                  our EOF
//!        Open ────────────────► LocalDone
//!         │                         │
//!         │ the peer's EOF          │ the peer's EOF
//!         ▼                         ▼
//!     RemoteDone ─────────────►   Over ────────────────────► gone
//!                  our EOF            all bytes passed on
//! ```

use crate::clock::Instant;
use crate::mux::credit::{RecvCredit, SendCredit};
use crate::mux::room::{Called, RoomPlace, Turns};
use crate::mux::share::Place;
use crate::mux::still::Pace;

/// A stream's state. `T` is what the owner hangs on it, usually the connection it belongs to.
#[derive(Debug)]
pub struct Stream<T> {
    pub(super) id: u32,
    pub(super) tag: T,
    /// For whom it is, if anybody's share of the streams is counted.
    pub(super) holder: Option<u128>,
    /// The lane whose STREAM_OPEN it was, and that all our frames for it use (PROTOCOL §7).
    pub(super) lane: u8,
    /// The number of that STREAM_OPEN among those of ours on the lane: no datagram leaves ahead of
    /// it. 0 where it was the peer's.
    pub(super) opened: u64,
    pub(super) send: SendCredit,
    pub(super) recv: RecvCredit,
    pub(super) state: State,
    /// Our EOF will follow bytes that wait at the local side; see [`Session::local_finishes`].
    ///
    /// [`Session::local_finishes`]: crate::mux::Session::local_finishes
    pub(super) local_finishes: bool,
    /// What its sender waits for, if it found no room or no credit.
    pub(super) waits: Waits,
    /// Where it stands in its lane's line, while it waits for room.
    pub(super) room: Option<RoomPlace>,
    /// It waited in that line and was called: nobody's waiting concerns it until it has tried.
    pub(super) called: Option<Called>,
    /// What it had of its lane so far.
    pub(super) turns: Turns,
    /// When it sent last, counted in DATA frames of the session; who did so longest ago goes first.
    pub(super) last_turn: u64,
    /// Where it stands in the line for session credit, while it does.
    pub(super) place: Option<Place>,
    /// Session credit that it was called for and has not used yet.
    pub(super) promised: u32,
    /// Bytes of it whose session credit went back although they are still buffered.
    pub(super) early: u32,
    /// DATA bytes that came since the last probe of the link left.
    pub(super) since_probe: u64,
    /// When the local side last took bytes, or last had none to take.
    pub(super) last_taken: Instant,
    /// How the peer of the local side gets on.
    pub(super) pace: Pace,
    /// When anything moved, here or as the peer tells; see [`Session::last_moved`].
    ///
    /// [`Session::last_moved`]: crate::mux::Session::last_moved
    pub(super) last_moved: Instant,
    /// Since when credit of it is withheld, as the sweeps saw it.
    pub(super) unsaid_since: Option<Instant>,
    /// DATA bytes from the peer.
    pub(super) bytes_in: u64,
    /// DATA bytes to the peer.
    pub(super) bytes_out: u64,
}

/// Which directions of a stream have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// None.
    Open,
    /// We sent EOF.
    LocalDone,
    /// The peer sent EOF.
    RemoteDone,
    /// Both. It is kept until its last bytes are passed on.
    Over,
}

impl State {
    /// What our EOF makes of it; none when there was one.
    fn after_ours(self) -> Option<State> {
        match self {
            State::Open => Some(State::LocalDone),
            State::RemoteDone => Some(State::Over),
            State::LocalDone | State::Over => None,
        }
    }

    /// What the peer's EOF makes of it; none when there was one.
    fn after_theirs(self) -> Option<State> {
        match self {
            State::Open => Some(State::RemoteDone),
            State::LocalDone => Some(State::Over),
            State::RemoteDone | State::Over => None,
        }
    }
}

/// What the local sender of a stream waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    No,
    /// A WINDOW of the stream.
    StreamCredit,
    /// Its share of the session's credit; it stands in the session's line.
    SessionCredit,
    /// Room in the lane's outbox; it stands in the lane's line.
    Room,
}

impl<T> Stream<T> {
    /// Whether its local side has taken nothing for so long that it may be cut for it.
    pub(super) fn has_stalled(&self, now: Instant) -> bool {
        self.recv.buffered() > 0 && now >= self.last_taken + self.pace.patience()
    }

    /// Whether a direction is closed, or will be after bytes that wait, and the other not yet.
    pub(super) fn is_half_closed(&self) -> bool {
        match self.state {
            State::Open => self.local_finishes,
            State::LocalDone | State::RemoteDone => true,
            State::Over => false,
        }
    }

    /// Whether both directions are closed.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Whether our direction is closed.
    pub(super) fn local_done(&self) -> bool {
        matches!(self.state, State::LocalDone | State::Over)
    }

    /// Whether the peer's direction is closed.
    pub(super) fn remote_done(&self) -> bool {
        matches!(self.state, State::RemoteDone | State::Over)
    }

    /// We send EOF. False when we did before.
    pub(super) fn finish_local(&mut self) -> bool {
        let next = self.state.after_ours();
        self.state = next.unwrap_or(self.state);
        next.is_some()
    }

    /// The peer sent EOF. False when it did before.
    pub(super) fn finish_remote(&mut self) -> bool {
        let next = self.state.after_theirs();
        self.state = next.unwrap_or(self.state);
        next.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::State::{LocalDone, Open, Over, RemoteDone};

    #[test]
    fn each_direction_ends_once_and_in_either_order() {
        for (state, ours, theirs) in [
            (Open, Some(LocalDone), Some(RemoteDone)),
            (LocalDone, None, Some(Over)),
            (RemoteDone, Some(Over), None),
            (Over, None, None),
        ] {
            assert_eq!(state.after_ours(), ours, "{state:?}");
            assert_eq!(state.after_theirs(), theirs, "{state:?}");
        }
    }
}
