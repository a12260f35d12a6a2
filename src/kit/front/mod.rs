//! The kit's own listener: HTTP for operators, and the way in for laptops (PROTOCOL §1, §2, §10).
//!
//! Whoever comes asks HTTP ([`serve`]) and may upgrade; then it has to say HELLO or JOIN
//! ([`greeter`]). [`Front`] keeps both, slows who guesses, and makes room among those who have
//! proven nothing. What needs the rest of the kit comes out as [`Wants`]; the dispatcher sees to it
//! and asks again with [`Front::next`] until nothing is wanted.
//!
//! The room opens no session and knows none.
//!
//! | file | part |
//! | --- | --- |
//! | `asks`, `guard` | what a request asks for and whether it may |
//! | `serve`, `greeter` | who asks HTTP; who has upgraded |
//! | `admission`, `crowd` | who may wait before it has proven anything (PROTOCOL §2) |
//! | `throttle` | who guessed wrong, and waits |
//! | `bans` | who is kept away by an operator |

pub(in crate::kit) mod admission;
pub(in crate::kit) mod asks;
mod bans;
pub(in crate::kit) mod crowd;
pub(in crate::kit) mod greeter;
pub(in crate::kit) mod guard;
mod serve;
pub(in crate::kit) mod throttle;

use crate::kit::conns::{ConnEntry, Conns, Role};
use crate::kit::context::Context;
use crate::kit::heads::Waiting;
use crate::machine::{Conn, ConnKey};
use crate::table::Side;
use crate::wire::control::{Hello, Join};

use admission::Standing;
use asks::Ask;
use greeter::Greeter;
use serve::FrontConn;

/// What somebody at the door wants of the kit.
#[derive(Debug)]
pub(super) enum Wants {
    /// An answer.
    Answer(Ask),
    /// A session, and has proven that it may.
    Session(Hello),
    /// To carry a lane of one.
    Lane(Join),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Front {
    fronts: Side<Conn, Box<FrontConn>>,
    greeters: Side<Conn, Box<Greeter>>,
}

impl Front {
    /// What somebody wants of the kit next, after everything that happened to it.
    pub(super) fn next(
        &mut self,
        conn: ConnKey,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<Wants> {
        loop {
            match conns.role(conn)? {
                Role::Front => {
                    let ask = self.next_ask(conn, conns, cx)?;
                    if let Some(ask) = self.judge(conn, ask, conns, cx) {
                        return Some(Wants::Answer(ask));
                    }
                }
                Role::Greeter => return self.next_greeting(conn, conns, cx),
                _ => return None,
            }
        }
    }

    /// Bytes came, or with 0 the FIN.
    pub(super) fn received(
        &mut self,
        conn: ConnKey,
        count: usize,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        match conns.role(conn) {
            Some(Role::Front) => self.front_received(conn, count, conns, cx),
            Some(Role::Greeter) => self.greeter_received(conn, count, conns, cx),
            _ => {}
        }
    }

    /// A deadline of somebody's is due.
    pub(super) fn timeout(
        &mut self,
        conn: ConnKey,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<Wants> {
        match conns.role(conn)? {
            Role::Front => {
                let ask = self.front_timeout(conn, conns, cx)?;
                self.judge(conn, ask, conns, cx).map(Wants::Answer)
            }
            Role::Greeter => self.greeter_timeout(conn, conns, cx),
            _ => None,
        }
    }

    /// Where somebody stands, if it has proven nothing yet.
    pub(super) fn standing(
        &self,
        conn: ConnKey,
        entry: &ConnEntry,
        guarded: bool,
    ) -> Option<Standing> {
        match entry.role {
            Role::Front => self.fronts.get(conn)?.standing(entry),
            Role::Greeter => self.greeters.get(conn)?.standing(entry, guarded),
            _ => None,
        }
    }

    /// Notes where somebody stands after something happened to it, and what waits of it.
    pub(super) fn restand(&self, conn: ConnKey, conns: &mut Conns, cx: &Context) {
        let Some(entry) = conns.get(conn) else {
            return;
        };
        let standing = self.standing(conn, entry, cx.config.token.is_some());
        let front = self.fronts.get(conn).filter(|_| entry.role == Role::Front);
        let held = front.map_or(Waiting::Head(0), |it| it.waiting());
        conns.stands(conn, standing, held);
    }

    /// A connection is not of this room any more.
    pub(super) fn forget(&mut self, conn: ConnKey, role: Role) {
        match role {
            Role::Front => drop(self.fronts.remove(conn)),
            Role::Greeter => drop(self.greeters.remove(conn)),
            _ => {}
        }
    }

    /// Whether the request that comes on a connection is a HEAD, as far as it can be seen.
    pub(super) fn asks_head(&self, conn: ConnKey) -> bool {
        let front = self.fronts.get(conn);
        front.is_some_and(|it| it.asks.asks_head())
    }

    /// How many connections are known here.
    pub(super) fn len(&self) -> usize {
        self.fronts.len() + self.greeters.len()
    }

    /// Whether a connection is known here.
    pub(super) fn knows(&self, conn: ConnKey, role: Role) -> bool {
        match role {
            Role::Front => self.fronts.get(conn).is_some(),
            Role::Greeter => self.greeters.get(conn).is_some(),
            _ => false,
        }
    }

    /// Gives memory back that is not needed.
    pub(super) fn shrink(&mut self) {
        self.fronts.shrink();
        self.greeters.shrink();
    }
}
