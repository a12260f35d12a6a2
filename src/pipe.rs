//! A raw stream between a connection and the peer: bytes both ways, and two ends that come in any
//! order.
//!
//! ```text
//!   connection --- bytes ---> stream      until the connection's FIN becomes EOF
//!   connection <-- bytes ---- stream      until the stream's EOF becomes FIN, behind all bytes
//! ```
//!
//! The pipe knows which ends were said and says what follows from one. It carries no byte: those go
//! from buffer to buffer, around it.

/// How far both directions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawPipe {
    to_stream: Direction,
    to_conn: Direction,
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// Bytes may come.
    Open,
    /// The end came; bytes before it wait.
    Draining,
    /// The end was passed on.
    Finished,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Nothing.
    Goes,
    /// Half-close the stream: its sender has no more.
    Eof,
    /// Half-close the connection: nothing more will be written to it.
    Finish,
    /// Both directions have ended and everything has left: the pipe is over.
    Over,
}

impl RawPipe {
    /// Both directions open.
    pub fn new() -> RawPipe {
        RawPipe {
            to_stream: Direction::Open,
            to_conn: Direction::Open,
        }
    }

    /// The connection's FIN was read, behind all its bytes. The answer is [`Flow::Eof`] the first
    /// time; whether the pipe is over then is asked with [`RawPipe::is_over`].
    pub fn conn_ended(&mut self) -> Flow {
        match std::mem::replace(&mut self.to_stream, Direction::Finished) {
            Direction::Finished => Flow::Goes,
            Direction::Open | Direction::Draining => Flow::Eof,
        }
    }

    /// The stream's EOF came. `drained`: all bytes before it have left for the connection.
    pub fn stream_ended(&mut self, drained: bool) -> Flow {
        if self.to_conn == Direction::Open {
            self.to_conn = Direction::Draining;
        }
        if drained { self.drained() } else { Flow::Goes }
    }

    /// Everything that waited for the connection has left.
    pub fn drained(&mut self) -> Flow {
        match self.to_conn {
            _ if self.is_over() => Flow::Over,
            Direction::Open | Direction::Finished => Flow::Goes,
            Direction::Draining => {
                self.to_conn = Direction::Finished;
                if self.is_over() {
                    Flow::Over
                } else {
                    Flow::Finish
                }
            }
        }
    }

    /// Whether the connection has said its FIN.
    pub fn conn_has_ended(&self) -> bool {
        self.to_stream == Direction::Finished
    }

    /// Whether the stream has said EOF.
    pub fn stream_has_ended(&self) -> bool {
        self.to_conn != Direction::Open
    }

    /// Whether both directions have ended, and nothing waits.
    pub fn is_over(&self) -> bool {
        self.to_stream == Direction::Finished && self.to_conn == Direction::Finished
    }
}

impl Default for RawPipe {
    fn default() -> RawPipe {
        RawPipe::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_passed_on_once_and_only_behind_the_bytes_before_it() {
        let mut pipe = RawPipe::new();
        assert_eq!(pipe.drained(), Flow::Goes, "nothing has ended");
        assert_eq!(pipe.stream_ended(false), Flow::Goes, "bytes wait");
        assert!(pipe.stream_has_ended());
        assert_eq!(pipe.drained(), Flow::Finish);
        assert_eq!(pipe.drained(), Flow::Goes, "said once");
        assert_eq!(pipe.conn_ended(), Flow::Eof);
        assert_eq!(pipe.conn_ended(), Flow::Goes, "said once");
        assert!(pipe.is_over());
    }

    #[test]
    fn it_is_over_when_both_have_ended_in_either_order() {
        let mut first = RawPipe::new();
        assert_eq!(first.conn_ended(), Flow::Eof);
        assert!(first.conn_has_ended() && !first.is_over());
        assert_eq!(first.stream_ended(false), Flow::Goes);
        assert!(!first.is_over(), "what waits is still owed");
        assert_eq!(first.drained(), Flow::Over);

        let mut second = RawPipe::new();
        assert_eq!(second.stream_ended(true), Flow::Finish);
        assert!(!second.is_over());
        assert_eq!(second.conn_ended(), Flow::Eof);
        assert!(second.is_over());
        assert_eq!(
            second.drained(),
            Flow::Over,
            "whoever asks later hears it too"
        );
    }
}
