//! From the upgrade to HELLO or JOIN: a WebSocket that has not said who it is (PROTOCOL §2, §7).

use std::borrow::Cow;

use crate::clock::Instant;
use crate::kit::conns::{ConnEntry, Role};
use crate::kit::doorstep::{Room, Standing};
use crate::kit::metrics::RefusalReason;
use crate::machine::ConnKey;
use crate::mux::{Item, Span, Transport};
use crate::wire::code::Code;
use crate::wire::control::{self, GoAway, Hello, Join};
use crate::wire::frame::FrameType;
use crate::ws::Subprotocol;

use super::{Kit, Reason};

/// A lane before its session is known.
#[derive(Debug)]
pub(super) struct Greeter {
    pub(super) lane: Transport,
    pub(super) subprotocol: Subprotocol,
    /// The upgrade request carried the right token, or none is needed.
    pub(super) proven: bool,
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
pub(super) struct Refused {
    /// For the metrics.
    pub(super) reason: RefusalReason,
    /// GOAWAY's code and message, where the protocol has one.
    pub(super) goaway: Option<Code>,
    /// The WebSocket close code.
    pub(super) close: u16,
    /// For both.
    pub(super) why: Cow<'static, str>,
}

impl Greeter {
    /// Where it stands, if it has proven nothing yet.
    pub(super) fn standing(&self, entry: &ConnEntry, guarded: bool) -> Option<Standing> {
        let room = match &self.held {
            Some(held) => held.wrong.then_some(Room::Guessing)?,
            None if self.proven && guarded => return None,
            None => Room::Greeting,
        };
        Some(entry.stands_in(room, None))
    }
}

impl Refused {
    /// A protocol error before HELLO_OK (PROTOCOL §1.4).
    pub(super) fn protocol(why: impl Into<Cow<'static, str>>) -> Refused {
        Refused {
            reason: RefusalReason::Protocol,
            goaway: None,
            close: 1002,
            why: why.into(),
        }
    }

    /// There is no descriptor left for another lane.
    pub(super) fn no_place() -> Refused {
        Refused {
            reason: RefusalReason::Descriptors,
            goaway: None,
            close: 1013,
            why: "no file descriptors left for another connection".into(),
        }
    }
}

impl Kit {
    /// The front answered an upgrade; what came behind the request belongs to the WebSocket.
    pub(super) fn greet(
        &mut self,
        conn: ConnKey,
        subprotocol: Subprotocol,
        proven: bool,
        early: &[u8],
        now: Instant,
    ) {
        let mut lane = Transport::server(conn, now);
        lane.feed(early, now);
        let greeter = Greeter {
            lane,
            subprotocol,
            proven,
            held: None,
        };
        self.greeters.insert(conn, Box::new(greeter));
        self.conns.greets(conn);
        self.cx
            .effects
            .timers
            .arm(Reason::Conn(conn), now + self.cx.config.hello_timeout);
        self.cx.effects.wake(conn);
        self.greeter_pump(conn, now);
    }

    pub(super) fn greeter_space(&mut self, conn: ConnKey) -> &mut [u8] {
        match self.greeters.get_mut(conn) {
            // While HELLO waits nothing else is read.
            Some(greeter) if greeter.held.is_none() => greeter.lane.read_space(),
            _ => &mut [],
        }
    }

    pub(super) fn greeter_received(&mut self, conn: ConnKey, count: usize, now: Instant) {
        if count == 0 {
            self.conns
                .close(conn, crate::machine::CloseHow::Clean, &mut self.cx);
            return;
        }
        if let Some(greeter) = self.greeters.get_mut(conn) {
            greeter.lane.received(count, now);
            self.greeter_pump(conn, now);
        }
    }

    fn greeter_pump(&mut self, conn: ConnKey, now: Instant) {
        loop {
            let Some(greeter) = self.greeters.get_mut(conn) else {
                return;
            };
            let refused = match greeter.lane.poll() {
                Ok(None) => return,
                Ok(Some(Item::Pinged)) => {
                    self.cx.effects.wake(conn);
                    continue;
                }
                Ok(Some(Item::Closed { .. })) => Refused {
                    reason: RefusalReason::Protocol,
                    goaway: None,
                    close: 1000,
                    why: "closed before HELLO".into(),
                },
                Ok(Some(Item::Frame {
                    kind: FrameType::Hello,
                    payload,
                    ..
                })) => match self.first_hello(conn, &payload, now) {
                    Ok(()) => return,
                    Err(refused) => refused,
                },
                Ok(Some(Item::Frame {
                    kind: FrameType::Join,
                    payload,
                    ..
                })) => match self.first_join(conn, &payload, now) {
                    Ok(()) => return,
                    Err(refused) => refused,
                },
                Ok(Some(Item::Frame { kind, .. })) => {
                    Refused::protocol(format!("the first frame must be HELLO or JOIN, not {kind}"))
                }
                Err(violation) => Refused {
                    reason: RefusalReason::Protocol,
                    goaway: None,
                    close: violation.close_code(),
                    why: violation.why,
                },
            };
            return self.send_away(conn, &refused);
        }
    }

