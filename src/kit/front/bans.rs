//! Addresses that an operator keeps away for a while, whatever token they show.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::clock::Instant;
use crate::kit::handover::HandedBan;
use crate::limits::{MAX_BAN, MAX_BANS};

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

    /// What a successor of the kit has to know of them.
    pub(in crate::kit) fn handed(&self, now: Instant) -> Vec<HandedBan> {
        let handed = |(banned, until): &(u128, Instant)| HandedBan {
            peer: Ipv6Addr::from_bits(*banned).into(),
            left_ms: until.since(now).as_millis() as u64,
        };
        let lasting = self.0.iter().filter(|(_, until)| *until > now);
        lasting.map(handed).collect()
    }

    /// What the kit before has told of them. None lasts longer than one may.
    pub(in crate::kit) fn inherit(&mut self, handed: &[HandedBan], now: Instant) {
        for ban in handed {
            let left = Duration::from_millis(ban.left_ms).min(MAX_BAN);
            self.ban(ban.peer, now + left, now);
        }
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
    fn a_successor_keeps_away_whom_the_kit_before_did_for_the_rest_of_their_time() {
        let (mut bans, now) = (Bans::default(), Instant::ZERO);
        let span = Duration::from_secs;
        bans.ban(addr("192.0.2.1"), now + span(60), now);
        bans.ban(addr("2001:db8::1"), now + span(5), now);
        let mut next = Bans::default();
        next.inherit(&bans.handed(now + span(20)), now);
        assert_eq!(next.left(addr("192.0.2.1"), now), Some(span(40)));
        assert_eq!(next.left(addr("2001:db8::2"), now), None, "it was over");
        let mut next = Bans::default();
        next.inherit(&bans.handed(now), now);
        assert_eq!(next.left(addr("2001:db8::2"), now), Some(span(5)));
        let peer = addr("192.0.2.3");
        let left_ms = u64::MAX;
        next.inherit(&[HandedBan { peer, left_ms }], now);
        assert_eq!(next.left(peer, now), Some(MAX_BAN));
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
