//! Slows whoever guesses tokens, by peer address.
//!
//! An attempt from an address that failed before waits *before* it is judged, the right one too: if
//! only failures waited, a guesser would not wait for them. Nobody is locked out, since everybody
//! behind one proxy has one address: the wait has a small upper bound, and failures are forgotten.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Instant;
use crate::limits::{
    AUTH_DELAY_FIRST, AUTH_DELAY_MAX, AUTH_FORGET_AFTER, AUTH_FREE_FAILURES, MAX_THROTTLED_PEERS,
};

/// Addresses that failed lately.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    peers: BTreeMap<u128, Record>,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    failures: u32,
    /// When `failures` was right; since then one is forgotten every `AUTH_FORGET_AFTER`.
    as_of: Instant,
}

impl Throttle {
    /// Nobody failed yet.
    pub(crate) fn new() -> Throttle {
        Throttle::default()
    }

    /// How long an attempt of this address must wait before it is judged.
    pub(crate) fn delay(&self, peer: IpAddr, now: Instant) -> Duration {
        let failures = self
            .peers
            .get(&place(peer))
            .map_or(0, |record| record.at(now).failures);
        match failures.checked_sub(AUTH_FREE_FAILURES + 1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
                AUTH_DELAY_FIRST.saturating_mul(factor).min(AUTH_DELAY_MAX)
            }
        }
    }

    /// An attempt of this address failed.
    pub(crate) fn failed(&mut self, peer: IpAddr, now: Instant) {
        let place = place(peer);
        if !self.peers.contains_key(&place) {
            self.make_room(now);
        }
        let record = self.peers.entry(place).or_insert(Record {
            failures: 0,
            as_of: now,
        });
        *record = record.at(now);
        record.failures = (record.failures + 1).min(MAX_FAILURES);
    }

    /// An attempt of this address was right: one failure is forgiven. Not all: behind a proxy the
    /// guesser and everybody else have one address.
    pub(crate) fn succeeded(&mut self, peer: IpAddr) {
        if let Some(record) = self.peers.get_mut(&place(peer)) {
            record.failures = record.failures.saturating_sub(1);
        }
    }

    /// Forgets those that are forgotten anyway; if that is nobody, who failed least.
    fn make_room(&mut self, now: Instant) {
        if self.peers.len() < MAX_THROTTLED_PEERS {
            return;
        }
        self.peers.retain(|_, record| record.at(now).failures > 0);
        if self.peers.len() >= MAX_THROTTLED_PEERS {
            let least = self
                .peers
                .iter()
                .min_by_key(|(_, record)| record.at(now).failures);
            if let Some(place) = least.map(|(place, _)| *place) {
                self.peers.remove(&place);
            }
        }
    }
}

impl Record {
    fn at(self, now: Instant) -> Record {
        let steps = now.since(self.as_of).as_nanos() / AUTH_FORGET_AFTER.as_nanos();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        let failures = self.failures.saturating_sub(steps);
        let as_of = if failures == 0 {
            now
        } else {
            self.as_of + AUTH_FORGET_AFTER.saturating_mul(steps)
        };
        Record { failures, as_of }
    }
}

