//! The way to a kit: a TCP connection, through a proxy if there is one, in TLS if it is to be.
//!
//! Order: [`Route::target`] is dialled, then [`Route::connected`], [`Route::received`] and
//! [`Route::secured`] say how it goes on, until one of them says [`Advance::Ready`].

use crate::buffer::Buffer;
use crate::client::config::Endpoint;
use crate::client::reach::failure::{Failure, is_distrust, plain};
use crate::http::{HeadScanner, ResponseHead};
use crate::machine::{DialTarget, Ended, IoFailure};

/// How it goes on.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) enum Advance {
    /// Something has to come first.
    Wait,
    /// Start TLS and verify this name.
    Secure(String),
    /// The kit is reached: speak HTTP.
    Ready,
}

/// A connection on its way.
#[derive(Debug)]
pub(in crate::client) struct Route {
    endpoint: Endpoint,
    /// To the proxy.
    pub out: Buffer,
    answer: Buffer,
    scanner: HeadScanner,
    doing: &'static str,
    /// It only finds out whether TLS is spoken where the URL says that it is not.
    asks: bool,
}

impl Route {
    pub(crate) fn new(endpoint: Endpoint, asks: bool) -> Route {
        Route {
            endpoint,
            out: Buffer::new(),
            answer: Buffer::new(),
            scanner: HeadScanner::new(),
            doing: "connecting",
            asks,
        }
    }

    /// Where it leads.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What is being done, for a sentence about a timeout.
    pub(crate) fn doing(&self) -> &'static str {
        self.doing
    }

    /// Whom to dial.
    pub(crate) fn target(&self) -> DialTarget {
        match &self.endpoint.proxy {
            Some(proxy) => proxy.host.dial(proxy.port),
            None => self.endpoint.host.dial(self.endpoint.port),
        }
    }

    /// TCP stands.
    pub(crate) fn connected(&mut self) -> Advance {
        let Some(proxy) = &self.endpoint.proxy else {
            return self.secure();
        };
        self.doing = "waiting for the proxy";
        // CONNECT always names the port (RFC 9110 §9.3.6).
        let authority = format!("{}:{}", self.endpoint.host.bracketed(), self.endpoint.port);
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(authorization) = &proxy.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        self.out.extend(request.as_bytes());
        Advance::Wait
    }

    /// Where the proxy's answer goes.
    pub(crate) fn read_space(&mut self) -> &mut [u8] {
        self.answer.space(ANSWER_SPACE)
    }

    /// So much of the proxy's answer came; 0 is its end.
    pub(crate) fn received(&mut self, count: usize) -> Result<Advance, Failure> {
        if count == 0 {
            return Err(match self.endpoint.proxy {
                Some(_) => Failure::ProxyBroken("It closed without an answer."),
                None => Failure::HungUp,
            });
        }
        self.answer.commit(count);
        let broken = |reject: crate::http::Reject| Failure::ProxyBroken(reject.why);
        let Some(length) = self.scanner.scan(self.answer.bytes()).map_err(broken)? else {
            return Ok(Advance::Wait);
        };
        let (head, rest) = self.answer.bytes().split_at(length);
        let head = ResponseHead::parse(head).map_err(broken)?;
        if head.is_interim() {
            self.answer.consume(length);
            self.scanner = HeadScanner::new();
            return Ok(Advance::Wait);
        }
        if !(200..300).contains(&head.status) {
            let text = plain(&String::from_utf8_lossy(rest));
            let text = if text.starts_with('<') {
                String::new()
            } else {
                text
            };
            return Err(Failure::ProxyRefused {
                status: head.status,
                text,
            });
        }
        if !rest.is_empty() {
            return Err(Failure::ProxyBroken("It spoke on behalf of the kit."));
        }
        self.answer.release();
        Ok(self.secure())
    }

    /// TLS stands.
    pub(crate) fn secured(&mut self) -> Result<Advance, Failure> {
        match self.asks {
            true => Err(Failure::NotHttp(SPEAKS_TLS)),
            false => Ok(Advance::Ready),
        }
    }

    /// The connection failed.
    pub(crate) fn failed(&self, failure: IoFailure) -> Failure {
        match self.doing {
            "connecting" => Failure::Dial(failure),
            NEGOTIATING if !self.asks => Failure::Tls(failure),
            // Only who speaks TLS has a certificate, or an alert.
            NEGOTIATING if is_distrust(&failure) || failure.text.contains("alert") => {
                Failure::NotHttp(SPEAKS_TLS)
            }
            NEGOTIATING => Failure::Mute,
            _ => Failure::Dropped(Ended::Failed(failure)),
        }
    }

    fn secure(&mut self) -> Advance {
        match self.endpoint.secure || self.asks {
            true => {
                self.doing = NEGOTIATING;
                Advance::Secure(self.endpoint.host.server_name())
            }
            false => Advance::Ready,
        }
    }
}

