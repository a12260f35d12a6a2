//! Ends: of a connection, which another may follow, and of the session, which nothing follows.

use crate::client::context::Timer;
use crate::client::event::SessionEvent;
use crate::client::lanes::Phase;
use crate::client::link::{self, After};
use crate::client::machine::Client;
use crate::client::setback::Setback;
use crate::client::{Error, setback};
use crate::limits::{CLOSE_WITHIN, GOODBYE_WITHIN, MAX_LANES};
use crate::machine::{CloseHow, Command, ConnKey};
use crate::timers::Timers;
use crate::wire::code::Code;
use crate::wire::control::{self, GoAway};
use crate::wire::frame::FrameType;

impl Client {
    /// The primary connection is gone, and with it all streams.
    pub(super) fn link_lost(&mut self, setback: Setback) {
        if self.link.phase == link::Phase::Closing {
            self.link.phase = link::Phase::Over;
            self.drop_session("closed");
            return self.over(None);
        }
        let setback = self.goaway.take().unwrap_or(setback);
        let why = setback.error();
        self.drop_session("the connection to the kit was lost");
        match self
            .link
            .setback(&setback, &mut self.cx.entropy, self.cx.now)
        {
            After::Retry(retry_in) => {
                let why = why.to_string();
                self.cx.notify(SessionEvent::Lost { why, retry_in });
                self.cx
                    .effects
                    .timers
                    .arm(Timer::Retry, self.cx.now + retry_in);
            }
            After::GiveUp(error) => self.over(Some(error)),
        }
    }

    /// Forgets the session's lanes and streams; bindings are wanted again.
    fn drop_session(&mut self, why: &str) {
        let (local, mut around) = self.local();
        local.session_lost(&mut around, why);
        for index in 0..MAX_LANES {
            if let Some(conn) = self.lanes.conns[index].take() {
                let how = CloseHow::Clean;
                self.cx.effects.close(conn, how);
                self.conns.remove(conn);
            }
            self.cx.effects.timers.disarm(Timer::Lane(index as u8));
        }
        for timer in [Timer::Rejoin, Timer::Rebind, Timer::Goaway, Timer::Sweep] {
            self.cx.effects.timers.disarm(timer);
        }
        if let Some(mut session) = self.session.take() {
            for index in 0..MAX_LANES {
                session.detach(index);
            }
            self.parked = Some(session);
        }
        self.bindings.session_lost(&mut self.cx);
    }

    /// The user wants the end: unbind, let streams finish, say goodbye.
    pub(super) fn close(&mut self, at_once: bool) {
        match self.link.phase {
            link::Phase::Over => {}
            link::Phase::Waiting | link::Phase::Reaching => {
                self.drop_session("closed");
                self.over(None);
            }
            link::Phase::Closing => self.say_goodbye(),
            link::Phase::Online(_) => {
                self.link.phase = link::Phase::Closing;
                if at_once {
                    return self.say_goodbye();
                }
                if let Some(session) = &mut self.session {
                    self.bindings.leave(session);
                }
                self.cx
                    .effects
                    .timers
                    .arm(Timer::Close, self.cx.now + CLOSE_WITHIN);
                self.close_when_idle();
            }
        }
    }

    /// While closing: goodbye as soon as nothing runs any more.
    pub(super) fn close_when_idle(&mut self) {
        let idle = self.local.is_idle() && self.bindings.is_empty();
        if self.link.phase == link::Phase::Closing && idle {
            self.say_goodbye();
        }
    }

    /// Ends the session without parking it (PROTOCOL §6).
    pub(super) fn say_goodbye(&mut self) {
        if self.link.phase == link::Phase::Closing {
            // From here on no stream that ends brings us here again.
            self.link.phase = link::Phase::Over;
            self.part(
                &GoAway::new(Code::NoError, "closed by the client"),
                CLOSE_NORMAL,
            );
            self.drop_session("closed");
            self.over(None);
        }
    }

    /// Sends the last words on all lanes, which then only wait for them to leave.
    pub(super) fn part(&mut self, goaway: &GoAway, close_code: u16) {
        self.local.spill(self.session.as_ref());
        let Some(session) = &mut self.session else {
            return;
        };
        let mut json = Vec::new();
        control::write(goaway, &mut json);
        session.push_control(FrameType::GoAway, &json);
        session.push_close(close_code, &setback::plain(&goaway.message));
        for index in 0..MAX_LANES {
            let Some(conn) = self.lanes.conns[index] else {
                continue;
            };
            let Some(entry) = self.conns.get_mut(conn) else {
                continue;
            };
            let (Some(lane), _) = session.detach(index) else {
                continue;
            };
            entry.phase = Phase::Leaving(lane);
            self.lanes.conns[index] = None;
            self.cx
                .effects
                .timers
                .arm(Timer::Leaving(conn), self.cx.now + GOODBYE_WITHIN);
            self.cx.effects.wake(conn);
        }
    }

    /// A connection whose last words should have left by now, or whose kit closed it.
    pub(super) fn leave(&mut self, conn: ConnKey) {
        self.cx.effects.timers.disarm(Timer::Leaving(conn));
        if self.conns.remove(conn).is_some() {
            let how = CloseHow::Clean;
            self.cx.effects.close(conn, how);
        }
        self.stop_if_over();
    }

    /// Nothing follows.
    pub(super) fn over(&mut self, error: Option<Error>) {
        self.link.phase = link::Phase::Over;
        self.bindings.over(&mut self.cx, error.as_ref());
        let (local, mut around) = self.local();
        local.close_all(&mut around);
        let mut leaving = Timers::new();
        let mut closed = Vec::new();
        for (conn, lane) in self.conns.iter() {
            match lane.phase {
                Phase::Leaving(_) => {
                    leaving.arm(Timer::Leaving(conn), self.cx.now + GOODBYE_WITHIN);
                }
                _ => closed.push(conn),
            }
        }
        self.cx.effects.timers = leaving;
        for conn in closed {
            self.leave(conn);
        }
        self.cx.notify(SessionEvent::Closed { error });
        self.stop_if_over();
    }

    /// After the end the host stops as soon as the last words have left.
    pub(super) fn stop_if_over(&mut self) {
        if self.link.phase == link::Phase::Over
            && self.conns.is_empty()
            && self.local.is_gone()
            && !self.stopped
        {
            self.stopped = true;
            self.cx.effects.ask(Command::Stop);
        }
    }
}

/// RFC 6455 §7.4.1: the purpose is fulfilled.
const CLOSE_NORMAL: u16 = 1000;
