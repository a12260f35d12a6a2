//! The rights to join lanes of a session (PROTOCOL §7).

use std::time::Duration;

use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::limits::{LONG_TICKET_LIFE, TICKET_LIFE, TICKETS_A_LANE};
use crate::wire::control::{JoinErrCode, JoinTicket, Secret};

use super::hex;

/// The right to join one lane, once.
#[derive(Debug)]
struct Ticket {
    index: usize,
    nonce: Secret,
    expires: Instant,
}

/// The tickets of one session that were given and not used, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tickets(Vec<Ticket>);

impl Tickets {
    /// Fresh tickets for the indexes that are `missing`. Older ones stay good: their lanes may be
    /// on their way while another one makes the client ask.
    pub(super) fn renew(
        &mut self,
        missing: &[usize],
        entropy: &mut Entropy,
        now: Instant,
    ) -> Vec<JoinTicket> {
        let Tickets(tickets) = self;
        tickets.retain(|ticket| ticket.expires > now && missing.contains(&ticket.index));
        for index in missing {
            let mut given = (0..tickets.len()).filter(|at| tickets[*at].index == *index);
            if let Some(oldest) = given.next()
                && given.count() + 1 >= TICKETS_A_LANE
            {
                tickets.remove(oldest);
            }
        }
        self.add(missing, TICKET_LIFE, entropy, now)
    }

    /// The same where lanes are resumed. Older tickets are void: who came late with one would say
    /// what was counted long ago (PROTOCOL §9).
    pub(super) fn replace(
        &mut self,
        missing: &[usize],
        entropy: &mut Entropy,
        now: Instant,
    ) -> Vec<JoinTicket> {
        self.void_all();
        self.add(missing, LONG_TICKET_LIFE, entropy, now)
    }

    fn add(
        &mut self,
        missing: &[usize],
        life: Duration,
        entropy: &mut Entropy,
        now: Instant,
    ) -> Vec<JoinTicket> {
        let mut fresh = Vec::new();
        for index in missing.iter().copied() {
            let nonce = Secret::new(hex(&entropy.octets::<16>()));
            fresh.push(JoinTicket {
                index: index as u32,
                nonce: nonce.clone(),
                expires_ms: life.as_millis() as u64,
            });
            self.0.push(Ticket {
                index,
                nonce,
                expires: now + life,
            });
        }
        fresh
    }

    /// Takes a ticket that somebody shows for an index. It is good once, also when it came too
    /// late.
    pub(super) fn redeem(
        &mut self,
        index: usize,
        shown: &Secret,
        now: Instant,
    ) -> Result<Secret, (JoinErrCode, &'static str)> {
        let Tickets(tickets) = self;
        let mut all = tickets.iter();
        let is_it = |ticket: &Ticket| ticket.index == index && ticket.nonce.matches(shown.expose());
        let Some(at) = all.position(is_it) else {
            let why = "the ticket is not good for this index";
            return Err((JoinErrCode::BadTicket, why));
        };
        let ticket = tickets.remove(at);
        if ticket.expires <= now {
            let why = "the ticket has expired; ask for a new one";
            return Err((JoinErrCode::Expired, why));
        }
        Ok(ticket.nonce)
    }

    /// No ticket for this index is good any more.
    pub(super) fn void(&mut self, index: usize) {
        self.0.retain(|ticket| ticket.index != index);
    }

    /// No ticket is.
    pub(super) fn void_all(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(tickets: &mut Tickets, missing: &[usize], now: Instant) -> Vec<JoinTicket> {
        tickets.renew(missing, &mut Entropy::from_seed(1), now)
    }

    #[test]
    fn a_ticket_is_good_once_and_for_its_index() {
        let (mut tickets, now) = (Tickets::default(), Instant::ZERO);
        let fresh = given(&mut tickets, &[1, 2], now);
        let nonce = &fresh[0].nonce;
        let wrong = tickets.redeem(2, nonce, now).expect_err("of another index");
        assert_eq!(wrong.0, JoinErrCode::BadTicket);
        assert!(tickets.redeem(1, nonce, now).is_ok());
        assert!(tickets.redeem(1, nonce, now).is_err(), "a second time");
        assert!(tickets.redeem(2, &fresh[1].nonce, now).is_ok());
    }

    #[test]
    fn a_late_ticket_is_said_to_be_late_and_is_gone() {
        let (mut tickets, now) = (Tickets::default(), Instant::ZERO);
        let nonce = given(&mut tickets, &[1], now).remove(0).nonce;
        let late = tickets.redeem(1, &nonce, now + TICKET_LIFE);
        assert_eq!(late.expect_err("late").0, JoinErrCode::Expired);
        let again = tickets.redeem(1, &nonce, now);
        assert_eq!(again.expect_err("gone").0, JoinErrCode::BadTicket);
    }

    #[test]
    fn renewing_leaves_older_tickets_good_and_keeps_few() {
        let (mut tickets, now) = (Tickets::default(), Instant::ZERO);
        let mut entropy = Entropy::from_seed(7);
        let mut nonces = Vec::new();
        for _ in 0..TICKETS_A_LANE + 2 {
            nonces.push(tickets.renew(&[1], &mut entropy, now).remove(0).nonce);
        }
        assert_eq!(tickets.0.len(), TICKETS_A_LANE);
        assert!(tickets.redeem(1, &nonces[0], now).is_err(), "the oldest");
        let last = nonces.last().expect("some");
        assert!(tickets.redeem(1, last, now).is_ok());
        // Those of an index that stands go with the next asking.
        tickets.renew(&[2], &mut entropy, now + Duration::from_millis(1));
        assert!(tickets.redeem(1, &nonces[TICKETS_A_LANE], now).is_err());
        tickets.void(2);
        assert!(tickets.0.is_empty());
    }

    #[test]
    fn where_lanes_are_resumed_a_reissue_voids_what_was_given_before() {
        let (mut tickets, now) = (Tickets::default(), Instant::ZERO);
        let mut entropy = Entropy::from_seed(7);
        let first = tickets.replace(&[1, 2], &mut entropy, now);
        let second = tickets.replace(&[1], &mut entropy, now);
        for ticket in &first {
            let index = ticket.index as usize;
            let late = tickets.redeem(index, &ticket.nonce, now);
            assert_eq!(late.expect_err("void").0, JoinErrCode::BadTicket);
        }
        let nonce = &second[0].nonce;
        let late = now + LONG_TICKET_LIFE * 9 / 10;
        assert!(tickets.redeem(1, nonce, late).is_ok(), "its life is longer");
        let nonce = tickets.replace(&[1], &mut entropy, now).remove(0).nonce;
        let late = tickets.redeem(1, &nonce, now + LONG_TICKET_LIFE);
        assert_eq!(late.expect_err("late").0, JoinErrCode::Expired);
    }
}
