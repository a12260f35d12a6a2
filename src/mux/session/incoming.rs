//! What comes in: frames are judged, credit is booked, and the rest is handed to the owner.

use crate::clock::Instant;
use crate::limits::MAX_DATAGRAM;
use crate::mux::flood::Nuisance;
use crate::mux::keys::StreamKey;
use crate::mux::session::Session;
use crate::mux::stream::Stream;
use crate::mux::terms::Side;
use crate::mux::transport::{Item, Span};
use crate::mux::violation::Violation;
use crate::wire::code::Code;
use crate::wire::frame::{Frame, FrameType};

/// What the owner of a session has to know. Spans name bytes in the buffer of the polled lane, and
/// are good until its next `read_space`.
#[derive(Debug)]
pub enum Incoming<T> {
    /// A session frame with JSON that the session itself does not understand (HELLO to SHARD_MAP,
    /// GOAWAY, BIND_REVOKED).
    Control {
        /// Its type.
        kind: FrameType,
        /// Its JSON.
        payload: Span,
    },
    /// The peer opens a stream; the owner takes it with [`Session::accept`] or refuses it with
    /// [`Session::refuse`], before it polls on.
    Opened {
        /// Its id.
        id: u32,
        /// The JSON of STREAM_OPEN.
        payload: Span,
        /// A client opens so many in a short time that this one is to be refused.
        hasty: bool,
    },
    /// A response head.
    Head {
        /// The stream.
        stream: StreamKey,
        /// What hangs on it.
        tag: T,
        /// Its JSON.
        payload: Span,
    },
    /// The kit has connected to what a stream of ours is for.
    #[cfg_attr(not(test), allow(dead_code))] // No client asks for it yet.
    Connected {
        /// What hangs on the stream.
        tag: T,
        /// JSON of STREAM_CONNECTED.
        payload: Span,
    },
    /// The trailers of a chunked body.
    Trailers {
        /// What hangs on the stream.
        tag: T,
        /// Their JSON.
        payload: Span,
    },
    /// Bytes; their credit goes back by [`Session::passed_on`].
    Data {
        /// The stream.
        #[cfg(any(test, feature = "testing"))]
        stream: StreamKey,
        /// What hangs on it.
        tag: T,
        /// Where they are.
        payload: Span,
    },
    /// A datagram.
    Datagram {
        /// What hangs on the stream.
        tag: T,
        /// Where it is.
        payload: Span,
    },
    /// The peer sends nothing more on this stream.
    Eof {
        /// What hangs on it.
        tag: T,
    },
    /// The stream is over in both directions; its key is dead.
    Reset {
        /// What hung on it.
        tag: T,
        /// Why.
        code: Code,
        /// The peer's words, or ours where the peer broke the protocol.
        reason: String,
        /// Whether it was our doing, in answer to a violation.
        violation: bool,
    },
    /// The peer's WebSocket close frame: it sends nothing more.
    Closed {
        /// Its code; none when the frame was empty.
        code: Option<u16>,
    },
}

impl<T: Copy> Session<T> {
    /// The next thing that came on lane `index`. A violation ends the session.
    pub fn poll(&mut self, index: usize, now: Instant) -> Result<Option<Incoming<T>>, Violation> {
        loop {
            let Some(transport) = self.lanes.transport_mut(index) else {
                return Ok(None);
            };
            let (kind, id, payload) = match transport.poll()? {
                None => {
                    self.lanes.acknowledge(index, now);
                    return Ok(None);
                }
                Some(Item::Closed { code }) => return Ok(Some(Incoming::Closed { code })),
                Some(Item::Pinged) => {
                    self.flood.count(Nuisance::Ping, now)?;
                    self.lanes.wake(index);
                    continue;
                }
                Some(Item::Frame {
                    kind,
                    stream_id,
                    payload,
                }) => (kind, stream_id, payload),
            };
            self.counted.frames_in += 1;
            self.lanes.took(index, kind, payload.len());
            let incoming = match kind {
                FrameType::Data => self.data(index, id, payload, now)?,
                FrameType::Window => self.window(index, id, &payload, now)?,
                FrameType::HeadPart => self.head_part(index, id, &payload, now)?,
                FrameType::StreamOpen => self.stream_open(index, id, payload, now)?,
                FrameType::StreamResponseHead => self.head(index, id, payload, now)?,
                FrameType::StreamTrailers => self.trailers(index, id, payload, now)?,
                FrameType::StreamConnected => self.connected(index, id, payload, now)?,
                FrameType::Datagram => self.datagram(index, id, payload, now),
                FrameType::Eof => self.eof(index, id, &payload, now)?,
                FrameType::Reset => self.peer_reset(index, id, &payload, now)?,
                FrameType::Ping => {
                    self.ping(index, &payload, now)?;
                    None
                }
                FrameType::Pong => {
                    // Any byte counts as life; only the probe of the link is waited for.
                    if let Ok(echoed) = self.payload(index, &payload).try_into() {
                        let (streams, lanes) = (&mut self.streams, &mut self.lanes);
                        self.receiving.measured(streams, lanes, echoed);
                    }
                    None
                }
                FrameType::Ack => {
                    self.lanes.acknowledged(index, &payload)?;
                    self.call_for_room(index);
                    self.lanes.wake(index);
                    None
                }
                _ => {
                    self.flood.count(Nuisance::Asking, now)?;
                    Some(Incoming::Control { kind, payload })
                }
            };
            if incoming.is_some() {
                return Ok(incoming);
            }
        }
    }

