//! Bytes to frames and back: the protocol's shape, without its meaning.
//!
//! This room knows byte offsets and JSON keys (PROTOCOL §1, and the payloads of §2 to §9). It never
//! knows who is speaking, whether a stream exists, or how much credit is left: that is `mux`.
//! It does no I/O, reads no clock, allocates nothing for a frame and never panics on a peer's
//! bytes.
//!
//! Order of calls for a receiver: [`message::FrameDecoder::new`] judges a whole message, its
//! iterator then yields [`frame::Frame`]s that need no further checks of length; [`frame::Frame`]
//! reads fixed payloads, [`control::parse`] and [`open`] read JSON ones.
//!
//! Invariants:
//! - A message is decoded whole or refused whole (PROTOCOL §1.2).
//! - What only concerns one stream is never a reason to refuse a message (PROTOCOL §1.4).

mod canonical;
mod capabilities;
pub mod code;
pub mod control;
pub mod frame;
mod heads;
pub mod json;
pub mod message;
pub mod open;
pub mod parts;
pub mod service;
mod values;
