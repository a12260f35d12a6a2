//! From the upgrade to HELLO or JOIN: a WebSocket that has not said who it is (PROTOCOL §2, §7).

use std::borrow::Cow;
use std::time::Duration;

use crate::clock::Instant;
use crate::kit::Reason;
use crate::kit::config::Config;
use crate::kit::conns::{ConnEntry, Conns, LaneName};
use crate::kit::context::Context;
use crate::kit::front::admission::{Room, Standing};
use crate::kit::metrics::RefusalReason;
use crate::machine::{CloseHow, ConnKey};
use crate::mux::{Item, Span, Transport};
use crate::units::show_duration;
use crate::wire::code::Code;
use crate::wire::control::{self, GoAway, Hello, Join, JoinErr, JoinErrCode};
use crate::wire::frame::FrameType;
use crate::ws::Subprotocol;

use super::{Front, Wants};

/// A lane before its session is known.
#[derive(Debug)]
pub(in crate::kit) struct Greeter {
    pub(in crate::kit) lane: Transport,
    pub(in crate::kit) subprotocol: Subprotocol,
    /// The upgrade request carried the right token, or none is needed.
    pub(in crate::kit) proven: bool,
    /// HELLO came from an address that guessed wrong before, and waits to be looked at.
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    hello: Hello,
    until: Instant,
    /// What it shows is not the token.
    wrong: bool,
}

/// Why a greeter is sent away.
#[derive(Debug)]
pub(in crate::kit) struct Dismissal {
    /// For the metrics.
    pub(in crate::kit) reason: RefusalReason,
    /// GOAWAY's code, where the protocol has one.
    pub(in crate::kit) goaway: Option<Code>,
    /// Whether it is not wanted back at all, or may come back at once; else as it likes.
    pub(in crate::kit) is_final: Option<bool>,
    /// The WebSocket close code.
    pub(in crate::kit) close: u16,
    /// For both.
    pub(in crate::kit) why: Cow<'static, str>,
}

impl Greeter {
    /// Where it stands, if it has proven nothing yet.
    pub(in crate::kit) fn standing(&self, entry: &ConnEntry, guarded: bool) -> Option<Standing> {
        let room = match &self.held {
            Some(held) => held.wrong.then_some(Room::Guessing)?,
            None if self.proven && guarded => Room::Proven,
            None => Room::Greeting,
        };
        Some(entry.stands_in(room, None))
    }
}

impl Dismissal {
    /// A protocol error before HELLO_OK (PROTOCOL §1.4).
    pub(in crate::kit) fn protocol(why: impl Into<Cow<'static, str>>) -> Dismissal {
        Dismissal {
            reason: RefusalReason::Protocol,
            goaway: None,
            is_final: None,
            close: 1002,
            why: why.into(),
        }
    }

    /// There is no descriptor left for another lane.
    pub(in crate::kit) fn no_place() -> Dismissal {
        Dismissal {
            reason: RefusalReason::Descriptors,
            goaway: None,
            is_final: None,
            close: 1013,
            why: "no file descriptors left for another connection".into(),
        }
    }
}

impl Greeter {
    /// Whether the upgrade or this HELLO shows the token, if one is wanted.
    fn is_proven_by(&self, hello: &Hello, config: &Config) -> bool {
        let shown = hello.auth.as_ref().map_or("", |auth| auth.token.expose());
        let token = config.token.as_ref();
        self.proven || token.is_none_or(|token| token.matches(shown))
    }
}

impl Front {
    /// An upgrade was answered; what came behind the request belongs to the WebSocket.
    pub(super) fn greet(
        &mut self,
        conn: ConnKey,
        subprotocol: Subprotocol,
        proven: bool,
        early: &[u8],
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        let mut lane = Transport::server(conn, cx.now);
        lane.feed(early, cx.now);
        let greeter = Greeter {
            lane,
            subprotocol,
            proven,
            held: None,
        };
        self.greeters.insert(conn, Box::new(greeter));
        conns.greets(conn);
        cx.arm_conn(conn, cx.now + cx.config.hello_timeout);
        cx.effects.wake(conn);
    }

    pub(in crate::kit) fn greeter_space(&mut self, conn: ConnKey) -> &mut [u8] {
        match self.greeters.get_mut(conn) {
            // While HELLO waits nothing else is read.
            Some(greeter) if greeter.held.is_none() => greeter.lane.read_space(),
            _ => &mut [],
        }
    }

