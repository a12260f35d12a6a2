//! Windows that grow so that one stream can fill a long link (PROTOCOL §5, `grow-windows`).
//!
//! A receiver cannot see from its own books whether a sender waits for credit: what it gave back
//! counts as granted while the WINDOW is still on its way. So it measures the link: a PING, and the
//! bytes that come until its PONG. When they are half a window or more, the window is what limits
//! the sender, for it can never have more than a window under way in one round trip; the window is
//! doubled then, unless the local side is what holds the bytes up.

use crate::clock::Instant;
use crate::limits::PROBE_EVERY;

/// The measurement of a session's link.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// The payload of the PING that is on its way.
    under_way: Option<[u8; 8]>,
    /// DATA bytes of the session since it left.
    bytes: u64,
    /// PINGs so far.
    count: u64,
    /// When the next one may leave: peers count PINGs.
    not_before: Instant,
}

impl Probe {
    /// So many bytes of DATA came. Gives the payload of a PING that is to leave now.
    pub(super) fn came(&mut self, count: u32, now: Instant) -> Option<[u8; 8]> {
        self.bytes += u64::from(count);
        if self.under_way.is_some() || now < self.not_before || count == 0 {
            return None;
        }
        self.count += 1;
        let marker = (MARK | self.count & !MARK).to_be_bytes();
        self.under_way = Some(marker);
        self.not_before = now + PROBE_EVERY;
        self.bytes = 0;
        Some(marker)
    }

    /// The PING on its way, or its PONG, was lost.
    pub(super) fn lost(&mut self) {
        self.under_way = None;
    }

    /// A PONG came. Gives what came in the round trip that is over, if it is the probe's.
    pub(super) fn returned(&mut self, payload: [u8; 8]) -> Option<u64> {
        let ours = self.under_way == Some(payload);
        ours.then(|| {
            self.under_way = None;
            self.bytes
        })
    }
}

/// What tells a probe's PING from others: no random or counted payload is likely to begin so.
const MARK: u64 = 0x7072_6F62_0000_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_probe_is_under_way_at_a_time_and_counts_what_comes_meanwhile() {
        let mut probe = Probe::default();
        let now = Instant::ZERO;
        assert_eq!(probe.came(0, now), None, "nothing to measure");
        let ping = probe.came(10, now).expect("the first bytes send one");
        assert_eq!(probe.came(30, now), None);
        assert_eq!(probe.returned([0; 8]), None, "somebody else's PONG");
        assert_eq!(
            probe.returned(ping),
            Some(30),
            "what came before it does not count"
        );
        assert_eq!(probe.returned(ping), None, "once");
        assert_eq!(probe.came(1, now), None, "peers count PINGs");
        let next = probe.came(1, now + PROBE_EVERY);
        assert!(next.is_some() && next != Some(ping));
    }
}
