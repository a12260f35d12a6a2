//! Who comes back with all its streams, and who without (PROTOCOL §9).
//!
//! A HELLO that resumes a session says what its client has taken of the primary lane, and a JOIN
//! the same of another one. Where the counts can be met, everything goes on from there; where not,
//! the session comes back as it does without *replay*: with its bindings, and without a stream.

use crate::kit::config::Config;
use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::front::greeter::{Dismissal, close_lane};
use crate::kit::keys::SessionKey;
use crate::kit::memory::Plan;
use crate::kit::metrics::RefusalReason;
use crate::limits::MAX_LANES;
use crate::mux::{Retention, Side, Terms};
use crate::wire::code::Code;
use crate::wire::control::{Capabilities, GoAway, Hello, Join, JoinErrCode};
use crate::ws::Subprotocol;

use super::end::{CLOSE_GOING_AWAY, Fallout, KILLED};
use super::entry::Closing;
use super::{KitSession, Sessions};

/// A lane that may be joined.
#[derive(Debug)]
pub(in crate::kit) struct Joining {
    pub(in crate::kit) session: SessionKey,
    pub(in crate::kit) index: usize,
    /// What the client has taken on it, where it goes on or begins with both counts at 0.
    pub(super) received: Option<u64>,
}

/// What a client and this kit agree on: the lanes it gets, and the terms.
pub(super) fn agree(hello: &Hello, cx: &Context) -> (usize, Terms) {
    let able = hello.capabilities.have(Capabilities::MULTI_WS);
    let asked = hello.max_connections.filter(|_| able).unwrap_or(1) as usize;
    let lanes = match hello.version == Subprotocol::V2.name() {
        true => asked.clamp(1, cx.plan.lanes),
        false => 1,
    };
    let terms = Terms {
        side: Side::Kit,
        stream_window: cx.plan.stream_window,
        session_window: cx.plan.session_window,
        max_streams: cx.config.max_streams_per_session,
        grow_windows: hello.capabilities.have(Capabilities::GROW_WINDOWS),
        header_case: hello.capabilities.have(Capabilities::HEADER_CASE),
        udp: hello.capabilities.have(Capabilities::UDP),
        trailers: hello.capabilities.have(Capabilities::TRAILERS),
        forward: hello.capabilities.have(Capabilities::FORWARD)
            && !cx.config.allow_forward.is_off(),
        head_parts: match hello.capabilities.have(Capabilities::LONG_HEADS) {
            true => cx.plan.head_parts,
            false => 0,
        },
        queue_opens: cx.plan.queue_opens,
        replay: retention(hello, &cx.plan, lanes),
    };
    (lanes, terms)
}

/// What is kept of each lane, where both sides keep enough.
fn retention(hello: &Hello, plan: &Plan, lanes: usize) -> Option<Retention> {
    let (keeps, most) = (plan.kept_of(lanes), plan.most_kept_of(lanes));
    let agreed = Retention::agreed(keeps, most, hello.replay_buffer, lanes as u32);
    agreed.filter(|_| hello.capabilities.have(Capabilities::REPLAY))
}

/// What a client may bind beyond what all may, of what it offers.
pub(super) fn services(hello: &Hello, config: &Config) -> Capabilities {
    let allowed = Capabilities::TCP_EXPOSE.only_if(config.tcp_expose);
    hello.capabilities.and(allowed)
}

/// What is granted of a client's capabilities.
pub(super) fn capabilities(lanes: usize, terms: &Terms, services: Capabilities) -> Capabilities {
    services
        | Capabilities::MULTI_WS.only_if(lanes > 1)
        | Capabilities::GROW_WINDOWS.only_if(terms.grow_windows)
        | Capabilities::HEADER_CASE.only_if(terms.header_case)
        | Capabilities::TRAILERS.only_if(terms.trailers)
        | Capabilities::UDP.only_if(terms.udp)
        | Capabilities::LONG_HEADS.only_if(terms.head_parts > 0)
        | Capabilities::FORWARD.only_if(terms.forward)
        | Capabilities::REPLAY.only_if(terms.replay.is_some())
}

