//! Datagrams of UDP ports, counted.

use super::Exposition;

label! {
    /// Why a datagram went no further.
    DatagramDrop {
        /// The port's owner is parked or about to go.
        Away = "away",
        /// As many peers as may be, and none that makes room.
        Peers = "peers",
        /// More than three times the bytes of a peer that may be another than it says.
        Unproven = "unproven",
        /// The lane to the client had no room, or was lost.
        Lane = "lane",
        /// The system did not take it.
        Socket = "socket",
        /// Longer than datagrams are.
        TooLong = "too_long",
    }
}

/// Datagrams and their bytes, and those that went no further.
#[derive(Debug, Default)]
pub struct Datagrams {
    from_clients: (u64, u64),
    to_clients: (u64, u64),
    dropped: [u64; DatagramDrop::ALL.len()],
}

impl Datagrams {
    /// One of so many bytes came from a client, for its peer.
    pub fn from_client(&mut self, bytes: usize) {
        self.from_clients.0 += 1;
        self.from_clients.1 += bytes as u64;
    }

    /// One of so many bytes came from a peer, for its client.
    pub fn to_client(&mut self, bytes: usize) {
        self.to_clients.0 += 1;
        self.to_clients.1 += bytes as u64;
    }

    /// So many went no further.
    pub fn dropped(&mut self, why: DatagramDrop, count: u64) {
        self.dropped[why as usize] += count;
    }

    pub(super) fn render(&self, page: &mut Exposition<'_>) {
        let (from, to) = (self.from_clients, self.to_clients);
        let help = "Datagrams of UDP ports: in from clients, out to clients.";
        let counts = [("in", from.0), ("out", to.0)];
        page.labelled("datagrams_total", help, "direction", counts);
        let help = "Their bytes: in from clients, out to clients.";
        let bytes = [("in", from.1), ("out", to.1)];
        page.labelled("datagram_bytes_total", help, "direction", bytes);
        let reasons = DatagramDrop::ALL.iter().map(|why| why.name());
        let help = "Datagrams that went no further, by reason.";
        let dropped = reasons.zip(self.dropped);
        page.labelled("datagrams_dropped_total", help, "reason", dropped);
    }
}

/// Tells how many peers there are now.
pub(super) fn render_peers(page: &mut Exposition<'_>, peers: usize) {
    let help = "Streams of UDP ports, one for each peer.";
    page.family("udp_streams_active", "gauge", help);
    page.sample(&[], peers as u64);
}
