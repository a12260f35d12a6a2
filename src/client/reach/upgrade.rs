//! The WebSocket upgrade on a connection that has reached the kit (PROTOCOL §1).

use crate::buffer::Buffer;
use crate::client::config::{Config, Endpoint};
use crate::client::reach::base64;
use crate::client::reach::failure::{Failure, plain};
use crate::client::reach::route::SPEAKS_TLS;
use crate::entropy::Entropy;
use crate::http::{Asked, BodyDecoder, HeadScanner, ResponseHead, Version, speaks_tls};
use crate::ws::{HandshakeError, Subprotocol, check_response};

/// An upgrade under way.
#[derive(Debug)]
pub(in crate::client) struct Upgrade {
    pub out: Buffer,
    received: Buffer,
    scanner: HeadScanner,
    key: String,
    offered: &'static [Subprotocol],
    refusal: Option<RefusalText>,
    /// Not a byte came, where TLS may be spoken although the URL says that it is not.
    is_mute: bool,
}

/// A refusal whose text is still coming.
#[derive(Debug)]
struct RefusalText {
    status: u16,
    body: BodyDecoder,
    is_text: bool,
    text: Vec<u8>,
}

impl Upgrade {
    pub(crate) fn new(config: &Config, to: &Endpoint, entropy: &mut Entropy) -> Upgrade {
        let key = base64::encode(&entropy.octets::<16>());
        // A kit that may choose takes v2, which is of use with more than one lane only.
        let offered: &'static [Subprotocol] = match config.connections {
            1 => &[Subprotocol::V1],
            _ => &[Subprotocol::V2, Subprotocol::V1],
        };
        let names: Vec<&str> = offered.iter().map(|one| one.name()).collect();
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
             Sec-WebSocket-Protocol: {}\r\nUser-Agent: {USER_AGENT}\r\n",
            to.path,
            to.authority(),
            names.join(", "),
        );
        if let Some(token) = &config.token {
            request.push_str("Authorization: Bearer ");
            request.push_str(token.expose());
            request.push_str("\r\n");
        }
        for (name, value) in &config.headers {
            // Both were checked with the options.
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut out = Buffer::new();
        out.extend(request.as_bytes());
        Upgrade {
            out,
            received: Buffer::new(),
            scanner: HeadScanner::for_answer(),
            key,
            offered,
            refusal: None,
            is_mute: !to.secure,
        }
    }

    /// Where the answer goes.
    pub(crate) fn read_space(&mut self) -> &mut [u8] {
        self.received.space(ANSWER_SPACE)
    }

    /// So much of the answer came; 0 is its end. Gives the subprotocol once the WebSocket stands;
    /// what came behind the answer is then in [`Upgrade::rest`].
    pub(crate) fn received(&mut self, count: usize) -> Result<Option<Subprotocol>, Failure> {
        self.received.commit(count);
        self.is_mute &= count == 0;
        if let Some(refusal) = &mut self.refusal {
            return unfinished(refusal.hear(&mut self.received, count == 0));
        }
        if count == 0 {
            return Err(self.dropped(Failure::HungUp));
        }
        if speaks_tls(self.received.bytes()) {
            return Err(Failure::NotHttp(SPEAKS_TLS));
        }
        loop {
            let reject = |reject: crate::http::Reject| Failure::NotHttp(reject.why);
            let Some(length) = self.scanner.scan(self.received.bytes()).map_err(reject)? else {
                return Ok(None);
            };
            let head = self.received.bytes().get(..length).unwrap_or_default();
            let head = ResponseHead::parse(head).map_err(reject)?;
            if head.is_interim() {
                self.received.consume(length);
                self.scanner = HeadScanner::for_answer();
                continue;
            }
            let judged = check_response(head.status, head.fields.iter(), &self.key, self.offered);
            let subprotocol = match judged {
                Ok(subprotocol) => subprotocol,
                Err(HandshakeError::Status(status)) => {
                    let kind = head.fields.get("content-type").unwrap_or_default();
                    let mut refusal = RefusalText {
                        status,
                        body: BodyDecoder::for_response(head.body(ASKED)),
                        is_text: !kind.starts_with(b"text/html"),
                        text: Vec::new(),
                    };
                    self.received.consume(length);
                    let heard = refusal.hear(&mut self.received, false);
                    self.refusal = Some(refusal);
                    return unfinished(heard);
                }
                Err(error) => return Err(Failure::Handshake(error)),
            };
            self.received.consume(length);
            return Ok(Some(subprotocol));
        }
    }

    /// What it means that the connection ended so.
    pub(crate) fn dropped(&self, how: Failure) -> Failure {
        match self.is_mute {
            true => Failure::Mute,
            false => how,
        }
    }

    /// What came behind the answer: the first bytes of the WebSocket.
    pub(crate) fn rest(&self) -> &[u8] {
        self.received.bytes()
    }

    /// What is known when the time is over.
    pub(crate) fn timed_out(&self) -> Failure {
        match &self.refusal {
            Some(refusal) => refusal.failure(),
            None => Failure::Slow("waiting for the kit's answer"),
        }
    }
}

