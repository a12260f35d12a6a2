//! Addresses that an operator keeps away for a while, whatever token they show.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Instant;
use crate::limits::MAX_BANS;

use super::throttle::place;

/// Who is kept away until when. An IPv6 peer stands for its /64, as everywhere.
#[derive(Debug, Default)]
pub(in crate::kit) struct Bans(Vec<(u128, Instant)>);

impl Bans {
    /// Keeps an address away until then. Where as many are as may be, that one comes back that
    /// would be first.
    pub(in crate::kit) fn ban(&mut self, peer: IpAddr, until: Instant, now: Instant) {
        let (Bans(all), banned) = (self, place(peer));
        all.retain(|(other, ends)| *other != banned && *ends > now);
        if all.len() >= MAX_BANS {
            let first = (0..all.len()).min_by_key(|at| all[*at].1);
            first.map(|at| all.swap_remove(at));
        }
        all.push((banned, until));
    }

    /// How long an address is still kept away, if it is.
    pub(super) fn left(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let banned = place(peer);
        let mut all = self.0.iter();
        let (_, until) = all.find(|(other, until)| *other == banned && *until > now)?;
        Some(until.since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_is_kept_away_for_as_long_as_was_said_last() {
        let (mut bans, now) = (Bans::default(), Instant::ZERO);
        let span = Duration::from_secs;
        bans.ban(addr("192.0.2.1"), now + span(60), now);
        assert_eq!(bans.left(addr("192.0.2.1"), now + span(1)), Some(span(59)));
        assert_eq!(bans.left(addr("::ffff:192.0.2.1"), now), Some(span(60)));
        assert_eq!(bans.left(addr("192.0.2.2"), now), None);
        bans.ban(addr("192.0.2.1"), now + span(5), now);
        assert_eq!(bans.left(addr("192.0.2.1"), now + span(5)), None);
        bans.ban(addr("2001:db8::1"), now + span(5), now);
        assert!(bans.left(addr("2001:db8::2"), now).is_some(), "one house");
        assert!(bans.left(addr("2001:db8:0:1::2"), now).is_none());
    }

    #[test]
    fn there_are_only_so_many_and_the_shortest_ends_first() {
        let (mut bans, now) = (Bans::default(), Instant::ZERO);
        for n in 0..=MAX_BANS {
            let until = now + Duration::from_secs(10 + n as u64);
            bans.ban(IpAddr::from([10, 0, (n / 256) as u8, n as u8]), until, now);
        }
        assert_eq!(bans.0.len(), MAX_BANS);
        assert!(bans.left(addr("10.0.0.0"), now).is_none());
        assert!(bans.left(addr("10.0.0.1"), now).is_some());
    }
}
