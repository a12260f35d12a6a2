//! Frames of a session's lanes: its own are taken in, those for others come out.

use log::debug;

use crate::kit::conns::Conns;
use crate::kit::context::Context;
use crate::kit::keys::SessionKey;
use crate::kit::metrics::SessionEnd;
use crate::kit::stream::forward::Opened;
use crate::machine::ConnKey;
use crate::mux::{Incoming, Span, Violation};
use crate::text::said;
use crate::wire::code::Code;
use crate::wire::control::{self, Bind, GoAway, ReissueRequest, Unbind};
use crate::wire::frame::FrameType;

use super::{KitSession, Sessions};

/// A frame that is not the session's own to see to. A span is in the buffer of the lane that it
/// came on.
#[derive(Debug)]
pub(in crate::kit) enum Arrived {
    /// The head of a response, for a visitor.
    Head(ConnKey, Span),
    /// The trailers of a response.
    Trailers(ConnKey, Span),
    /// Bytes for whoever has the stream.
    Data(ConnKey, Span),
    /// A datagram for the peer of a UDP port.
    Datagram(ConnKey, Span),
    /// The laptop says no more on a stream.
    Eof(ConnKey),
    /// A stream is over in both directions.
    Reset {
        conn: ConnKey,
        code: Code,
        reason: String,
        /// It is over because the client broke the protocol.
        violation: bool,
    },
    /// A stream is opened, for which the kit is to connect.
    Opened(Opened, Span),
    /// A port is wanted.
    Bind(Bind),
    /// The port of a binding is given back.
    Unbind(u64),
}

impl Sessions {
    /// `count` bytes came on a lane, or with 0 the FIN.
    pub(in crate::kit) fn received(
        &mut self,
        key: SessionKey,
        index: usize,
        count: usize,
        conns: &mut Conns,
        cx: &mut Context,
    ) {
        if count == 0 {
            self.lane_ended(key, index, "the connection was closed", conns, cx);
        } else if let Some(lane) = self.lane_mut(key, index) {
            lane.received(count, cx.now);
        }
    }

    /// The next frame on a lane that is for others, once those before it were taken in.
    pub(in crate::kit) fn next_arrived(
        &mut self,
        key: SessionKey,
        index: usize,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Option<Arrived> {
        loop {
            let taken = match self.mux_mut(key)?.poll(index, cx.now) {
                Ok(None) => return None,
                Ok(Some(incoming)) => self.take(key, index, incoming, conns, cx),
                Err(violation) => Err(violation),
            };
            match taken {
                Ok(None) => {}
                Ok(arrived) => return arrived,
                Err(violation) => {
                    self.violated(key, &violation, conns, cx);
                    return None;
                }
            }
        }
    }

    fn take(
        &mut self,
        key: SessionKey,
        index: usize,
        incoming: Incoming<ConnKey>,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Result<Option<Arrived>, Violation> {
        Ok(Some(match incoming {
            Incoming::Head { tag, payload, .. } => Arrived::Head(tag, payload),
            Incoming::Trailers { tag, payload } => Arrived::Trailers(tag, payload),
            Incoming::Data { tag, payload, .. } => Arrived::Data(tag, payload),
            Incoming::Datagram { tag, payload } => Arrived::Datagram(tag, payload),
            Incoming::Eof { tag, .. } => Arrived::Eof(tag),
            Incoming::Reset {
                tag,
                code,
                reason,
                violation,
            } => Arrived::Reset {
                conn: tag,
                code,
                reason,
                violation,
            },
            Incoming::Control { kind, payload } => {
                return self.control(key, index, kind, &payload, conns, cx);
            }
            // Never told to a kit.
            Incoming::Connected { .. } => return Ok(None),
            Incoming::Opened { id, payload, hasty } => {
                Arrived::Opened(Opened { id, hasty }, payload)
            }
            Incoming::Closed { code } => {
                // Ended without parking: a close frame with code 1000 or none (PROTOCOL §6). Where
                // streams are kept it may be the word of a proxy (PROTOCOL §9).
                let keeps = self.get(key).is_some_and(KitSession::keeps_streams);
                if index == 0 && matches!(code, None | Some(1000)) && !keeps {
                    let why = "closed by the client";
                    self.end(key, SessionEnd::Client, why, Some(1000), conns, cx);
                } else {
                    let why = "the client closed the connection";
                    self.lane_ended(key, index, why, conns, cx);
                }
                return Ok(None);
            }
        }))
    }

    fn control(
        &mut self,
        key: SessionKey,
        index: usize,
        kind: FrameType,
        span: &Span,
        conns: &mut Conns,
        cx: &mut Context,
    ) -> Result<Option<Arrived>, Violation> {
        let malformed = |error: control::ControlError| {
            Violation::session(Code::ProtocolError, error.to_string())
        };
        let Some(mux) = self.mux(key) else {
            return Ok(None);
        };
        let payload = mux.payload(index, span);
        match kind {
            FrameType::Bind => {
                let bind: Bind = control::parse(payload).map_err(malformed)?;
                Ok(Some(Arrived::Bind(bind)))
            }
            FrameType::Unbind => {
                let unbind: Unbind = control::parse(payload).map_err(malformed)?;
                Ok(Some(Arrived::Unbind(unbind.bind_id)))
            }
            FrameType::ReissueJoinTickets => {
                let request: ReissueRequest = control::parse(payload).map_err(malformed)?;
                self.reissue_tickets(key, &request, conns, cx);
                Ok(None)
            }
            FrameType::GoAway => {
                let goaway: GoAway = control::parse(payload).map_err(malformed)?;
                debug!(
                    "GOAWAY from the client: {:?} ({})",
                    goaway.code(),
                    said(&goaway.message)
                );
                let why = "the client said GOAWAY";
                self.end(key, SessionEnd::Client, why, Some(1000), conns, cx);
                Ok(None)
            }
            other => {
                let why = format!("{other} is not for a client to send here");
                Err(Violation::session(Code::ProtocolError, why))
            }
        }
    }
}