/// More of a refusal may come: that is no failure yet.
fn unfinished(heard: Option<Failure>) -> Result<Option<Subprotocol>, Failure> {
    heard.map_or(Ok(None), Err)
}

impl RefusalText {
    /// Takes in more of the text; the failure once it is whole or long enough.
    fn hear(&mut self, received: &mut Buffer, ended: bool) -> Option<Failure> {
        loop {
            let Ok(step) = self.body.decode(received.bytes()) else {
                return Some(self.failure());
            };
            let piece = received.bytes().get(step.data).unwrap_or_default();
            self.text.extend_from_slice(piece);
            received.consume(step.consumed);
            if step.end || ended || self.text.len() >= ENOUGH_TEXT {
                return Some(self.failure());
            }
            if received.is_empty() || step.consumed == 0 {
                return None;
            }
        }
    }

    fn failure(&self) -> Failure {
        let text = match self.is_text {
            true => plain(&String::from_utf8_lossy(&self.text)),
            false => String::new(),
        };
        Failure::Refused {
            status: self.status,
            text,
        }
    }
}

/// How we name ourselves.
pub(in crate::client) const USER_AGENT: &str = concat!("hoody/", env!("CARGO_PKG_VERSION"));

/// What is remembered of the upgrade request to read its answer.
const ASKED: Asked = Asked {
    head: false,
    version: Version::Http11,
    keep_alive: true,
    upgrade: true,
};
/// Room for the answer, in bytes; the scanner bounds its head.
const ANSWER_SPACE: usize = 4096;
/// So many bytes of a refusal's text are surely enough for what is shown of it.
const ENOUGH_TEXT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::TunnelOptions;
    use crate::ws::accept_key;

    fn upgrade(options: TunnelOptions) -> Upgrade {
        let config = Config::with_env(&options, |_| None).unwrap();
        Upgrade::new(&config, &config.endpoints[0], &mut Entropy::from_seed(1))
    }

    fn hear(upgrade: &mut Upgrade, text: &str) -> Result<Option<Subprotocol>, Failure> {
        upgrade.read_space()[..text.len()].copy_from_slice(text.as_bytes());
        upgrade.received(text.len())
    }

    #[test]
    fn the_request_carries_the_token_and_a_fresh_key() {
        let options = TunnelOptions::new("ws://127.0.0.1:50")
            .token("s3cret")
            .header("x-a", "b");
        let upgrade = upgrade(options);
        let text = String::from_utf8(upgrade.out.bytes().to_vec()).unwrap();
        assert!(text.starts_with("GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: 127.0.0.1:50\r\n"));
        assert!(text.contains("\r\nAuthorization: Bearer s3cret\r\nx-a: b\r\n\r\n"));
        assert!(text.contains("\r\nSec-WebSocket-Protocol: hoody-tunnel.v1\r\n"));
        assert_eq!(upgrade.key.len(), 24);
    }

    #[test]
    fn the_websocket_stands_after_a_right_answer() {
        let mut upgrade = upgrade(TunnelOptions::new("ws://k").connections(4));
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: hoody-tunnel.v2\r\n\r\nrest",
            accept_key(&upgrade.key)
        );
        assert_eq!(hear(&mut upgrade, &answer).unwrap(), Some(Subprotocol::V2));
        assert_eq!(upgrade.rest(), b"rest");
    }

    #[test]
    fn a_refusal_is_told_with_its_words() {
        let mut upgrade = upgrade(TunnelOptions::new("ws://k"));
        let head = "HTTP/1.1 503 No\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\n";
        assert!(hear(&mut upgrade, head).unwrap().is_none());
        assert!(hear(&mut upgrade, "come ").unwrap().is_none());
        let refused = hear(&mut upgrade, "back").unwrap_err();
        assert_eq!(
            refused.error(),
            crate::client::Error::Refused {
                status: 503,
                message: "no tunnel is opened at this URL: come back".into()
            }
        );
    }

    #[test]
    fn a_wrong_answer_is_no_kit() {
        let mut wrong = upgrade(TunnelOptions::new("ws://k"));
        let answer = "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: nonsense\r\n\r\n";
        assert!(matches!(
            hear(&mut wrong, answer),
            Err(Failure::Handshake(_))
        ));
        let mut odd = upgrade(TunnelOptions::new("ws://k"));
        assert!(matches!(
            hear(&mut odd, "+OK POP3\r\n\r\n"),
            Err(Failure::NotHttp(_))
        ));
        assert!(matches!(
            upgrade(TunnelOptions::new("ws://k")).received(0),
            Err(Failure::Mute)
        ));
        assert!(matches!(
            upgrade(TunnelOptions::new("wss://k")).received(0),
            Err(Failure::HungUp)
        ));
    }
}