    fn data(
        &mut self,
        index: usize,
        id: u32,
        payload: Span,
        now: Instant,
    ) -> Result<Option<Incoming<T>>, Violation> {
        let count = payload.len() as u32;
        if count == 0 {
            self.flood.count(Nuisance::EmptyData, now)?;
        }
        let live = self.streams.live(index, id)?;
        self.receiving.came(count).map_err(|_| {
            Violation::session(Code::FlowControlError, "DATA past the session's window")
        })?;
        self.lanes.channel(index).carried.received += u64::from(count);
        let Some(key) = live else {
            self.receiving.give_back(&mut self.lanes, count, 0);
            self.unknown_stream(index, id, FrameType::Data, now)?;
            return Ok(None);
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        let fault = if stream.remote_done() {
            Some((Code::StreamClosed, "DATA after EOF"))
        } else if stream.recv.receive(count).is_err() {
            Some((Code::FlowControlError, "DATA past the stream's window"))
        } else {
            None
        };
        if let Some((code, why)) = fault {
            self.receiving.give_back(&mut self.lanes, count, 0);
            return Ok(self.stream_violation(key, code, why));
        }
        if stream.recv.buffered() == count {
            // Nothing was waiting, so its local side has had nothing to take until now.
            stream.last_taken = now;
        }
        stream.bytes_in += u64::from(count);
        stream.last_moved = now;
        let tag = stream.tag;
        let (streams, lanes) = (&mut self.streams, &mut self.lanes);
        self.receiving.measure(streams, lanes, key, count, now);
        self.receiving.relieve(streams, lanes, key, now);
        if count == 0 {
            return Ok(None);
        }
        Ok(Some(Incoming::Data {
            #[cfg(any(test, feature = "testing"))]
            stream: key,
            tag,
            payload,
        }))
    }

    fn window(
        &mut self,
        index: usize,
        id: u32,
        payload: &Span,
        now: Instant,
    ) -> Result<Option<Incoming<T>>, Violation> {
        self.flood.count(Nuisance::Window, now)?;
        let frame = Frame {
            kind: FrameType::Window,
            stream_id: id,
            payload: self.payload(index, payload),
        };
        let increment = frame.window_increment();
        if id == 0 {
            let increment = increment
                .map_err(|fault| Violation::session(Code::ProtocolError, fault.to_string()))?;
            let taken = self.sending.credited(&mut self.streams, increment, now);
            taken.map_err(|_| {
                let why = "WINDOW raises the session's window above its size";
                Violation::session(Code::FlowControlError, why)
            })?;
            self.lanes.channel(index).carried.credit_taken += u64::from(increment);
            self.lanes.fit_replay(self.sending.credit.window());
            return Ok(None);
        }
        let Some(key) = self.found(index, id, FrameType::Window, now)? else {
            return Ok(None);
        };
        let increment = match increment {
            Ok(increment) => increment,
            Err(fault) => return Ok(self.stream_violation(key, fault.code(), &fault.to_string())),
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        // It was consumed over there: where a slow server takes a long body, nothing else tells.
        stream.last_moved = now;
        if stream.send.add(increment).is_err() {
            let why = "WINDOW raises the stream's window above its size";
            return Ok(self.stream_violation(key, Code::FlowControlError, why));
        }
        self.sending.stream_credited(&mut self.streams, key);
        Ok(None)
    }

    fn stream_open(
        &mut self,
        index: usize,
        id: u32,
        payload: Span,
        now: Instant,
    ) -> Result<Option<Incoming<T>>, Violation> {
        let mut hasty = false;
        match self.terms.side {
            Side::Kit if self.terms.forward => {
                self.flood.opened_stream();
                hasty = self.flood.count(Nuisance::Opening, now).is_err();
            }
            Side::Kit => self.flood.count(Nuisance::OpenReset, now)?,
            // A kit opens as many as it has visitors, and any of them may leave again.
            Side::Client => self.flood.opened_stream(),
        }
        if !self.parts.opened(index, id) {
            let why = "STREAM_OPEN behind the HEAD_PART of another stream";
            return Err(Violation::session(Code::ProtocolError, why));
        }
        if self.streams.peer_gives_id(id) {
            return Ok(Some(Incoming::Opened { id, payload, hasty }));
        }
        // An id that was given before would make two streams one: nothing about it can be trusted.
        Err(Violation::session(
            Code::ProtocolError,
            format!("STREAM_OPEN with used id {id}"),
        ))
    }

    fn head(
        &mut self,
        index: usize,
        id: u32,
        payload: Span,
        now: Instant,
    ) -> Result<Option<Incoming<T>>, Violation> {
        let Some(key) = self.found(index, id, FrameType::StreamResponseHead, now)? else {
            return Ok(None);
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        if stream.remote_done() {
            let why = "response head after EOF";
            return Ok(self.stream_violation(key, Code::StreamClosed, why));
        }
        stream.last_moved = now;
        let tag = stream.tag;
        self.parts.headed(key);
        Ok(Some(Incoming::Head {
            stream: key,
            tag,
            payload,
        }))
    }

    /// Fields ahead of a head, of a stream that is open or is to be.
    fn head_part(
        &mut self,
        index: usize,
        id: u32,
        payload: &Span,
        now: Instant,
    ) -> Result<Option<Incoming<T>>, Violation> {
        if self.terms.head_parts == 0 {
            return Ok(None);
        }
        let payload = self.lanes.payload(index, payload);
        match self.streams.live(index, id)? {
            Some(key) => {
                let done = self.streams.get(key).is_none_or(Stream::remote_done);
                if done || self.parts.before_head(key, payload) {
                    return Ok(None);
                }
                let why = "parts of a head that are too many, or too large";
                return Ok(self.stream_violation(key, Code::EnhanceYourCalm, why));
            }
            // It is over.
            None if self.streams.was_opened(id) => self.flood.count(Nuisance::Asking, now)?,
            None if self.parts.before_open(index, id, payload) => {}
            None => {
                let why = "HEAD_PARTs that no STREAM_OPEN follows, or too many";
                return Err(Violation::session(Code::ProtocolError, why));
            }
        }
        Ok(None)
    }

    /// Where they are not agreed on they are an extension like any other, and nobody's.
    fn trailers(
        &mut self,
        index: usize,
        id: u32,
        payload: Span,
        now: Instant,
    ) -> Result<Option<Incoming<T>>, Violation> {
        if !self.terms.trailers {
            return Ok(None);
        }
        let Some(key) = self.found(index, id, FrameType::StreamTrailers, now)? else {
            return Ok(None);
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        if stream.remote_done() {
            self.flood.count(Nuisance::Asking, now)?;
            return Ok(None);
        }
        stream.last_moved = now;
        let tag = stream.tag;
        Ok(Some(Incoming::Trailers { tag, payload }))
    }

    /// Where it is not agreed on, or comes to a kit, it is an extension like any other.
    fn connected(
        &mut self,
        index: usize,
        id: u32,
        payload: Span,
        now: Instant,
    ) -> Result<Option<Incoming<T>>, Violation> {
        if !self.terms.forward || self.terms.side == Side::Kit {
            return Ok(None);
        }
        let Some(key) = self.found(index, id, FrameType::StreamConnected, now)? else {
            return Ok(None);
        };
        let Some(stream) = self.streams.get_mut(key).filter(|it| !it.remote_done()) else {
            return Ok(None);
        };
        stream.last_moved = now;
        let tag = stream.tag;
        Ok(Some(Incoming::Connected { tag, payload }))
    }

    /// It may be for a stream that is over, or whose STREAM_OPEN is still to be sent again on
    /// another connection: then it is lost, as datagrams are (PROTOCOL §8.1).
    fn datagram(
        &mut self,
        index: usize,
        id: u32,
        payload: Span,
        now: Instant,
    ) -> Option<Incoming<T>> {
        let key = self.streams.live(index, id).ok().flatten()?;
        if payload.len() > MAX_DATAGRAM {
            return self.stream_violation(key, Code::FrameSizeError, "a datagram of that length");
        }
        let stream = self.streams.get_mut(key)?;
        if stream.remote_done() {
            return None;
        }
        stream.last_moved = now;
        let tag = stream.tag;
        Some(Incoming::Datagram { tag, payload })
    }

    fn eof(
        &mut self,
        index: usize,
        id: u32,
        payload: &Span,
        now: Instant,
    ) -> Result<Option<Incoming<T>>, Violation> {
        let Some(key) = self.found(index, id, FrameType::Eof, now)? else {
            return Ok(None);
        };
        if !payload.is_empty() {
            return Ok(self.stream_violation(key, Code::FrameSizeError, "EOF with a payload"));
        }
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        if !stream.finish_remote() {
            return Ok(self.stream_violation(key, Code::StreamClosed, "EOF after EOF"));
        }
        stream.last_moved = now;
        let tag = stream.tag;
        self.drop_if_spent(key);
        Ok(Some(Incoming::Eof { tag }))
    }

    fn peer_reset(
        &mut self,
        index: usize,
        id: u32,
        payload: &Span,
        now: Instant,
    ) -> Result<Option<Incoming<T>>, Violation> {
        self.flood.count(Nuisance::OpenReset, now)?;
        let Some(key) = self.streams.live(index, id)? else {
            // A RESET is never answered with a RESET (PROTOCOL §4).
            return Ok(None);
        };
        let bytes = self.payload(index, payload);
        let frame = Frame {
            kind: FrameType::Reset,
            stream_id: id,
            payload: bytes,
        };
        let (code, reason, violation) = match frame.reset() {
            Ok(reset) => (reset.code(), reset.reason_text().into_owned(), false),
            Err(fault) => (fault.code(), fault.to_string(), true),
        };
        let tag = self.forget(key);
        Ok(tag.map(|tag| Incoming::Reset {
            tag,
            code,
            reason,
            violation,
        }))
    }

    fn ping(&mut self, index: usize, payload: &Span, now: Instant) -> Result<(), Violation> {
        self.flood.count(Nuisance::Ping, now)?;
        let mut echoed = [0; 8];
        echoed.copy_from_slice(self.payload(index, payload));
        self.lanes
            .push_sign_of_life(index as u8, FrameType::Pong, &echoed);
        Ok(())
    }

    /// The stream that a frame other than DATA is for.
    #[inline]
    fn found(
        &mut self,
        index: usize,
        id: u32,
        kind: FrameType,
        now: Instant,
    ) -> Result<Option<StreamKey>, Violation> {
        match self.streams.live(index, id)? {
            Some(key) => Ok(Some(key)),
            None => self.unknown_stream(index, id, kind, now).map(|()| None),
        }
    }

    /// A frame on a stream that is not there: ignored when the stream is over, else its stream's
    /// violation (PROTOCOL §1.4).
    fn unknown_stream(
        &mut self,
        index: usize,
        id: u32,
        kind: FrameType,
        now: Instant,
    ) -> Result<(), Violation> {
        if !self.streams.was_opened(id) {
            self.flood.count(Nuisance::Asking, now)?;
            let reason = format!("{kind} on a stream that was never opened");
            self.lanes
                .push_reset(index as u8, id, Code::ProtocolError, &reason);
        }
        Ok(())
    }

    pub(in crate::mux) fn stream_violation(
        &mut self,
        key: StreamKey,
        code: Code,
        why: &str,
    ) -> Option<Incoming<T>> {
        let stream = self.streams.get(key)?;
        let (tag, id, lane) = (stream.tag, stream.id, stream.lane);
        self.lanes.push_reset(lane, id, code, why);
        self.forget(key);
        Some(Incoming::Reset {
            tag,
            code,
            reason: why.to_owned(),
            violation: true,
        })
    }
}