    fn first_hello(&mut self, conn: ConnKey, payload: &Span, now: Instant) -> Result<(), Refused> {
        let (greeter, peer) = self.greeter(conn).ok_or_else(gone)?;
        let hello: Hello = control::parse(greeter.lane.payload(payload))
            .map_err(|error| Refused::protocol(error.to_string()))?;
        if hello.version != greeter.subprotocol.name() {
            return Err(Refused {
                reason: RefusalReason::Version,
                goaway: Some(Code::VersionMismatch),
                close: 1002,
                why: "HELLO.version is not the negotiated subprotocol".into(),
            });
        }
        let delay = self.conns.doorstep.throttle.delay(peer.ip(), now);
        if self.cx.config.token.is_some() && !delay.is_zero() {
            let wrong = !self.is_proven(conn, &hello);
            if wrong {
                self.conns.guess_comes(&mut self.cx);
            }
            let (greeter, _) = self.greeter(conn).ok_or_else(gone)?;
            greeter.held = Some(Held {
                hello,
                until: now + delay,
                wrong,
            });
            self.cx.effects.timers.arm(Reason::Conn(conn), now + delay);
            return Ok(());
        }
        self.judge_hello(conn, &hello, now)
    }

    /// Whether the upgrade or this HELLO shows the token, if one is wanted.
    fn is_proven(&mut self, conn: ConnKey, hello: &Hello) -> bool {
        let proven = self
            .greeter(conn)
            .is_some_and(|(greeter, _)| greeter.proven);
        let shown = hello.auth.as_ref().map_or("", |auth| auth.token.expose());
        let token = self.cx.config.token.as_ref();
        proven || token.is_none_or(|token| token.matches(shown))
    }

    fn judge_hello(&mut self, conn: ConnKey, hello: &Hello, now: Instant) -> Result<(), Refused> {
        let (_, peer) = self.greeter(conn).ok_or_else(gone)?;
        if !self.is_proven(conn, hello) {
            self.conns.doorstep.throttle.failed(peer.ip(), now);
            return Err(Refused {
                reason: RefusalReason::Auth,
                goaway: Some(Code::AuthError),
                close: 1008,
                why: "the token is missing or wrong".into(),
            });
        }
        self.conns.doorstep.throttle.succeeded(peer.ip());
        self.hello(conn, hello, now)
    }

    fn first_join(&mut self, conn: ConnKey, payload: &Span, now: Instant) -> Result<(), Refused> {
        let (greeter, _) = self.greeter(conn).ok_or_else(gone)?;
        if greeter.subprotocol != Subprotocol::V2 {
            return Err(Refused::protocol("JOIN is not spoken on hoody-tunnel.v1"));
        }
        let join: Join = control::parse(greeter.lane.payload(payload))
            .map_err(|error| Refused::protocol(error.to_string()))?;
        self.join(conn, &join, now)
    }

    fn greeter(&mut self, conn: ConnKey) -> Option<(&mut Greeter, std::net::SocketAddr)> {
        let entry = self.conns.get(conn)?;
        let greeter = self.greeters.get_mut(conn)?;
        (entry.role == Role::Greeter).then_some((greeter, entry.from))
    }

    /// HELLO did not come in time, or one that was held may be looked at now.
    pub(super) fn greeter_timeout(&mut self, conn: ConnKey) {
        let now = self.cx.now;
        let Some((greeter, _)) = self.greeter(conn) else {
            return;
        };
        let outcome = match greeter.held.take() {
            Some(held) if held.until <= now => self.judge_hello(conn, &held.hello, now),
            _ => Err(Refused::protocol("no HELLO within the hello timeout")),
        };
        if let Err(refused) = outcome {
            self.send_away(conn, &refused);
        } else {
            self.greeter_pump(conn, now);
        }
    }

    /// GOAWAY where there is a code for it, the close frame, and the end.
    pub(super) fn send_away(&mut self, conn: ConnKey, refused: &Refused) {
        let Some((greeter, peer)) = self.greeter(conn) else {
            return;
        };
        let peer = peer.ip();
        if let Some(code) = refused.goaway {
            let mut json = Vec::new();
            control::write(&GoAway::new(code, refused.why.clone()), &mut json);
            greeter.lane.push_control(FrameType::GoAway, &json);
        }
        greeter.lane.push_close(refused.close, &refused.why);
        let bytes = drain_lane(&mut greeter.lane);
        self.cx.refused(peer, refused.reason, &refused.why);
        self.conns.say_and_leave(conn, &bytes, &mut self.cx);
    }
}

/// All that a connection without a channel still has to say.
pub(super) fn drain_lane(lane: &mut Transport) -> Vec<u8> {
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

fn gone() -> Refused {
    Refused::protocol("the connection is gone")
}
