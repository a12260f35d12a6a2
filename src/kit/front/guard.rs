//! Who may ask at all: bearer tokens, and the names and origins a browser comes with.
//!
//! A page in somebody's browser can reach whatever that browser can reach. Two things give it away:
//! `Origin`, which it cannot forge, and after DNS rebinding a `Host` that is the attacker's name.
//! Other programs need neither and are judged by their token alone.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::http::RequestHead;
use crate::kit::config::Config;
use crate::kit::public_url::host_of;

/// What a request showed as proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credential {
    /// The kit has no token, so nothing is to be proven here.
    NotNeeded,
    /// The right token.
    Proven,
    /// None.
    Missing,
    /// Another token, or something that is none.
    Wrong,
}

impl Credential {
    /// Reads `Authorization`. Two of them are no proof: a proxy in front may have read the other.
    pub(crate) fn of(head: &RequestHead<'_>, config: &Config) -> Credential {
        let Some(token) = &config.token else {
            return Credential::NotNeeded;
        };
        let mut values = head.fields.all("authorization");
        let (first, second) = (values.next(), values.next());
        match (first, second) {
            (None, _) => Credential::Missing,
            (Some(value), None) if bearer(value).is_some_and(|shown| token.matches(shown)) => {
                Credential::Proven
            }
            _ => Credential::Wrong,
        }
    }

    /// Whether whoever showed it may go on.
    pub(crate) fn suffices(self) -> bool {
        matches!(self, Credential::NotNeeded | Credential::Proven)
    }
}

/// The token of `Bearer <token>`; the scheme is written in any case (RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value).ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

/// Whether the `Host` that was asked is one of ours (PROTOCOL §10, and §11 for EXPOSE ports on
/// loopback: a dev server behind one sees a `Host` of its own, so it cannot defend itself). Only a
/// name can be rebound: an address literal is what the browser connected to, and no `Host` at all
/// is no browser.
pub(crate) fn host_is_ours(head: &RequestHead<'_>, config: &Config) -> bool {
    let Some(host) = head.host.and_then(|host| std::str::from_utf8(host).ok()) else {
        return head.host.is_none();
    };
    let name = host_of(host).to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let is_public = config
        .public_url
        .as_ref()
        .is_some_and(|url| url.names(name));
    let is_allowed = |pattern: &String| {
        let pattern = pattern.to_ascii_lowercase();
        match pattern.strip_prefix('*') {
            // `*` alone is any name; `*.example` is any name below it.
            Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            None => name == pattern,
        }
    };
    name.is_empty()
        || name == "localhost"
        // No resolver of anybody else's is asked for these (RFC 6761 §6.3).
        || name.ends_with(".localhost")
        || is_address(name)
        || is_public
        || config.allow_host.iter().any(is_allowed)
}