    /// What a greeter has to say on its WebSocket.
    pub(in crate::kit) fn greeter_transmit(&mut self, conn: ConnKey) -> &[u8] {
        let greeter = self.greeters.get_mut(conn);
        greeter.map_or(&[], |greeter| greeter.lane.transmit())
    }

    pub(in crate::kit) fn greeter_transmitted(&mut self, conn: ConnKey, count: usize) {
        if let Some(greeter) = self.greeters.get_mut(conn) {
            greeter.lane.transmitted(count);
        }
    }

    /// Takes out a greeter, whose connection carries a lane from now on.
    pub(in crate::kit) fn take_greeter(
        &mut self,
        conn: ConnKey,
        lane: LaneName,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<Greeter> {
        let greeter = self.greeters.remove(conn)?;
        conns.carries(conn, lane);
        cx.effects.timers.disarm(Reason::Conn(conn));
        Some(*greeter)
    }

    pub(super) fn greeter_received(
        &mut self,
        conn: ConnKey,
        count: usize,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        if count == 0 {
            conns.close(conn, CloseHow::Clean, cx);
        } else if let Some(greeter) = self.greeters.get_mut(conn) {
            greeter.lane.received(count, cx.now);
        }
    }

    pub(super) fn next_greeting(
        &mut self,
        conn: ConnKey,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<Wants> {
        loop {
            let greeter = self.greeters.get_mut(conn)?;
            if greeter.held.is_some() {
                return None;
            }
            let wants = match greeter.lane.poll() {
                Ok(None) => return None,
                Ok(Some(Item::Pinged)) => {
                    cx.effects.wake(conn);
                    continue;
                }
                Ok(Some(Item::Closed { .. })) => Err(Dismissal {
                    reason: RefusalReason::Protocol,
                    goaway: None,
                    is_final: None,
                    close: 1000,
                    why: "closed before HELLO".into(),
                }),
                Ok(Some(Item::Frame {
                    kind: FrameType::Hello,
                    payload,
                    ..
                })) => self.first_hello(conn, &payload, conns, cx),
                Ok(Some(Item::Frame {
                    kind: FrameType::Join,
                    payload,
                    ..
                })) => greeter
                    .first_join(&payload)
                    .map(|join| Some(Wants::Lane(join))),
                Ok(Some(Item::Frame { kind, .. })) => {
                    let why = format!("the first frame must be HELLO or JOIN, not {kind}");
                    Err(Dismissal::protocol(why))
                }
                Err(violation) => Err(Dismissal {
                    reason: RefusalReason::Protocol,
                    goaway: None,
                    is_final: None,
                    close: violation.close_code(),
                    why: violation.why,
                }),
            };
            return self.or_send_away(conn, wants, conns, cx);
        }
    }

    fn or_send_away(
        &mut self,
        conn: ConnKey,
        wants: Result<Option<Wants>, Dismissal>,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<Wants> {
        wants.unwrap_or_else(|refused| {
            self.send_away(conn, &refused, conns, cx);
            None
        })
    }

    fn first_hello(
        &mut self,
        conn: ConnKey,
        payload: &Span,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Result<Option<Wants>, Dismissal> {
        let greeter = self.greeters.get_mut(conn).ok_or_else(gone)?;
        let peer = conns.get(conn).ok_or_else(gone)?.from.ip();
        let hello: Hello = control::parse(greeter.lane.payload(payload))
            .map_err(|error| Dismissal::protocol(error.to_string()))?;
        if hello.version != greeter.subprotocol.name() {
            return Err(Dismissal {
                reason: RefusalReason::Version,
                goaway: Some(Code::VersionMismatch),
                is_final: None,
                close: 1002,
                why: "HELLO.version is not the negotiated subprotocol".into(),
            });
        }
        let delay = conns.admission.throttle.delay(peer, cx.now);
        if cx.config.token.is_none() || delay.is_zero() {
            return self.judge_hello(conn, hello, conns, cx).map(Some);
        }
        let wrong = !greeter.is_proven_by(&hello, &cx.config);
        if wrong {
            conns.guess_comes(cx);
        }
        let until = cx.now + delay;
        greeter.held = Some(Held {
            hello,
            until,
            wrong,
        });
        cx.arm_conn(conn, until);
        Ok(None)
    }

    fn judge_hello(
        &self,
        conn: ConnKey,
        hello: Hello,
        conns: &mut Conns,
        cx: &Context,
    ) -> Result<Wants, Dismissal> {
        let greeter = self.greeters.get(conn).ok_or_else(gone)?;
        let peer = conns.get(conn).ok_or_else(gone)?.from.ip();
        if !greeter.is_proven_by(&hello, &cx.config) {
            conns.admission.throttle.failed(peer, cx.now);
            return Err(Dismissal {
                reason: RefusalReason::Auth,
                goaway: Some(Code::AuthError),
                is_final: None,
                close: 1008,
                why: "the token is missing or wrong".into(),
            });
        }
        conns.admission.throttle.succeeded(peer);
        if let Some(left) = conns.admission.bans.left(peer, cx.now) {
            return Err(Dismissal {
                reason: RefusalReason::Banned,
                goaway: Some(Code::Cancel),
                is_final: Some(true),
                close: 1008,
                why: {
                    let left = show_duration(Duration::from_secs(left.as_secs() + 1));
                    format!("the operator keeps this address away for {left} more").into()
                },
            });
        }
        Ok(Wants::Session(hello))
    }

    /// HELLO did not come in time, or one that was held may be looked at now.
    pub(super) fn greeter_timeout(
        &mut self,
        conn: ConnKey,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<Wants> {
        let wants = match self.greeters.get_mut(conn)?.held.take() {
            Some(held) if held.until <= cx.now => {
                self.judge_hello(conn, held.hello, conns, cx).map(Some)
            }
            _ => Err(Dismissal::protocol("no HELLO within the hello timeout")),
        };
        self.or_send_away(conn, wants, conns, cx)
    }

    /// GOAWAY where there is a code for it, the close frame, and the end.
    pub(in crate::kit) fn send_away(
        &mut self,
        conn: ConnKey,
        refused: &Dismissal,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        let (Some(entry), Some(greeter)) = (conns.get(conn), self.greeters.get_mut(conn)) else {
            return;
        };
        cx.refused(entry.from.ip(), refused.reason, &refused.why);
        if let Some(code) = refused.goaway {
            greeter.lane.say(&GoAway {
                is_final: refused.is_final,
                ..GoAway::new(code, refused.why.clone())
            });
        }
        close_lane(&mut greeter.lane, refused.close, &refused.why, conns, cx);
    }

    /// A JOIN is not taken: JOIN_ERR, and the end.
    pub(in crate::kit) fn refuse_join(
        &mut self,
        conn: ConnKey,
        code: JoinErrCode,
        why: &str,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        cx.metrics.refused_join(code);
        let Some(greeter) = self.greeters.get_mut(conn) else {
            return;
        };
        greeter.lane.say(&JoinErr {
            code,
            message: why.to_owned(),
            instance: Some(cx.instance()),
        });
        close_lane(&mut greeter.lane, 1008, why, conns, cx);
    }
}

impl Greeter {
    fn first_join(&self, payload: &Span) -> Result<Join, Dismissal> {
        if self.subprotocol != Subprotocol::V2 {
            return Err(Dismissal::protocol("JOIN is not spoken on hoody-tunnel.v1"));
        }
        control::parse(self.lane.payload(payload))
            .map_err(|error| Dismissal::protocol(error.to_string()))
    }
}

/// Closes a lane that no channel has, once it has said what it still has to say.
pub(in crate::kit) fn close_lane(
    lane: &mut Transport,
    close: u16,
    why: &str,
    conns: &mut Conns,
    cx: &mut Context,
) {
    lane.push_close(close, why);
    let bytes = drain_lane(lane);
    conns.say_and_leave(lane.conn(), &bytes, cx);
}

/// All that a connection without a channel still has to say.
pub(in crate::kit) fn drain_lane(lane: &mut Transport) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let bytes = lane.transmit();
        if bytes.is_empty() {
            return all;
        }
        let count = bytes.len();
        all.extend_from_slice(bytes);
        lane.transmitted(count);
    }
}

fn gone() -> Dismissal {
    Dismissal::protocol("the connection is gone")
}
