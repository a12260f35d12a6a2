//! What an exchange will be, made from its number alone: both of its ends know it, and so they can
//! judge what they get.

use crate::dice::Dice;

/// What kind of an exchange it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Calm,
    /// It may break by its ends' own doing.
    Rough,
    /// One of its ends takes 4 to 50 KB a second.
    Slow,
    /// A small answer at once, which somebody waits for.
    Small,
}

impl Style {
    fn name(self) -> &'static str {
        match self {
            Style::Calm => "calm",
            Style::Rough => "rough",
            Style::Slow => "slow",
            Style::Small => "small",
        }
    }

    pub fn of(name: &str) -> Style {
        let all = [Style::Calm, Style::Rough, Style::Slow, Style::Small];
        let found = all.into_iter().find(|style| style.name() == name);
        found.expect("a style")
    }
}

/// One HTTP exchange.
#[derive(Debug, Clone)]
pub struct Plan {
    pub number: u64,
    pub style: Style,
    pub method: &'static str,
    pub up: Body,
    pub down: Body,
    pub status: u16,
    /// 1xx heads before the final one.
    pub interim: u64,
    /// The upstream answers before it has read the request's body.
    pub early: bool,
    /// The upstream says `Connection: close`.
    pub closes: bool,
    pub upstream_fails: Option<Fail>,
    /// The visitor resets its connection after so many bytes of the response.
    pub visitor_leaves: Option<usize>,
    /// The visitor takes this much at once, and then waits that long.
    pub visitor_pace: Option<(usize, u64)>,
    /// The visitor takes nothing for that long once it has the head.
    pub visitor_stalls: u64,
    /// The upstream takes this much of a request at once, and then waits that long.
    pub upstream_pace: Option<(usize, u64)>,
    /// The upstream waits that long before it answers.
    pub upstream_waits: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    None,
    Length(usize),
    Chunked(usize),
    UntilClose(usize),
    /// A WebSocket upgrade: raw bytes.
    Raw(usize),
}

/// How a server breaks, after so many bytes of the response's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fail {
    Reset(usize),
    Fin(usize),
    BeforeHead,
    Nonsense,
}

impl Body {
    pub fn len(self) -> usize {
        match self {
            Body::None => 0,
            Body::Length(len) | Body::Chunked(len) | Body::UntilClose(len) | Body::Raw(len) => len,
        }
    }
}

impl Plan {
    pub fn new(number: u64, style: Style) -> Plan {
        let mut dice = Dice::new(number);
        match style {
            Style::Slow => Plan::slow(number, &mut dice),
            Style::Small => Plan::small(number, &mut dice),
            Style::Calm | Style::Rough => Plan::any(number, style, dice),
        }
    }

    fn small(number: u64, dice: &mut Dice) -> Plan {
        Plan {
            number,
            style: Style::Small,
            method: "GET",
            up: Body::None,
            down: Body::Length(1 + dice.below(2000) as usize),
            status: 200,
            interim: 0,
            early: false,
            closes: false,
            upstream_fails: None,
            visitor_leaves: None,
            visitor_pace: None,
            visitor_stalls: 0,
            upstream_pace: None,
            upstream_waits: 0,
        }
    }

    fn slow(number: u64, dice: &mut Dice) -> Plan {
        let piece = dice.within(500, 8000);
        let rate = dice.within(4_000, 50_000);
        let pace = Some((piece as usize, piece * 1_000_000_000 / rate));
        let size = Body::Length(dice.within(40_000, 160_000) as usize);
        let plan = Plan {
            style: Style::Slow,
            ..Plan::small(number, dice)
        };
        match dice.once_in(4) {
            true => Plan {
                method: "PUT",
                up: size,
                upstream_pace: pace,
                ..plan
            },
            false => Plan {
                down: size,
                visitor_pace: pace,
                ..plan
            },
        }
    }