impl Sessions {
    /// The session that a HELLO asks for, if it is there and this is the client's latest word.
    pub(super) fn asked_for(&mut self, hello: &Hello) -> Result<Option<SessionKey>, Dismissal> {
        let Some(resume) = &hello.resume else {
            return Ok(None);
        };
        if self.is_killed(resume.session_id.as_str()) {
            return Err(Dismissal {
                reason: RefusalReason::Killed,
                goaway: Some(Code::Cancel),
                is_final: Some(true),
                close: 1000,
                why: KILLED.into(),
            });
        }
        let key = self.with_id(resume.session_id.as_str());
        let key = key.filter(|key| {
            self.get(*key)
                .is_some_and(|session| session.closing == Closing::No)
        });
        let dismissed = |goaway, why: &'static str| Dismissal {
            reason: RefusalReason::Protocol,
            goaway,
            is_final: None,
            close: 1008,
            why: why.into(),
        };
        let Some(session) = key.and_then(|key| self.get_mut(key)) else {
            let why = "the session that is wanted, and no other, is over";
            return match resume.only {
                Some(true) => Err(dismissed(Some(Code::Cancel), why)),
                _ => Ok(None),
            };
        };
        if let (Some(attempt), Some(last)) = (resume.attempt, session.attempt)
            && attempt <= last
        {
            let why = "a later HELLO of this client came before this one";
            return Err(dismissed(None, why));
        }
        session.attempt = resume.attempt;
        Ok(key)
    }

    /// What the client has taken of the primary lane, where the session can go on from there.
    pub(super) fn goes_on_from(&self, key: SessionKey, hello: &Hello) -> Option<u64> {
        let session = self.get(key).filter(|session| session.keeps_streams())?;
        let resume = hello.resume.as_ref()?;
        let received = resume.received?;
        let same = resume.epoch == Some(session.epoch);
        let able = hello.capabilities.have(session.capabilities);
        let meets = session.mux()?.lanes().can_resume(0, received);
        (same && able && meets).then_some(received)
    }

    /// The primary lane goes to another connection, and of the others those stay that the client
    /// still holds. Gives their indexes.
    pub(super) fn make_way(
        &mut self,
        key: SessionKey,
        hello: &Hello,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Vec<u32> {
        conns.spill(self);
        let held = hello
            .resume
            .as_ref()
            .map_or(&[][..], |resume| &resume.lanes);
        let Some(mux) = self.mux_mut(key) else {
            return Vec::new();
        };
        let mut kept = Vec::new();
        let mut left = Vec::new();
        for index in 0..MAX_LANES {
            let joined = mux
                .lanes()
                .ticket(index)
                .filter(|_| mux.lanes().stands(index));
            let is_held = held.iter().any(|lane| {
                let is_it = lane.index as usize == index;
                is_it && joined.is_some_and(|nonce| nonce.matches(lane.nonce.expose()))
            });
            match is_held {
                true => kept.push(index as u32),
                false => left.extend(mux.suspend(index, cx.now).map(|lane| (index, lane))),
            }
        }
        for (index, mut lane) in left {
            if index == 0 {
                lane.say(&resumed_elsewhere());
            }
            close_lane(&mut lane, CLOSE_GOING_AWAY, ELSEWHERE, conns, cx);
        }
        kept
    }

    /// A newer HELLO takes the session without its streams: whoever still holds its connection is
    /// not to come back, or two clients on one id would drive each other out for ever.
    pub(super) fn tell_evicted(&mut self, key: SessionKey) {
        let told = self.get(key).is_some_and(KitSession::keeps_streams);
        if told {
            self.say(key, &resumed_elsewhere());
        }
    }

    /// JOIN: the session and the lane that it may carry, and whether that goes on. Where it begins
    /// anew, what its streams belonged to is to be broken.
    pub(in crate::kit) fn check_join(
        &mut self,
        join: &Join,
        cx: &Context,
    ) -> Result<Joining, (JoinErrCode, &'static str)> {
        let unknown = (JoinErrCode::UnknownSession, "no such session is attached");
        let key = self.with_id(join.session_id.as_str()).ok_or(unknown)?;
        let session = self.get_mut(key).filter(|it| it.is_open()).ok_or(unknown)?;
        let index = join.index as usize;
        if session.mux().is_some_and(|mux| mux.lanes().stands(index)) {
            let why = "this index has a connection already";
            return Err((JoinErrCode::IndexInUse, why));
        }
        let nonce = session.tickets.redeem(index, &join.nonce, cx.now)?;
        let mux = self.mux_mut(key).ok_or(unknown)?;
        let received = join.received.filter(|received| {
            let begins =
                mux.lanes().keeps_streams() && mux.lanes().is_unused(index) && *received == 0;
            begins || mux.lanes().can_resume(index, *received)
        });
        if received.is_none() {
            let (_, lost) = mux.give_up(index);
            mux.settle(index, join.data_received, join.credit_received)
                .map_err(|_| {
                    let why = "dataReceived is not what this index can have carried";
                    (JoinErrCode::BadTicket, why)
                })?;
            mux.lanes_mut().set_ticket(index, nonce);
            let why = "its connection to the client came back without its streams";
            self.fallout.push_back(Fallout::lost(lost, why));
        } else {
            mux.lanes_mut().set_ticket(index, nonce);
        }
        // A JOIN that was overtaken by this one must not come after it: what it tells is old.
        self.all.resolve_mut(key).tickets.void(index);
        Ok(Joining {
            session: key,
            index,
            received,
        })
    }
}

impl KitSession {
    /// What was granted to it.
    pub(in crate::kit) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// What HELLO_OK says of the counts: the epoch, where there are any.
    pub(super) fn told_epoch(&self) -> Option<u64> {
        self.capabilities
            .have(Capabilities::REPLAY)
            .then_some(self.epoch)
    }
}

/// What the connection hears whose session was resumed on another one.
fn resumed_elsewhere() -> GoAway {
    GoAway::new(Code::Cancel, ELSEWHERE).for_good()
}

const ELSEWHERE: &str = "resumed elsewhere";

#[cfg(test)]
#[path = "returning_tests.rs"]
mod tests;