/// What is said of a plain URL that leads to TLS.
pub(in crate::client) const SPEAKS_TLS: &str = "it speaks TLS, so its URL begins with wss://";
/// See [`Route::doing`].
const NEGOTIATING: &str = "negotiating TLS";
/// Room for a proxy's answer, in bytes; the scanner bounds the whole.
const ANSWER_SPACE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::config::Config;
    use crate::client::{Proxy, TunnelOptions};

    fn route(url: &str, proxy: Proxy) -> Route {
        let options = TunnelOptions::new(url).proxy(proxy);
        let config = Config::with_env(&options, |_| None).unwrap();
        Route::new(config.endpoints[0].clone(), false)
    }

    fn answer(route: &mut Route, text: &str) -> Result<Advance, Failure> {
        let mut last = Ok(Advance::Wait);
        for octet in text.bytes() {
            route.read_space()[0] = octet;
            last = Ok(route.received(1)?);
        }
        last
    }

    #[test]
    fn without_a_proxy_tls_follows_at_once() {
        let mut plain = route("ws://127.0.0.1:50", Proxy::None);
        assert_eq!(
            plain.target(),
            DialTarget::Addr("127.0.0.1:50".parse().unwrap())
        );
        assert_eq!(plain.connected(), Advance::Ready);
        let mut secure = route("wss://kit.example", Proxy::None);
        assert_eq!(secure.target(), DialTarget::Name("kit.example".into(), 443));
        assert_eq!(secure.connected(), Advance::Secure("kit.example".into()));
        assert_eq!(secure.secured().unwrap(), Advance::Ready);
    }

    #[test]
    fn a_proxy_is_asked_with_credentials_and_then_tls_begins() {
        let mut route = route(
            "wss://kit.example",
            Proxy::Url("http://u:p@proxy:3128".into()),
        );
        assert_eq!(route.target(), DialTarget::Name("proxy".into(), 3128));
        assert_eq!(route.connected(), Advance::Wait);
        let wanted = "CONNECT kit.example:443 HTTP/1.1\r\nHost: kit.example:443\r\n\
                      Proxy-Authorization: Basic dTpw\r\n\r\n";
        assert_eq!(route.out.bytes(), wanted.as_bytes());
        let step = answer(
            &mut route,
            "HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n",
        );
        assert_eq!(step.unwrap(), Advance::Secure("kit.example".into()));
    }

    #[test]
    fn a_proxy_that_refuses_or_babbles_is_a_failure() {
        let proxied = || {
            let mut route = route("wss://kit.example", Proxy::Url("http://proxy".into()));
            route.connected();
            route
        };
        let refused = answer(&mut proxied(), "HTTP/1.1 407 No\r\n\r\n").unwrap_err();
        assert!(matches!(refused, Failure::ProxyRefused { status: 407, .. }));
        assert!(refused.is_fatal(false) && refused.error().to_string().contains("credentials"));
        let babble = answer(&mut proxied(), "SSH-2.0-x\r\n\r\n").unwrap_err();
        assert!(matches!(babble, Failure::ProxyBroken(_)));
        let mut route = proxied();
        let early = b"HTTP/1.1 200 OK\r\n\r\nboo";
        route.read_space()[..early.len()].copy_from_slice(early);
        assert!(matches!(
            route.received(early.len()),
            Err(Failure::ProxyBroken(_))
        ));
        assert!(matches!(
            proxied().received(0),
            Err(Failure::ProxyBroken(_))
        ));
    }
}