    fn any(number: u64, style: Style, mut dice: Dice) -> Plan {
        let rough = style == Style::Rough;
        let size = |dice: &mut Dice| dice.size(150_000);
        let raw = dice.once_in(8);
        let method = ["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE"][dice.below(7) as usize];
        let up = match (raw, method) {
            (true, _) => Body::Raw(size(&mut dice)),
            (_, "POST" | "PUT") => match dice.below(3) {
                0 => Body::Chunked(size(&mut dice)),
                _ => Body::Length(size(&mut dice)),
            },
            _ => Body::None,
        };
        let down = match (raw, method, dice.below(6)) {
            (true, ..) => Body::Raw(size(&mut dice)),
            (_, "HEAD", _) => Body::Length(size(&mut dice)),
            (_, _, 0) => Body::None,
            (_, _, 1) => Body::Chunked(size(&mut dice)),
            (_, _, 2) => Body::UntilClose(size(&mut dice)),
            _ => Body::Length(size(&mut dice)),
        };
        let at = dice.below(down.len() as u64 + 1) as usize;
        let fail = [
            Fail::Reset(at),
            Fail::Fin(at),
            Fail::BeforeHead,
            Fail::Nonsense,
        ];
        let fail = match (fail[dice.below(4) as usize], down) {
            // Behind a FIN these would look whole, and nobody could know better.
            (Fail::Fin(at), Body::UntilClose(_) | Body::Raw(_)) => Fail::Reset(at),
            (fail, _) => fail,
        };
        Plan {
            number,
            style,
            method: if raw { "GET" } else { method },
            up,
            down,
            status: match (raw, down) {
                (true, _) => 101,
                (_, Body::None) => 204,
                _ => 200,
            },
            interim: if raw || dice.below(8) > 0 {
                0
            } else {
                dice.below(3)
            },
            early: !raw && dice.once_in(5),
            closes: !raw && dice.once_in(5),
            upstream_fails: (rough && dice.once_in(5)).then_some(fail),
            visitor_leaves: (rough && dice.once_in(6)).then(|| dice.size(60_000)),
            visitor_pace: dice
                .once_in(4)
                .then(|| (500 + dice.size(30_000), dice.below(30_000_000))),
            visitor_stalls: if dice.once_in(10) {
                dice.below(8_000_000_000)
            } else {
                0
            },
            upstream_pace: None,
            upstream_waits: if dice.once_in(3) {
                dice.below(500_000_000)
            } else {
                0
            },
        }
    }

    pub fn request_name(&self) -> u64 {
        self.number ^ 0x1111
    }

    pub fn response_name(&self) -> u64 {
        self.number ^ 0x2222
    }

    /// Whether its visitor takes trailers.
    pub fn takes_trailers(&self) -> bool {
        self.number.is_multiple_of(2) && !matches!(self.up, Body::Raw(_))
    }

    /// Of a field that makes the head of the response larger than a frame, in some.
    pub fn long_response(&self) -> Option<usize> {
        self.long(5)
    }

    /// The same of the request.
    pub fn long_request(&self) -> Option<usize> {
        self.long(9)
    }

    fn long(&self, which: u64) -> Option<usize> {
        let usual = matches!(self.style, Style::Calm | Style::Rough);
        let plain = usual && !matches!(self.up, Body::Raw(_));
        let length = 66_000 + self.number as usize % 7 * 2_000;
        (plain && self.number % 64 == which).then_some(length)
    }

    /// The octets of the request up to its body.
    pub fn request_head(&self) -> Vec<u8> {
        let mut head = format!(
            "{} /{}?{} HTTP/1.1\r\nHost: 10.0.0.1:3000\r\n",
            self.method,
            self.number,
            self.style.name()
        );
        if self.takes_trailers() {
            head += "Connection: TE\r\nTE: trailers\r\n";
        }
        head += &long_field(self.long_request());
        match self.up {
            Body::Length(len) => head += &format!("Content-Length: {len}\r\n"),
            Body::Chunked(_) => head += "Transfer-Encoding: chunked\r\n",
            Body::Raw(_) => {
                head += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
            }
            Body::None | Body::UntilClose(_) => {}
        }
        (head + "\r\n").into_bytes()
    }
}

/// A field of that length as a line, if there is one.
pub fn long_field(length: Option<usize>) -> String {
    length.map_or_else(String::new, |length| {
        format!("X-Long: {}\r\n", "l".repeat(length))
    })
}

/// What follows a chunked body.
pub fn trailer(name: u64) -> String {
    format!("X-Sum: {name:x}")
}

/// Frames a body as it will be on the wire, in chunks with a trailer that passes and one that does
/// not.
pub fn framed(body: Body, name: u64) -> Vec<u8> {
    let all = crate::dice::octets(name, 0, body.len());
    if !matches!(body, Body::Chunked(_)) {
        return all;
    }
    let mut out = Vec::new();
    let mut at = 0;
    let mut dice = Dice::new(name);
    while at < all.len() {
        let count = (1 + dice.size(40_000)).min(all.len() - at);
        out.extend_from_slice(format!("{count:x}\r\n").as_bytes());
        out.extend_from_slice(&all[at..at + count]);
        out.extend_from_slice(b"\r\n");
        at += count;
    }
    out.extend_from_slice(b"0\r\n");
    for trailer in [&trailer(name), "Content-Length: 1"] {
        out.extend_from_slice(trailer.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}
