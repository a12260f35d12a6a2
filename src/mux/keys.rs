//! What streams are called.

use crate::table::Key;

/// Marks keys that name streams of a session.
#[derive(Debug)]
pub enum StreamMark {}
/// The session's name for a stream; dead once the stream is over and all its bytes are passed on.
pub type StreamKey = Key<StreamMark>;
