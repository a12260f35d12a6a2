//! The way to a kit: a TCP connection, through a proxy if there is one, in TLS if it is to be.
//!
//! Order: [`Way::target`] is dialled, then [`Way::connected`], [`Way::received`] and
//! [`Way::secured`] say how it goes on, until one of them says [`Step::Ready`].

use crate::buffer::Buffer;
use crate::client::config::Route;
use crate::client::reach::setback::{Setback, plain};
use crate::http::{HeadScanner, ResponseHead};
use crate::machine::DialTarget;

/// How it goes on.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) enum Step {
    /// Something has to come first.
    Wait,
    /// Start TLS and verify this name.
    Secure(String),
    /// The kit is reached: speak HTTP.
    Ready,
}

/// A connection on its way.
#[derive(Debug)]
pub(in crate::client) struct Way {
    route: Route,
    /// To the proxy.
    pub out: Buffer,
    answer: Buffer,
    scanner: HeadScanner,
    doing: &'static str,
}

impl Way {
    pub fn new(route: Route) -> Way {
        Way {
            route,
            out: Buffer::new(),
            answer: Buffer::new(),
            scanner: HeadScanner::new(),
            doing: "connecting",
        }
    }

    /// What is being done, for a sentence about a timeout.
    pub fn doing(&self) -> &'static str {
        self.doing
    }

    /// Whom to dial.
    pub fn target(&self) -> DialTarget {
        match &self.route.proxy {
            Some(proxy) => proxy.host.dial(proxy.port),
            None => self.route.host.dial(self.route.port),
        }
    }

    /// TCP stands.
    pub fn connected(&mut self) -> Step {
        let Some(proxy) = &self.route.proxy else {
            return self.secure();
        };
        self.doing = "waiting for the proxy";
        // CONNECT always names the port (RFC 9110 §9.3.6).
        let authority = format!("{}:{}", self.route.host.bracketed(), self.route.port);
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(authorization) = &proxy.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        self.out.extend(request.as_bytes());
        Step::Wait
    }

    /// Where the proxy's answer goes.
    pub fn read_space(&mut self) -> &mut [u8] {
        self.answer.space(ANSWER_SPACE)
    }

    /// So much of the proxy's answer came; 0 is its end.
    pub fn received(&mut self, count: usize) -> Result<Step, Setback> {
        if count == 0 {
            return Err(match self.route.proxy {
                Some(_) => Setback::ProxyBroken("It closed without an answer."),
                None => Setback::HungUp,
            });
        }
        self.answer.commit(count);
        let broken = |reject: crate::http::Reject| Setback::ProxyBroken(reject.why);
        let Some(length) = self.scanner.scan(self.answer.bytes()).map_err(broken)? else {
            return Ok(Step::Wait);
        };
        let (head, rest) = self.answer.bytes().split_at(length);
        let head = ResponseHead::parse(head).map_err(broken)?;
        if head.is_interim() {
            self.answer.consume(length);
            self.scanner = HeadScanner::new();
            return Ok(Step::Wait);
        }
        if !(200..300).contains(&head.status) {
            let text = plain(&String::from_utf8_lossy(rest));
            let text = if text.starts_with('<') {
                String::new()
            } else {
                text
            };
            return Err(Setback::ProxyRefused {
                status: head.status,
                text,
            });
        }
        if !rest.is_empty() {
            return Err(Setback::ProxyBroken("It spoke on behalf of the kit."));
        }
        self.answer.release();
        Ok(self.secure())
    }

    /// TLS stands.
    pub fn secured(&mut self) -> Step {
        Step::Ready
    }

    fn secure(&mut self) -> Step {
        match self.route.secure {
            true => {
                self.doing = "negotiating TLS";
                Step::Secure(self.route.host.server_name())
            }
            false => Step::Ready,
        }
    }
}

/// Room for a proxy's answer, in bytes; the scanner bounds the whole.
const ANSWER_SPACE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::config::Config;
    use crate::client::{Proxy, TunnelOptions};

    fn way(url: &str, proxy: Proxy) -> Way {
        let options = TunnelOptions::new(url).proxy(proxy);
        Way::new(Config::with_env(&options, |_| None).unwrap().route)
    }

    fn answer(way: &mut Way, text: &str) -> Result<Step, Setback> {
        let mut last = Ok(Step::Wait);
        for octet in text.bytes() {
            way.read_space()[0] = octet;
            last = Ok(way.received(1)?);
        }
        last
    }

    #[test]
    fn without_a_proxy_tls_follows_at_once() {
        let mut plain = way("ws://127.0.0.1:50", Proxy::None);
        assert_eq!(
            plain.target(),
            DialTarget::Addr("127.0.0.1:50".parse().unwrap())
        );
        assert_eq!(plain.connected(), Step::Ready);
        let mut secure = way("wss://kit.example", Proxy::None);
        assert_eq!(secure.target(), DialTarget::Name("kit.example".into(), 443));
        assert_eq!(secure.connected(), Step::Secure("kit.example".into()));
        assert_eq!(secure.secured(), Step::Ready);
    }

    #[test]
    fn a_proxy_is_asked_with_credentials_and_then_tls_begins() {
        let mut way = way(
            "wss://kit.example",
            Proxy::Url("http://u:p@proxy:3128".into()),
        );
        assert_eq!(way.target(), DialTarget::Name("proxy".into(), 3128));
        assert_eq!(way.connected(), Step::Wait);
        let wanted = "CONNECT kit.example:443 HTTP/1.1\r\nHost: kit.example:443\r\n\
                      Proxy-Authorization: Basic dTpw\r\n\r\n";
        assert_eq!(way.out.bytes(), wanted.as_bytes());
        let step = answer(
            &mut way,
            "HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n",
        );
        assert_eq!(step.unwrap(), Step::Secure("kit.example".into()));
    }

    #[test]
    fn a_proxy_that_refuses_or_babbles_is_a_setback() {
        let proxied = || {
            let mut way = way("wss://kit.example", Proxy::Url("http://proxy".into()));
            way.connected();
            way
        };
        let refused = answer(&mut proxied(), "HTTP/1.1 407 No\r\n\r\n").unwrap_err();
        assert!(matches!(refused, Setback::ProxyRefused { status: 407, .. }));
        assert!(refused.is_fatal(false) && refused.error().to_string().contains("credentials"));
        let babble = answer(&mut proxied(), "SSH-2.0-x\r\n\r\n").unwrap_err();
        assert!(matches!(babble, Setback::ProxyBroken(_)));
        let mut way = proxied();
        let early = b"HTTP/1.1 200 OK\r\n\r\nboo";
        way.read_space()[..early.len()].copy_from_slice(early);
        assert!(matches!(
            way.received(early.len()),
            Err(Setback::ProxyBroken(_))
        ));
        assert!(matches!(
            proxied().received(0),
            Err(Setback::ProxyBroken(_))
        ));
    }
}
