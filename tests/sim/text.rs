//! A small reader of HTTP, independent of the product's own.

/// Reads messages of one direction.
#[derive(Debug, Default)]
pub struct Reader {
    pub buf: Vec<u8>,
    state: State,
    /// The lines behind the last chunked body.
    pub trailers: Vec<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Body(Framing),
    ChunkLine,
    Chunk(usize),
    ChunkEnd,
    LastLine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

#[derive(Debug)]
pub struct Head {
    pub first: String,
    fields: Vec<(String, String)>,
}

pub enum Item {
    /// More bytes are needed.
    More,
    Head(Head),
    Body(Vec<u8>),
    End,
}

impl Head {
    fn parse(text: &str) -> Head {
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Head { first, fields }
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn status(&self) -> u16 {
        let word = self.first.split(' ').nth(1).unwrap_or_default();
        word.parse().unwrap_or(0)
    }

    /// The framing that the fields name; `None` where they name none.
    pub fn framing(&self) -> Option<Framing> {
        if self.field("transfer-encoding").is_some() {
            return Some(Framing::Chunked);
        }
        let length = self.field("content-length")?;
        Some(Framing::Length(length.parse().expect("a length")))
    }

    pub fn closes(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value.to_ascii_lowercase().contains("close"))
    }
}

impl Reader {
    /// How the body behind the head that came last is framed; `None`: there is no body.
    pub fn body(&mut self, framing: Option<Framing>) {
        self.state = match framing {
            None => State::Head,
            Some(Framing::Chunked) => State::ChunkLine,
            Some(framing) => State::Body(framing),
        };
    }

    pub fn in_body(&self) -> bool {
        self.state != State::Head
    }

    fn line(&mut self) -> Option<String> {
        let at = self.buf.windows(2).position(|pair| pair == b"\r\n")?;
        let line = String::from_utf8_lossy(&self.buf[..at]).into_owned();
        self.buf.drain(..at + 2);
        Some(line)
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let count = count.min(self.buf.len());
        self.buf.drain(..count).collect()
    }

    pub fn next(&mut self) -> Item {
        loop {
            match self.state {
                State::Head => {
                    let at = self.buf.windows(4).position(|four| four == b"\r\n\r\n");
                    let Some(at) = at else { return Item::More };
                    let text = String::from_utf8_lossy(&self.buf[..at]).into_owned();
                    self.buf.drain(..at + 4);
                    return Item::Head(Head::parse(&text));
                }
                State::Body(Framing::Length(0)) => {
                    self.state = State::Head;
                    return Item::End;
                }
                State::Body(_) if self.buf.is_empty() => return Item::More,
                State::Body(Framing::Length(left)) => {
                    let bytes = self.take(left);
                    self.state = State::Body(Framing::Length(left - bytes.len()));
                    return Item::Body(bytes);
                }
                State::Body(_) => return Item::Body(self.take(usize::MAX)),
                State::ChunkLine => {
                    let Some(line) = self.line() else {
                        return Item::More;
                    };
                    let size = usize::from_str_radix(line.trim(), 16).expect("a chunk's size");
                    self.state = match size {
                        0 => {
                            self.trailers.clear();
                            State::LastLine
                        }
                        size => State::Chunk(size),
                    };
                }
                State::Chunk(0) => self.state = State::ChunkEnd,
                State::Chunk(_) if self.buf.is_empty() => return Item::More,
                State::Chunk(left) => {
                    let bytes = self.take(left);
                    self.state = State::Chunk(left - bytes.len());
                    return Item::Body(bytes);
                }
                State::ChunkEnd => {
                    let Some(line) = self.line() else {
                        return Item::More;
                    };
                    assert_eq!(line, "", "a chunk is longer than it said");
                    self.state = State::ChunkLine;
                }
                State::LastLine => {
                    let Some(line) = self.line() else {
                        return Item::More;
                    };
                    if line.is_empty() {
                        self.state = State::Head;
                        return Item::End;
                    }
                    self.trailers.push(line);
                }
            }
        }
    }
}
