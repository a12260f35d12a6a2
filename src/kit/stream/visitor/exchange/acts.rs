//! What an exchange answers to what it is told and asked.

use std::time::Duration;

use crate::http::Asked;
use crate::pipe::Flow;

/// Where the visitor's next bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Nothing is read.
    Nowhere,
    /// To `HttpExchange::feed`; so many wait already of those that may.
    Here {
        /// Bytes that wait.
        ahead: usize,
    },
    /// Straight to the stream, at most so many.
    Stream(usize),
}

/// What the bytes at hand allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    Rest,
    /// `HttpExchange::next_head` may find one.
    Head,
    /// `HttpExchange::outgoing` may have some.
    Body,
}

/// What is at hand for the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Outgoing<'a> {
    /// Nothing now.
    Nothing,
    /// Bytes; how many of them were sent is told with `HttpExchange::sent`.
    Data(&'a [u8]),
    /// The request is whole.
    Eof,
}

/// What the visitor's FIN means, read or not.
#[derive(Debug, PartialEq, Eq)]
pub enum AtFin {
    /// What came before it may go on.
    GoOn,
    /// It may be gone: that is looked at again soon.
    Watch,
    /// The upload may be cut off.
    Upload,
    /// A raw direction ends.
    Raw {
        /// And had not ended before.
        first: bool,
    },
}

/// How a request's body stands after what was at hand of it was sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Upload {
    /// It goes on, or is whole.
    Goes,
    /// The visitor may be gone: that is looked at again soon.
    MayBeGone,
    /// Its end cannot come any more.
    CutOff,
}

/// What a head from the client made of the exchange; it was written to the text.
#[derive(Debug, PartialEq, Eq)]
pub enum Headed {
    /// 1xx, and another one follows.
    Interim,
    /// 101: bytes are raw from here on.
    Switch,
    /// The head of the response.
    Final {
        /// How long it took.
        after: Duration,
        /// The upload was held back for it, and may go on.
        upload: bool,
        /// Only the connection's end tells where its body ends.
        until_close: bool,
    },
}

/// Why a head from the client is not passed on.
#[derive(Debug, PartialEq, Eq)]
pub enum NoHead {
    /// The client broke the exchange.
    Fault(&'static str),
    /// The visitor does not take those before it.
    Waits,
}

/// What is done with DATA.
#[derive(Debug, PartialEq, Eq)]
pub enum Data {
    /// It is nobody's.
    Ignored,
    /// It is dropped, and its credit goes back.
    Dropped,
    /// It goes to the visitor as it is.
    Whole,
    /// It goes to the visitor as a chunk.
    Chunk,
}

/// What the stream's EOF means.
#[derive(Debug, PartialEq, Eq)]
pub enum AtEof {
    /// Nothing.
    Ignored,
    /// A raw direction ends.
    Raw(Flow),
    /// The response is whole.
    Whole {
        /// Its status.
        status: u16,
        /// How long the exchange took.
        after: Duration,
        /// What is still to be written for its end.
        last: &'static [u8],
    },
}

/// What follows once everything that was queued has left.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// More of the response is to come.
    More,
    /// The next request may be read.
    GoOn,
    /// A raw direction may have ended.
    Raw(Flow),
    /// The exchange is over.
    Over {
        /// The request was whole, too.
        uploaded: bool,
        /// The connection is for the next one.
        stays: bool,
    },
}

/// What is left of an exchange whose stream broke.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// Nothing is owed, or all of it came.
    Fine,
    /// An answer.
    Unanswered(Owed),
    /// All of a raw stream came, and some of it is yet to leave.
    Drains,
    /// A cut body, which must never look whole (PROTOCOL §4).
    Cut {
        /// Its framing tells that something is missing.
        shown: bool,
    },
}

/// To whom an answer is owed that is not the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owed {
    /// How to answer.
    pub asked: Asked,
    /// Whether the request was read whole.
    pub whole: bool,
}
