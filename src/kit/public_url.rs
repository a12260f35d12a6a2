//! Where the world reaches EXPOSE ports: a URL with `{port}` in it.

/// A checked pattern. `https://myapp-{port}.example` gives `https://myapp-3000.example`, and for
/// raw TCP `tcp://myapp.example:{port}` gives `tcp://myapp.example:3000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    pattern: String,
    /// The host in the pattern, in lower case, without its port.
    host: String,
}

impl PublicUrl {
    /// Checks a pattern for HTTP.
    pub fn parse(pattern: &str) -> Result<PublicUrl, String> {
        let schemes = ["http://", "https://"];
        PublicUrl::checked(pattern, "--public-url-pattern", &schemes)
    }

    /// Checks a pattern for raw TCP.
    pub fn parse_tcp(pattern: &str) -> Result<PublicUrl, String> {
        let url = PublicUrl::checked(pattern, "--public-tcp-pattern", &["tcp://"])?;
        let authority = pattern.trim_start_matches("tcp://");
        // Nothing stands in for a port here, and there is nothing that a path would tell.
        if authority.len() == host_of(authority).len() || authority.contains(['/', '?', '#']) {
            return Err(format!(
                "--public-tcp-pattern must be tcp://HOST:PORT with {{port}} in it, not `{pattern}`"
            ));
        }
        Ok(url)
    }

    fn checked(pattern: &str, flag: &str, schemes: &[&str]) -> Result<PublicUrl, String> {
        let refuse = |why: &str| Err(format!("{flag} {why}, not `{pattern}`"));
        let mut rests = schemes.iter();
        let Some(rest) = rests.find_map(|scheme| pattern.strip_prefix(scheme)) else {
            return refuse(&format!("must start with {}", schemes.join(" or ")));
        };
        if !pattern.contains(PLACE) {
            return refuse("must contain {port}");
        }
        if !pattern.bytes().all(|octet| octet.is_ascii_graphic()) {
            return refuse("must be printable ASCII without spaces");
        }
        if pattern.replace(PLACE, "").contains(['{', '}']) {
            return refuse("must not contain other braces than those of {port}");
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host_of(authority);
        let port = authority
            .strip_prefix(host)
            .and_then(|rest| rest.strip_prefix(':'));
        if host.matches(PLACE).count() > 1 {
            return refuse("must not have {port} twice in its host");
        }
        if port.is_some_and(|port| port != PLACE && !port.parse().is_ok_and(|port: u16| port > 0)) {
            return refuse("must have {port} or a number of 1 to 65535 for a port");
        }
        if host.is_empty() || authority.contains('@') {
            return refuse("must name a host, and no user");
        }
        let host = host.to_ascii_lowercase();
        Ok(PublicUrl {
            pattern: pattern.to_string(),
            host,
        })
    }

    /// The URL of a port.
    pub fn for_port(&self, port: u16) -> String {
        self.pattern.replace(PLACE, &port.to_string())
    }

    /// Whether `host`, in lower case and without port, is a name that the pattern can give: what
    /// the kit is publicly called.
    pub fn names(&self, host: &str) -> bool {
        let Some((before, after)) = self.host.split_once(PLACE) else {
            return self.host == host;
        };
        let middle = host
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after));
        middle.is_some_and(|digits| {
            (1..=5).contains(&digits.len()) && digits.bytes().all(|octet| octet.is_ascii_digit())
        })
    }
}

/// `authority` without its port.
pub(super) fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // The colons of an address in brackets are no port's.
        Some((_, port)) if port.contains(']') => authority,
        Some((host, _)) => host,
        None => authority,
    }
}

const PLACE: &str = "{port}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_gives_the_url_of_a_port() {
        let url = PublicUrl::parse("https://myapp-{port}.example/").unwrap();
        assert_eq!(url.for_port(3000), "https://myapp-3000.example/");
        let url = PublicUrl::parse("http://Kit.example:{port}").unwrap();
        assert_eq!(url.for_port(80), "http://Kit.example:80");
        assert!(url.names("kit.example"));
        for fine in [
            "https://a-{port}.example:8443/{port}",
            "http://[::1]:{port}",
            "http://{port}",
        ] {
            assert!(PublicUrl::parse(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_pattern_for_raw_tcp_has_a_port_and_no_path() {
        let url = PublicUrl::parse_tcp("tcp://kit.example:{port}").unwrap();
        assert_eq!(url.for_port(2222), "tcp://kit.example:2222");
        assert!(PublicUrl::parse_tcp("tcp://app-{port}.example:443").is_ok());
        for pattern in [
            "kit.example:{port}",
            "http://kit.example:{port}",
            "tcp://kit.example",
            "tcp://app-{port}.example",
            "tcp://kit.example:{port}/",
            "tcp://kit.example:{port}/x",
            "tcp://:{port}",
        ] {
            let why = PublicUrl::parse_tcp(pattern).unwrap_err();
            assert!(
                why.starts_with("--public-tcp-pattern must"),
                "{pattern}: {why}"
            );
        }
    }

    #[test]
    fn the_names_of_a_pattern_differ_only_in_the_port() {
        let url = PublicUrl::parse("https://myapp-{port}.example").unwrap();
        assert!(url.names("myapp-50.example"));
        for other in [
            "myapp-.example",
            "myapp-x.example",
            "myapp-123456.example",
            "evil",
        ] {
            assert!(!url.names(other), "{other}");
        }
        assert!(!url.names("myapp-50.example.evil.test"));
    }

    #[test]
    fn a_pattern_without_port_scheme_or_host_is_refused() {
        for pattern in [
            "",
            "https://a.example",
            "ftp://a-{port}.example",
            "https://",
            "https://{port}@a",
            "https://a-{port}.{zone}",
            "https://a b-{port}",
            "https://:{port}",
            "http://x{port}{port}",
            "https://a-{port}.{port}.example",
            "https://a:{port}{port}",
            "https://a:8{port}",
            "https://a-{port}:",
            "https://a-{port}:x",
            "https://a-{port}:0",
            "https://a-{port}:65536",
            "https://[::1]x:{port}1",
        ] {
            assert!(PublicUrl::parse(pattern).is_err(), "{pattern}");
        }
    }
}