fn is_address(host: &str) -> bool {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match inner {
        // A zone belongs to the sender and says nothing here.
        Some(inner) => {
            let address = inner.split('%').next().unwrap_or_default();
            address.parse::<Ipv6Addr>().is_ok()
        }
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Whether a request that changes something may come from where it comes from (PROTOCOL §1): no
/// browser, an origin that was allowed, or a page of this very host. After rebinding the attacker's
/// page *is* of this host, so then the name must be ours too, unless a token is asked for.
pub(crate) fn origin_is_fine(head: &RequestHead<'_>, config: &Config) -> bool {
    let mut origins = head.fields.all("origin");
    let Some(origin) = origins.next() else {
        return true;
    };
    let Some(origin) = std::str::from_utf8(origin)
        .ok()
        .filter(|_| origins.next().is_none())
    else {
        return false;
    };
    let is_allowed = |allowed: &String| allowed == "*" || allowed.eq_ignore_ascii_case(origin);
    if config.allow_origin.iter().any(is_allowed) {
        return true;
    }
    let host = head.host.and_then(|host| std::str::from_utf8(host).ok());
    host.is_some_and(|host| is_same_host(origin, host))
        && (config.token.is_some() || host_is_ours(head, config))
}

/// Whether `Origin` names what `Host` names. Another port of the same host is another's page: on
/// this machine it may be any program's. A proxy that ended TLS keeps the scheme from us, so a
/// port that is not there is the default of the origin's scheme on both sides.
fn is_same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let default = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return false,
    };
    let split = |authority| {
        let name: &str = host_of(authority);
        let port = authority.get(name.len()..).unwrap_or_default();
        let port = port.strip_prefix(':').filter(|port| !port.is_empty());
        (name, port.unwrap_or(default))
    };
    let ((name, port), (our_name, our_port)) = (split(authority), split(host));
    !name.is_empty() && name.eq_ignore_ascii_case(our_name) && port == our_port
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::parse_request;
    use crate::kit::public_url::PublicUrl;
    use crate::wire::control::Secret;

    fn with_head<T>(fields: &str, judge: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        let text = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        let (head, _) = parse_request(text.as_bytes()).unwrap().unwrap();
        judge(&head)
    }

    fn credential(fields: &str, token: Option<&str>) -> Credential {
        let config = Config {
            token: token.map(Secret::new),
            ..Config::default()
        };
        with_head(&format!("Host: a\r\n{fields}"), |head| {
            Credential::of(head, &config)
        })
    }

    #[test]
    fn only_the_right_bearer_token_proves_anything() {
        let of = |fields: &str| credential(fields, Some("hush"));
        assert_eq!(of(""), Credential::Missing);
        assert_eq!(of("Authorization: Bearer hush\r\n"), Credential::Proven);
        assert_eq!(of("authorization: bearer hush\r\n"), Credential::Proven);
        for wrong in [
            "Bearer hus",
            "Bearer hushh",
            "Basic hush",
            "hush",
            "Bearer",
            "Bearer Hush",
        ] {
            assert_eq!(
                of(&format!("Authorization: {wrong}\r\n")),
                Credential::Wrong,
                "{wrong}"
            );
        }
        let twice = "Authorization: Bearer hush\r\nAuthorization: Bearer hush\r\n";
        assert_eq!(of(twice), Credential::Wrong);
        assert_eq!(
            credential("Authorization: x\r\n", None),
            Credential::NotNeeded
        );
        // Only Authorization is read: what routed on one field and judged another was fooled.
        assert_eq!(
            of("Proxy-Authorization: Bearer hush\r\n"),
            Credential::Missing
        );
    }

    fn ours(host: &str, config: &Config) -> bool {
        with_head(&format!("Host: {host}\r\n"), |head| {
            host_is_ours(head, config)
        })
    }

    #[test]
    fn a_name_that_could_be_rebound_is_not_ours() {
        let config = Config::default();
        for host in [
            "localhost",
            "LOCALHOST:50",
            "localhost.",
            "app.localhost:3000",
            "127.0.0.1:50",
            "[::1]:50",
            "[::1]",
        ] {
            assert!(ours(host, &config), "{host}");
        }
        for host in [
            "evil.test",
            "evil.test:50",
            "localhost.evil.test",
            "evillocalhost",
            "127.0.0.1.evil.test",
            "kit",
        ] {
            assert!(!ours(host, &config), "{host}");
        }
    }

    #[test]
    fn the_public_name_and_allowed_names_are_ours() {
        let mut config = Config {
            public_url: Some(PublicUrl::parse("https://app-{port}.example").unwrap()),
            allow_host: vec!["Kit.internal".into(), "*.corp.test".into()],
            ..Config::default()
        };
        for host in [
            "app-50.example",
            "APP-3000.example:443",
            "kit.internal:50",
            "a.corp.test",
        ] {
            assert!(ours(host, &config), "{host}");
        }
        for host in [
            "corp.test",
            "evilcorp.test",
            ".corp.test",
            "app-x.example",
            "kit.internal.evil.test",
        ] {
            assert!(!ours(host, &config), "{host}");
        }
        config.allow_host = vec!["*".into()];
        assert!(ours("whatever.test", &config));
    }

    fn fine(host: &str, origin: &str, config: &Config) -> bool {
        let fields = format!("Host: {host}\r\nOrigin: {origin}\r\n");
        with_head(&fields, |head| origin_is_fine(head, config))
    }

    #[test]
    fn a_foreign_page_may_not_connect() {
        let config = Config::default();
        assert!(with_head("Host: evil.test\r\n", |head| origin_is_fine(
            head, &config
        )));
        assert!(fine("127.0.0.1:50", "http://127.0.0.1:50", &config));
        assert!(fine("[::1]:50", "http://[::1]:50", &config));
        for origin in [
            "http://evil.test",
            "null",
            "http://127.0.0.1:3000",
            "http://127.0.0.1",
            "",
            "file://",
        ] {
            assert!(!fine("127.0.0.1:50", origin, &config), "{origin}");
        }
        let twice = "Host: a\r\nOrigin: http://a\r\nOrigin: http://a\r\n";
        assert!(!with_head(twice, |head| origin_is_fine(head, &config)));
    }

    #[test]
    fn a_rebound_page_of_this_host_needs_a_token_or_a_name_of_ours() {
        let mut config = Config::default();
        assert!(!fine("evil.test:50", "http://evil.test:50", &config));
        config.token = Some(Secret::new("hush"));
        assert!(fine("evil.test:50", "http://evil.test:50", &config));
    }

    #[test]
    fn an_allowed_origin_may_connect_whatever_the_host() {
        let mut config = Config {
            allow_origin: vec!["https://App.example".into()],
            ..Config::default()
        };
        assert!(fine("kit.internal", "https://app.example", &config));
        assert!(!fine("kit.internal", "https://app.example:8443", &config));
        config.allow_origin = vec!["*".into()];
        assert!(fine("kit.internal", "null", &config));
    }

    #[test]
    fn behind_a_tls_proxy_default_ports_are_the_same() {
        let config = Config {
            allow_host: vec!["*".into()],
            ..Config::default()
        };
        assert!(fine("kit.example", "https://kit.example", &config));
        assert!(fine("kit.example:443", "https://kit.example", &config));
        assert!(!fine("kit.example:80", "https://kit.example", &config));
    }
}
