//! The kit's own listener at work: requests answered in order, upgrades handed to the greeter.

use crate::clock::Instant;
use crate::kit::conns::{ConnEntry, Role};
use crate::kit::doorstep::{Room, Standing};
use crate::kit::front::{Ask, Connect, Front, Refusal, Route, Step, UNREADABLE};
use crate::kit::guard::Credential;
use crate::kit::heads::Waiting;
use crate::limits::{FRONT_HEAD_TIMEOUT, FRONT_IDLE_TIMEOUT, MAX_HTTP_HEAD};
use crate::machine::{CloseHow, ConnKey};

use super::Kit;

/// A connection to the kit's own listener.
#[derive(Debug, Default)]
pub(super) struct FrontConn {
    front: Front,
    /// A request with a token, from an address that guessed wrong before: it waits to be judged.
    held: Option<(Ask, Instant)>,
    /// When it has asked something last.
    asked: Option<Instant>,
}

impl FrontConn {
    /// Where it stands, if it has proven nothing yet.
    pub(super) fn standing(&self, entry: &ConnEntry) -> Option<Standing> {
        match &self.held {
            Some((ask, _)) => {
                (ask.credential == Credential::Wrong).then(|| entry.stands_in(Room::Guessing, None))
            }
            None => Some(entry.stands_in(Room::Hall, self.asked)),
        }
    }

    /// Memory of what came and waits.
    pub(super) fn waiting(&self) -> Waiting {
        match self.held {
            Some(_) => Waiting::Asking(self.front.capacity()),
            None => Waiting::Head(self.front.capacity()),
        }
    }
}

impl Kit {
    pub(super) fn front_received(&mut self, conn: ConnKey, count: usize, now: Instant) {
        let Some(it) = self.fronts.get_mut(conn) else {
            return;
        };
        if count == 0 {
            if let Some(entry) = self.conns.get_mut(conn) {
                entry.read_closed = true;
            }
            return self.front_goes_on(conn, now);
        }
        it.front.feed(&self.cx.scratch[..count]);
        if it.front.waiting() > 2 * MAX_HTTP_HEAD {
            // Asks ahead while an earlier one is held back; nobody needs to.
            return self.conns.close(conn, CloseHow::Reset, &mut self.cx);
        }
        self.front_goes_on(conn, now);
    }

    /// Serves the requests at hand, each once the answer before it has left: who asks and does not
    /// read is not read either, and costs one answer of memory.
    pub(super) fn front_goes_on(&mut self, conn: ConnKey, now: Instant) {
        loop {
            let Some(entry) = self.conns.get_mut(conn) else {
                return;
            };
            let (peer, read_closed) = (entry.peer, entry.read_closed);
            let Some(it) = self
                .fronts
                .get_mut(conn)
                .filter(|_| entry.role == Role::Front)
            else {
                return;
            };
            if it.held.is_some() || !entry.out.is_empty() {
                return;
            }
            match it.front.next(&self.cx.config, peer) {
                Step::More if read_closed => {
                    return self.conns.close(conn, CloseHow::Clean, &mut self.cx);
                }
                Step::More => return,
                Step::Malformed(reject) => {
                    let mut text = Vec::new();
                    let refusal = Refusal::of_reject(reject);
                    refusal.write(&mut text, UNREADABLE);
                    self.cx
                        .complain_refused(peer.ip(), "malformed", &refusal.why);
                    return self.conns.say_and_leave(conn, &text, &mut self.cx);
                }
                Step::Asked(ask) => {
                    it.asked = Some(now);
                    entry.from = ask.origin.peer;
                    let delay = self
                        .conns
                        .doorstep
                        .throttle
                        .delay(ask.origin.peer.ip(), now);
                    if ask.shows_token() && !delay.is_zero() {
                        return self.hold(conn, ask, now + delay);
                    }
                    self.serve(conn, ask, now);
                }
            }
        }
    }

    fn hold(&mut self, conn: ConnKey, ask: Ask, until: Instant) {
        if ask.credential == Credential::Wrong {
            self.conns.guess_comes(&mut self.cx);
        }
        if let Some(it) = self.fronts.get_mut(conn) {
            it.held = Some((ask, until));
            self.cx.arm_conn(conn, until);
        }
    }

    fn serve(&mut self, conn: ConnKey, mut ask: Ask, now: Instant) {
        let peer = ask.origin.peer.ip();
        match ask.credential {
            Credential::Wrong if ask.shows_token() => {
                self.conns.doorstep.throttle.failed(peer, now)
            }
            Credential::Proven if ask.shows_token() => self.conns.doorstep.throttle.succeeded(peer),
            _ => {}
        }
        if matches!(ask.route, Route::Connect(_))
            && ask.credential != Credential::Proven
            && let Err(refusal) = self.conns.greeter_comes(&ask.origin, &mut self.cx)
        {
            ask.asked.keep_alive = false;
            ask.route = Route::Refuse(refusal);
        }
        let mut text = Vec::new();
        match ask.route {
            Route::Connect(connect) => return self.upgrade(conn, &connect, ask.credential, now),
            route => self.admin(route, peer, &mut text, ask.asked, now),
        }
        if !ask.asked.keep_alive {
            return self.conns.say_and_leave(conn, &text, &mut self.cx);
        }
        if let Some(entry) = self.conns.get_mut(conn) {
            entry.out.push(&text);
            self.cx.effects.wake(conn);
            self.cx.arm_conn(conn, now + FRONT_IDLE_TIMEOUT);
        }
    }

    fn upgrade(&mut self, conn: ConnKey, connect: &Connect, credential: Credential, now: Instant) {
        let mut text = Vec::new();
        connect.write(&mut text);
        let (Some(entry), Some(it)) = (self.conns.get_mut(conn), self.fronts.get_mut(conn)) else {
            return;
        };
        let early = it.front.rest();
        entry.out.push(&text);
        self.greet(
            conn,
            connect.subprotocol,
            credential.suffices(),
            &early,
            now,
        );
    }

    /// A head that does not come, or an idle connection of an operator; or one that was held back.
    pub(super) fn front_timeout(&mut self, conn: ConnKey, now: Instant) {
        let (Some(entry), Some(it)) = (self.conns.get(conn), self.fronts.get_mut(conn)) else {
            return;
        };
        if let Some((ask, _)) = it.held.take_if(|(_, until)| *until <= now) {
            self.cx.arm_conn(conn, now + FRONT_HEAD_TIMEOUT);
            self.serve(conn, ask, now);
            return self.front_goes_on(conn, now);
        }
        if it.front.is_idle() {
            return self.conns.close(conn, CloseHow::Clean, &mut self.cx);
        }
        let (mut text, peer) = (Vec::new(), entry.peer.ip());
        let refusal = Refusal::json(408, "the head of the request took too long");
        refusal.write(&mut text, UNREADABLE);
        self.cx.complain_refused(peer, "slow", &refusal.why);
        self.conns.say_and_leave(conn, &text, &mut self.cx);
    }
}