/// Whom an address stands for: itself, or in IPv6 its /64, which is what one customer gets.
pub(in crate::kit) fn place(peer: IpAddr) -> u128 {
    match peer.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

/// More failures than this take no longer to forget: a minute or two of silence must be enough.
const MAX_FAILURES: u32 = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn typing_errors_are_free_and_guessing_is_slow_but_never_locked_out() {
        let mut throttle = Throttle::new();
        let (us, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let mut delays = Vec::new();
        for _ in 0..100 {
            throttle.failed(us, at(0));
            delays.push(throttle.delay(us, at(0)));
        }
        assert_eq!(delays[AUTH_FREE_FAILURES as usize - 1], Duration::ZERO);
        assert_eq!(delays[AUTH_FREE_FAILURES as usize], AUTH_DELAY_FIRST);
        assert!(delays.is_sorted());
        assert_eq!(delays[99], AUTH_DELAY_MAX);
        assert_eq!(throttle.delay(other, at(0)), Duration::ZERO);
    }

    #[test]
    fn failures_are_forgotten() {
        let mut throttle = Throttle::new();
        let us = ip("192.0.2.1");
        for _ in 0..1000 {
            throttle.failed(us, at(0));
        }
        let soon = at(0) + AUTH_FORGET_AFTER * (MAX_FAILURES - AUTH_FREE_FAILURES);
        assert_eq!(throttle.delay(us, soon), Duration::ZERO);
        throttle.failed(us, at(100_000));
        assert_eq!(throttle.delay(us, at(100_000)), Duration::ZERO);
    }

    #[test]
    fn forgetting_goes_on_where_it_was_when_another_failure_comes() {
        let (us, step) = (ip("192.0.2.1"), AUTH_FORGET_AFTER);
        let after = |failures: u32| {
            let mut throttle = Throttle::new();
            for _ in 0..failures {
                throttle.failed(us, at(0));
            }
            throttle
        };
        let delay = |failures: u32| after(failures).delay(us, at(0));
        let many = AUTH_FREE_FAILURES + 3;
        assert!(delay(many) > delay(many - 1));
        let mut throttle = after(many);
        assert_eq!(throttle.delay(us, at(0) + step / 2), delay(many));
        assert_eq!(throttle.delay(us, at(0) + step), delay(many - 1));
        throttle.failed(us, at(0) + step * 3 / 2);
        assert_eq!(throttle.delay(us, at(0) + step * 2), delay(many - 1));
    }

    #[test]
    fn who_is_forgotten_anyway_makes_room_first_and_only_in_a_full_table() {
        let mut throttle = Throttle::new();
        assert!(throttle.peers.is_empty());
        let later = at(0) + AUTH_FORGET_AFTER * (MAX_FAILURES + 1);
        for n in 0..MAX_THROTTLED_PEERS as u32 {
            throttle.failed(IpAddr::V4((0x0A00_0000 + n).into()), at(0));
            assert_eq!(throttle.peers.len(), n as usize + 1);
        }
        assert!(!throttle.peers.is_empty());
        throttle.failed(ip("192.0.2.1"), later);
        assert_eq!(throttle.peers.len(), 1);
        throttle.failed(ip("192.0.2.2"), later + AUTH_FORGET_AFTER * MAX_FAILURES);
        assert_eq!(
            throttle.peers.len(),
            2,
            "nobody is looked for in an empty table"
        );
    }

    #[test]
    fn one_customer_of_a_provider_is_one_peer() {
        let mut throttle = Throttle::new();
        for host in 0..100 {
            throttle.failed(ip(&format!("2001:db8:1:2::{host:x}")), at(0));
            throttle.failed(ip("::ffff:192.0.2.1"), at(0));
        }
        assert_eq!(throttle.peers.len(), 2);
        assert!(!throttle.delay(ip("2001:db8:1:2:ffff::1"), at(0)).is_zero());
        assert!(throttle.delay(ip("2001:db8:1:3::1"), at(0)).is_zero());
        assert!(!throttle.delay(ip("192.0.2.1"), at(0)).is_zero());
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let mut throttle = Throttle::new();
        let worst = ip("192.0.2.1");
        for _ in 0..10 {
            throttle.failed(worst, at(0));
        }
        for n in 0..3 * MAX_THROTTLED_PEERS as u32 {
            throttle.failed(IpAddr::V4((0x0A00_0000 + n).into()), at(0));
        }
        assert_eq!(throttle.peers.len(), MAX_THROTTLED_PEERS);
        assert!(!throttle.delay(worst, at(0)).is_zero());
    }

    #[test]
    fn a_success_does_not_clear_what_others_behind_the_proxy_did() {
        let mut throttle = Throttle::new();
        let proxy = ip("192.0.2.1");
        for _ in 0..10 {
            throttle.failed(proxy, at(0));
        }
        throttle.succeeded(proxy);
        assert!(!throttle.delay(proxy, at(0)).is_zero());
    }
}
