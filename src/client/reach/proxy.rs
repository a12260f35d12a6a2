//! Which proxy to use: options, environment, exceptions.

use std::net::IpAddr;

use crate::client::Error;
use crate::client::options::Proxy;
use crate::client::reach::base64;
use crate::client::reach::url::{Host, Url};

/// A proxy that is asked by HTTP CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::client) struct ProxyServer {
    pub host: Host,
    pub port: u16,
    /// What follows `Proxy-Authorization: `.
    pub authorization: Option<String>,
}

/// The authorization is a password in disguise.
impl std::fmt::Debug for ProxyServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host.bracketed(), self.port)
    }
}

/// The proxy on the way to `host` and `port`, if there is to be one. `env` looks a variable up.
pub(in crate::client) fn choose(
    proxy: &Proxy,
    host: &Host,
    port: u16,
    secure: bool,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Option<ProxyServer>, Error> {
    let env = |name: &str| {
        let value = env(&name.to_ascii_lowercase()).or_else(|| env(name));
        value.filter(|value| !value.trim().is_empty())
    };
    let (url, origin) = match proxy {
        Proxy::None => return Ok(None),
        Proxy::Url(url) => (url.clone(), "The proxy's URL"),
        Proxy::FromEnv => {
            if host.is_loopback() || env("NO_PROXY").is_some_and(|list| excepts(&list, host, port))
            {
                return Ok(None);
            }
            let name = if secure { "HTTPS_PROXY" } else { "HTTP_PROXY" };
            match env(name).or_else(|| env("ALL_PROXY")) {
                Some(url) => (url, "The proxy's URL in the environment"),
                None => return Ok(None),
            }
        }
    };
    read(url.trim())
        .map(Some)
        .map_err(|fault| Error::Options(format!("{origin} cannot be used: {fault}")))
}

/// Reads a proxy's URL; without a scheme it is `http`.
fn read(text: &str) -> Result<ProxyServer, String> {
    let url = match text.contains("://") {
        true => Url::parse(text)?,
        false => Url::parse(&format!("http://{text}"))?,
    };
    if url.scheme != "http" {
        return Err("Only proxies with http:// are spoken to; or use none.".into());
    }
    let authorization = url
        .credentials
        .map(|(user, password)| base64::encode(format!("{user}:{password}").as_bytes()))
        .map(|encoded| format!("Basic {encoded}"));
    Ok(ProxyServer {
        host: url.host,
        port: url.port.unwrap_or(DEFAULT_PROXY_PORT),
        authorization,
    })
}

/// The port that a URL without one means, of this scheme.
const DEFAULT_PROXY_PORT: u16 = 80;

/// Whether `list`, the value of `NO_PROXY`, names the host: by itself, by a suffix of labels, by an
/// address range, with a port or without, or by `*`.
fn excepts(list: &str, host: &Host, port: u16) -> bool {
    list.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            if entry == "*" {
                return true;
            }
            if let Host::Ip(ip) = host
                && covers(entry, *ip)
            {
                return true;
            }
            let (entry, wanted) = match entry.rsplit_once(':') {
                Some((name, number)) if !name.ends_with(':') => match number.parse::<u16>() {
                    Ok(number) => (name, Some(number)),
                    Err(_) => (entry, None),
                },
                _ => (entry, None),
            };
            if wanted.is_some_and(|wanted| wanted != port) {
                return false;
            }
            match host {
                Host::Ip(ip) => covers(entry.trim_matches(['[', ']']), *ip),
                Host::Name(name) => is_within(name, entry),
            }
        })
}

/// Whether `name` is the domain in `entry` or lies below it.
fn is_within(name: &str, entry: &str) -> bool {
    let domain = entry
        .trim_start_matches("*.")
        .trim_start_matches('.')
        .to_ascii_lowercase();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    !domain.is_empty()
        && (name == domain
            || name
                .strip_suffix(&domain)
                .is_some_and(|labels| labels.ends_with('.')))
}

/// Whether `entry` is the address or a range (`10.0.0.0/8`) around it.
fn covers(entry: &str, ip: IpAddr) -> bool {
    let (base, length) = match entry.split_once('/') {
        Some((base, length)) => match length.parse::<u32>() {
            Ok(length) => (base, Some(length)),
            Err(_) => return false,
        },
        None => (entry, None),
    };
    match (base.parse::<IpAddr>(), ip) {
        (Ok(IpAddr::V4(base)), IpAddr::V4(ip)) => {
            let length = length.unwrap_or(32);
            let mask = u32::MAX
                .checked_shl(32u32.saturating_sub(length))
                .unwrap_or(0);
            length <= 32 && base.to_bits() & mask == ip.to_bits() & mask
        }
        (Ok(IpAddr::V6(base)), IpAddr::V6(ip)) => {
            let length = length.unwrap_or(128);
            let mask = u128::MAX
                .checked_shl(128u32.saturating_sub(length))
                .unwrap_or(0);
            length <= 128 && base.to_bits() & mask == ip.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Url::parse(&format!("ws://{text}")).unwrap().host
    }

    fn from_env(name: &str, vars: &[(&str, &str)]) -> Option<String> {
        let env = |wanted: &str| {
            let found = vars.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        };
        let proxy = choose(&Proxy::FromEnv, &host(name), 443, true, env).unwrap();
        proxy.map(|proxy| format!("{proxy:?}"))
    }

    #[test]
    fn the_environment_names_the_proxy_and_its_exceptions() {
        let proxy = Some("p:3128".to_owned());
        assert_eq!(
            from_env("kit.example", &[("HTTPS_PROXY", "http://p:3128")]),
            proxy
        );
        assert_eq!(from_env("kit.example", &[("https_proxy", "p:3128")]), proxy);
        assert_eq!(
            from_env("kit.example", &[("ALL_PROXY", "http://u:w@p:3128/")]),
            proxy
        );
        assert_eq!(
            from_env("kit.example", &[("HTTP_PROXY", "http://p:3128")]),
            None
        );
        assert_eq!(
            from_env("localhost", &[("HTTPS_PROXY", "http://p:3128")]),
            None
        );
        for (name, list, bypassed) in [
            ("kit.example", "example", true),
            ("kit.example", ".example", true),
            ("kit.example", "*.example", true),
            ("kit.example", "kit.example:443", true),
            ("kit.example", "kit.example:80", false),
            ("kit.example", "it.example", false),
            ("10.1.2.3", "10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("[fd00::1]", "fd00::/8", true),
            ("[fd00::1]", "fd00::1", true),
            ("kit.example", "*", true),
        ] {
            let vars = [("HTTPS_PROXY", "http://p:3128"), ("NO_PROXY", list)];
            assert_eq!(
                from_env(name, &vars).is_none(),
                bypassed,
                "{name} in {list}"
            );
        }
    }

    #[test]
    fn credentials_are_encoded_and_never_shown() {
        let proxy = Proxy::Url("http://user:p%40ss@p".into());
        let server = choose(&proxy, &host("k"), 443, true, |_| None)
            .unwrap()
            .unwrap();
        assert_eq!(server.authorization.as_deref(), Some("Basic dXNlcjpwQHNz"));
        assert!(!format!("{server:?} {proxy:?}").contains("ss"));
        let socks = Proxy::Url("socks5://user:secret@p".into());
        let refused = choose(&socks, &host("k"), 443, true, |_| None).unwrap_err();
        assert!(!refused.to_string().contains("secret"));
    }
}
