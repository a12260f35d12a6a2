//! The kit's own listener at work: requests answered in order, upgrades handed to the greeter.

use std::net::SocketAddr;

use crate::clock::Instant;
use crate::http::Refusal;
use crate::kit::budget::Class;
use crate::kit::conns::{ConnEntry, Conns, Role};
use crate::kit::context::Context;
use crate::kit::front::admission::{Room, Standing};
use crate::kit::front::asks::{Ask, AskReader, Heard, Wanted};
use crate::kit::front::guard::Credential;
use crate::kit::heads::Waiting;
use crate::limits::{FRONT_HEAD_TIMEOUT, FRONT_IDLE_TIMEOUT, MAX_HTTP_HEAD};
use crate::machine::{CloseHow, ConnKey};

use super::Front;

/// A connection to the kit's own listener.
#[derive(Debug, Default)]
pub(in crate::kit) struct FrontConn {
    pub(super) asks: AskReader,
    /// A request with a token, from an address that guessed wrong before: it waits to be judged.
    held: Option<(Ask, Instant)>,
    /// When it has asked something last.
    asked: Option<Instant>,
}

impl FrontConn {
    /// Where it stands, if it has proven nothing yet.
    pub(in crate::kit) fn standing(&self, entry: &ConnEntry) -> Option<Standing> {
        match &self.held {
            Some((ask, _)) => {
                (ask.credential == Credential::Wrong).then(|| entry.stands_in(Room::Guessing, None))
            }
            None => Some(entry.stands_in(Room::Hall, self.asked)),
        }
    }

    /// Memory of what came and waits.
    pub(in crate::kit) fn waiting(&self) -> Waiting {
        match self.held {
            Some(_) => Waiting::Asking(self.asks.capacity()),
            None => Waiting::Head(self.asks.capacity()),
        }
    }
}

impl Front {
    /// Somebody came to the kit's own listener. Gives its name, if there is a place for it.
    pub(in crate::kit) fn accept(
        &mut self,
        peer: SocketAddr,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<ConnKey> {
        let in_the_hall = conns.admission.leaver(Room::Hall);
        // Nobody who came for a stream yields to those who come here.
        let (permit, gave_place) = conns.place(Class::Front, |_| None)?;
        let conn = conns.add(Role::Front, peer, permit, cx.now);
        // Only now, for a name is free only when the host has closed what had it.
        match gave_place {
            Some(leaver) if conns.admission.get(leaver).is_some() => conns.displace(leaver, cx),
            Some(lingers) => conns.close(lingers, CloseHow::Clean, cx),
            None => {}
        }
        let conn = conn?;
        self.fronts.insert(conn, Box::default());
        self.restand(conn, conns, cx);
        cx.arm_conn(conn, cx.now + FRONT_HEAD_TIMEOUT);
        if let Some(leaver) = in_the_hall {
            conns.displace(leaver, cx);
        }
        Some(conn)
    }

    pub(super) fn front_received(
        &mut self,
        conn: ConnKey,
        count: usize,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        let (Some(entry), Some(it)) = (conns.get_mut(conn), self.fronts.get_mut(conn)) else {
            return;
        };
        if count == 0 {
            entry.read_closed = true;
            return;
        }
        it.asks.feed(&cx.scratch[..count]);
        if it.asks.waiting() > 2 * MAX_HTTP_HEAD {
            // Asks ahead while an earlier one is held back; nobody needs to.
            conns.close(conn, CloseHow::Reset, cx);
        }
    }

    /// The next request, once the answer before it has left: who asks and does not read is not read
    /// either, and costs one answer of memory.
    pub(super) fn next_ask(
        &mut self,
        conn: ConnKey,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<Ask> {
        let (entry, it) = (conns.get_mut(conn)?, self.fronts.get_mut(conn)?);
        if it.held.is_some() || !entry.out.is_empty() {
            return None;
        }
        match it.asks.next(&cx.config, entry.peer) {
            Heard::More => {
                if entry.read_closed {
                    conns.close(conn, CloseHow::Clean, cx);
                }
                None
            }
            Heard::Malformed(reject) => {
                let refusal = Refusal::json(reject.status, reject.why);
                self.refuse(conn, "malformed", &refusal, conns, cx);
                None
            }
            Heard::Asked(ask) => {
                it.asked = Some(cx.now);
                entry.from = ask.origin.peer;
                let delay = conns.admission.throttle.delay(ask.origin.peer.ip(), cx.now);
                if !ask.shows_token() || delay.is_zero() {
                    return Some(ask);
                }
                if ask.credential == Credential::Wrong {
                    conns.guess_comes(cx);
                }
                let until = cx.now + delay;
                it.held = Some((ask, until));
                cx.arm_conn(conn, until);
                None
            }
        }
    }

    /// Notes whether a request was a guess. Gives one that is to be answered; upgrades go on as
    /// greeters.
    pub(super) fn judge(
        &mut self,
        conn: ConnKey,
        mut ask: Ask,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<Ask> {
        let peer = ask.origin.peer.ip();
        let throttle = &mut conns.admission.throttle;
        match ask.credential {
            Credential::Wrong if ask.shows_token() => throttle.failed(peer, cx.now),
            Credential::Proven if ask.shows_token() => throttle.succeeded(peer),
            _ => {}
        }
        let Wanted::Connect(connect) = &ask.wanted else {
            return Some(ask);
        };
        if ask.credential != Credential::Proven
            && let Err(refusal) = conns.greeter_comes(&ask.origin, cx)
        {
            ask.asked.keep_alive = false;
            ask.wanted = Wanted::Refuse(refusal);
            return Some(ask);
        }
        let mut text = Vec::new();
        connect.write(&mut text);
        let (entry, it) = (conns.get_mut(conn)?, self.fronts.get_mut(conn)?);
        let early = it.asks.rest();
        entry.out.push(&text);
        let proven = ask.credential.suffices();
        self.greet(conn, connect.subprotocol, proven, &early, conns, cx);
        None
    }

    /// A request was answered with `text`.
    pub(in crate::kit) fn answered(
        &self,
        conn: ConnKey,
        text: &[u8],
        keep_alive: bool,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        if !keep_alive {
            return conns.say_and_leave(conn, text, cx);
        }
        if let Some(entry) = conns.get_mut(conn) {
            entry.out.push(text);
            cx.effects.wake(conn);
            cx.arm_conn(conn, cx.now + FRONT_IDLE_TIMEOUT);
        }
    }

    /// A head that does not come, or an idle connection of an operator; or one that was held back.
    pub(super) fn front_timeout(
        &mut self,
        conn: ConnKey,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<Ask> {
        let it = self.fronts.get_mut(conn)?;
        if let Some((ask, _)) = it.held.take_if(|(_, until)| *until <= cx.now) {
            cx.arm_conn(conn, cx.now + FRONT_HEAD_TIMEOUT);
            return Some(ask);
        }
        if it.asks.is_idle() {
            conns.close(conn, CloseHow::Clean, cx);
        } else {
            let refusal = Refusal::json(408, "the head of the request took too long");
            self.refuse(conn, "slow", &refusal, conns, cx);
        }
        None
    }

    /// Says no to somebody whose request could not be read.
    fn refuse(
        &self,
        conn: ConnKey,
        reason: &'static str,
        refusal: &Refusal,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        let mut text = Vec::new();
        refusal.write_and_close(&mut text, self.asks_head(conn), cx.date);
        if let Some(entry) = conns.get(conn) {
            cx.complain_refused(entry.peer.ip(), reason, refusal.why());
        }
        conns.say_and_leave(conn, &text, cx);
    }
}
