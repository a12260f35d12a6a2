//! Connections that clients have the kit open (PROTOCOL §8).

use super::exposition::Exposition;

label! {
    /// What became of a connection that a client asked for. The first words of reasons are these.
    DialOutcome {
        /// It stood.
        Connected = "connected",
        /// The operator does not allow it.
        Policy = "policy",
        /// The port is the kit's own.
        OwnPort = "own_port",
        /// Too many were opened in a short time.
        Hasty = "too_fast",
        /// It was not understood.
        Malformed = "malformed",
        /// As many streams of the session as may be.
        MaxStreams = "max_streams",
        /// Few descriptors are left, and the session has many.
        Share = "share",
        /// No descriptor was left.
        Descriptors = "descriptors",
        /// The kit opens nothing new.
        Draining = "draining",
        /// The name has no address, or nobody could tell.
        Dns = "dns",
        /// There is no way to it.
        Unreachable = "unreachable",
        /// Nobody listens there.
        Refused = "refused",
        /// It did not answer.
        Timeout = "timeout",
        /// The client did not wait, or is gone.
        Left = "left",
    }
}

/// What became of them, and what they carried.
#[derive(Debug, Default)]
pub struct Dials {
    ends: [u64; DialOutcome::ALL.len()],
    to: u64,
    from: u64,
}

impl Dials {
    /// One stands, or will not.
    pub fn ended(&mut self, outcome: DialOutcome) {
        self.ends[outcome as usize] += 1;
    }

    /// So many bytes went to one, or came from one.
    pub fn carried(&mut self, to: usize, from: usize) {
        self.to += to as u64;
        self.from += from as u64;
    }

    pub(super) fn render(&self, page: &mut Exposition<'_>) {
        let outcomes = DialOutcome::ALL.iter().map(|it| it.name()).zip(self.ends);
        let help = "Connections that clients asked for, by what became of them.";
        page.labelled("forward_dials_total", help, "outcome", outcomes);
        let bytes = [("to", self.to), ("from", self.from)];
        let help = "Bytes to and from connections that clients asked for.";
        page.labelled("forward_bytes_total", help, "direction", bytes);
    }
}
