//! When a lane that says nothing is given up for another connection, while others of its session
//! are heard (PROTOCOL §9).
//!
//! A network that is slow for a moment looks like one that is gone. So each lane that was given up
//! and whose next connection got nothing new through is waited for twice as long.
//!
//! Decisions only: connections are looked after in `lanes.rs`.

use std::time::Duration;

use crate::client::context::{Context, Mux};
use crate::clock::Instant;
use crate::limits::{
    ANSWER_ROUND_TRIPS, ANSWER_WITHIN, ANSWER_WITHIN_MAX, ASK_AFTER, LOOKS_AN_ANSWER, MAX_LANES,
};
use crate::mux::{Channel, Transport};

/// What was learnt about a session's lanes, by index.
#[derive(Debug, Default)]
pub(super) struct Failover {
    doubts: [Doubt; MAX_LANES],
}

#[derive(Debug, Default, Clone, Copy)]
struct Doubt {
    /// How often it was given up since something new was acknowledged.
    given_up: u32,
    /// What was acknowledged when it was given up last.
    acknowledged: u64,
}

/// How a lane is to be looked after while there are others to go to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Watch {
    /// After how much silence it is asked for a sign of life.
    pub(super) quiet: Duration,
    /// How long the answer may take; none while the others are as silent.
    pub(super) patience: Option<Duration>,
    /// How soon to look again while the answer is awaited.
    pub(super) look: Duration,
}

impl Failover {
    /// A session begins.
    pub(super) fn begin(&mut self) {
        *self = Failover::default();
    }

    /// How lane `index` is to be looked after, where there is another one to go to.
    pub(super) fn watch(&self, session: &Mux, index: usize) -> Option<Watch> {
        let lane = session
            .lanes()
            .get(index)
            .filter(|_| session.lanes().keeps_streams())?;
        let others = session.lanes().iter().count() - 1;
        if others == 0 {
            return None;
        }
        let answer = self.answer_within(index, lane);
        let awaited = lane.transport().and_then(Transport::pinged);
        let all_silent = awaited.is_some_and(|since| silent(session, index, since).len() == others);
        Some(Watch {
            quiet: match lane.carries() {
                0 => Duration::MAX,
                _ => ASK_AFTER,
            },
            patience: (!all_silent).then_some(answer),
            look: answer / LOOKS_AN_ANSWER,
        })
    }

    /// How long an answer on a lane may take.
    fn answer_within(&self, index: usize, lane: &Channel) -> Duration {
        let round_trip = lane.transport().and_then(Transport::round_trip);
        let usual = round_trip.map_or(ANSWER_WITHIN, |it| {
            ANSWER_WITHIN.max(it.saturating_mul(ANSWER_ROUND_TRIPS))
        });
        let doubt = &self.doubts[index];
        let doublings = match lane.acknowledged() == doubt.acknowledged {
            true => doubt.given_up.min(MOST_DOUBLINGS),
            false => 0,
        };
        let doubled = usual.saturating_mul(1 << doublings);
        doubled.min(ANSWER_WITHIN_MAX.max(usual))
    }

    /// A lane is given up because it is silent.
    pub(super) fn gives_up(&mut self, session: &Mux, index: usize) {
        let acknowledged = session.lanes().get(index).map_or(0, Channel::acknowledged);
        let doubt = &mut self.doubts[index];
        if doubt.acknowledged != acknowledged {
            doubt.given_up = 0;
        }
        doubt.given_up += 1;
        doubt.acknowledged = acknowledged;
    }
}

/// The other lanes of which nothing was heard since then.
fn silent(session: &Mux, index: usize, since: Instant) -> Vec<usize> {
    let heard = |lane: &Channel| lane.transport().map(Transport::last_heard);
    let others = session.lanes().iter().filter(|(other, _)| *other != index);
    let silent = others.filter(|(_, lane)| heard(lane).is_none_or(|at| at < since));
    silent.map(|(other, _)| other).collect()
}

/// While a sign of life of a lane is awaited: when to look again. Once that takes a while, lanes
/// that are as silent are asked too: whether they answer makes the difference.
pub(super) fn awaited(
    session: &mut Mux,
    index: usize,
    look: Duration,
    cx: &mut Context,
) -> Option<Instant> {
    let since = session
        .lanes()
        .transport(index)
        .and_then(Transport::pinged)?;
    if cx.now >= since + look {
        let patience = cx.config.keepalive * 3 / 2;
        for other in silent(session, index, since) {
            let ping = cx.entropy.octets();
            session
                .lanes_mut()
                .check(other, cx.now, Duration::ZERO, patience, ping);
        }
    }
    Some(cx.now + look)
}

/// More make no difference.
const MOST_DOUBLINGS: u32 = 8;
