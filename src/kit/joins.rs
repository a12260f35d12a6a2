//! Secondary lanes: tickets, JOIN, and the map of lanes (PROTOCOL §7).

use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::kit::front::greeter::Dismissal;
use crate::kit::keys::SessionKey;
use crate::kit::session::{Sessions, Ticket};
use crate::kit::sessions::hex;
use crate::limits::{TICKET_LIFE, TICKETS_A_LANE};
use crate::machine::ConnKey;
use crate::wire::control::{
    self, Join, JoinErrCode, JoinOk, JoinTicket, ReissueAnswer, ReissueRequest, Secret, Shard,
    ShardMap,
};
use crate::wire::frame::FrameType;

use super::Kit;

impl Sessions {
    /// Fresh tickets for all indexes that are missing. Older ones stay good: their lanes may be on
    /// their way while another one makes the client ask.
    pub(super) fn make_tickets(
        &mut self,
        key: SessionKey,
        entropy: &mut Entropy,
        now: Instant,
    ) -> Vec<JoinTicket> {
        let Some(session) = self.get_mut(key) else {
            return Vec::new();
        };
        let Some(mux) = session.mux() else {
            return Vec::new();
        };
        let missing: Vec<usize> = (1..session.granted)
            .filter(|index| mux.lane(*index).is_none())
            .collect();
        let tickets = &mut session.tickets;
        tickets.retain(|ticket| ticket.expires > now && missing.contains(&ticket.index));
        let mut fresh = Vec::new();
        for index in missing {
            let mut given = (0..tickets.len()).filter(|at| tickets[*at].index == index);
            if let Some(oldest) = given.next()
                && given.count() + 1 >= TICKETS_A_LANE
            {
                tickets.remove(oldest);
            }
            let nonce = Secret::new(hex(&entropy.octets::<16>()));
            fresh.push(JoinTicket {
                index: index as u32,
                nonce: nonce.clone(),
                expires_ms: TICKET_LIFE.as_millis() as u64,
            });
            tickets.push(Ticket {
                index,
                nonce,
                expires: now + TICKET_LIFE,
            });
        }
        fresh
    }

    fn check_join(
        &mut self,
        join: &Join,
        now: Instant,
    ) -> Result<(SessionKey, usize), (JoinErrCode, &'static str)> {
        let unknown = (JoinErrCode::UnknownSession, "no such session is attached");
        let key = self.with_id(join.session_id.as_str()).ok_or(unknown)?;
        let session = self.get_mut(key).filter(|it| it.is_open()).ok_or(unknown)?;
        let index = join.index as usize;
        if session.mux().is_some_and(|mux| mux.lane(index).is_some()) {
            return Err((
                JoinErrCode::IndexInUse,
                "this index has a connection already",
            ));
        }
        let at = session
            .tickets
            .iter()
            .position(|ticket| ticket.index == index && ticket.nonce.matches(join.nonce.expose()))
            .ok_or((
                JoinErrCode::BadTicket,
                "the ticket is not good for this index",
            ))?;
        // A ticket is good once, also when it came too late.
        let ticket = session.tickets.remove(at);
        if ticket.expires <= now {
            return Err((
                JoinErrCode::Expired,
                "the ticket has expired; ask for a new one",
            ));
        }
        let mux = self.mux_mut(key).ok_or(unknown)?;
        mux.settle(index, join.data_received).map_err(|_| {
            let why = "dataReceived is not what this index can have carried";
            (JoinErrCode::BadTicket, why)
        })?;
        mux.set_ticket(index, ticket.nonce);
        let session = self.get_mut(key).ok_or(unknown)?;
        // A JOIN that was overtaken by this one must not come after it: what it tells is old.
        session.tickets.retain(|ticket| ticket.index != index);
        Ok((key, index))
    }

    /// Tells which lanes there are.
    pub(super) fn send_shard_map(&mut self, key: SessionKey) {
        let Some(session) = self.get(key) else {
            return;
        };
        let granted = session.granted;
        let Some(mux) = session.mux() else { return };
        let connections = (0..granted)
            .map(|index| Shard {
                index: index as u32,
                state: if mux.lane(index).is_some() {
                    "open"
                } else {
                    "missing"
                }
                .to_owned(),
            })
            .collect();
        self.say(key, &ShardMap { connections });
    }
}

impl Kit {
    /// REISSUE_JOIN_TICKETS (PROTOCOL §7). A lane that the client has given up is over here too:
    /// its end may never come through.
    pub(super) fn reissue_tickets(
        &mut self,
        key: SessionKey,
        request: &ReissueRequest,
        now: Instant,
    ) {
        for missing in &request.missing {
            let index = missing.index as usize;
            let mux = self.sessions.mux(key);
            let joined = mux.and_then(|mux| mux.ticket(index));
            let is_it = joined.is_some_and(|nonce| nonce.matches(missing.nonce.expose()));
            if is_it && mux.is_some_and(|mux| mux.lane(index).is_some()) {
                self.lane_ended(key, index, "the client gave the connection up", now);
            }
        }
        let answer = ReissueAnswer {
            join_tickets: self.sessions.make_tickets(key, &mut self.cx.entropy, now),
        };
        self.sessions.say(key, &answer);
    }

    /// JOIN: a secondary lane (PROTOCOL §7).
    pub(super) fn join(
        &mut self,
        conn: ConnKey,
        join: &Join,
        now: Instant,
    ) -> Result<(), Dismissal> {
        match self.sessions.check_join(join, now) {
            Ok((key, index)) => {
                self.conns.place_for_lane(conn, &mut self.cx)?;
                self.attach_secondary(conn, key, index, now);
            }
            Err((code, why)) => {
                let (conns, cx) = (&mut self.conns, &mut self.cx);
                self.front.refuse_join(conn, code, why, conns, cx);
            }
        }
        Ok(())
    }

    fn attach_secondary(&mut self, conn: ConnKey, key: SessionKey, index: usize, now: Instant) {
        let Some((mut lane, ..)) = self.take_greeter_lane(conn, key, index) else {
            return;
        };
        if let Some(mux) = self.sessions.mux_mut(key) {
            let mut json = Vec::new();
            let answer = JoinOk {
                index: index as u32,
                received: Vec::new(),
                data_received: Some(mux.data_received(index)),
            };
            control::write(&answer, &mut json);
            lane.push_control(FrameType::JoinOk, &json);
            mux.attach(index, lane);
        }
        self.sessions.send_shard_map(key);
        self.pump(key, index, now);
    }
}
