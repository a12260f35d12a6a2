//! What the local server is called in the requests that it gets.

use crate::client::options::HostHeader;

/// The local server's names.
#[derive(Debug, Clone, Copy)]
pub struct Naming<'a> {
    /// Its own name, with its port where that says anything.
    pub authority: &'a str,
    /// What the user wants it to see.
    pub host_header: &'a HostHeader,
}

/// What the local server sees as `Host`, and as `Origin` where that is to match it.
///
/// Development servers compare both on a WebSocket, to keep strangers' pages out. A page that came
/// through the tunnel has the public name as its origin; it gets the local one. The origin of
/// any other page stays what it is, so that the server can refuse it.
pub(super) fn host_and_origin<'a>(
    naming: Naming<'a>,
    asked: Option<&'a [u8]>,
    origin: Option<&[u8]>,
    upgrade: bool,
) -> (&'a [u8], Option<Vec<u8>>) {
    let host = match naming.host_header {
        HostHeader::Rewrite => naming.authority.as_bytes(),
        HostHeader::Name(name) => name.as_bytes(),
        HostHeader::Keep => return (asked.unwrap_or(naming.authority.as_bytes()), None),
    };
    let is_public = |origin: &[u8]| {
        let authority = ["https://", "http://"].iter().find_map(|scheme| {
            let (start, rest) = origin.split_at_checked(scheme.len())?;
            start
                .eq_ignore_ascii_case(scheme.as_bytes())
                .then_some(rest)
        });
        let Some((authority, asked)) = authority.zip(asked) else {
            return false;
        };
        asked.eq_ignore_ascii_case(authority)
    };
    let matches = upgrade && origin.is_some_and(is_public);
    (
        host,
        matches.then(|| [b"http://".as_slice(), host].concat()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(host_header: &HostHeader) -> Naming<'_> {
        Naming {
            authority: "localhost:5173",
            host_header,
        }
    }

    fn text(pair: (&[u8], Option<Vec<u8>>)) -> (String, Option<String>) {
        let text = |octets| String::from_utf8(octets).unwrap();
        (text(pair.0.to_vec()), pair.1.map(text))
    }

    #[test]
    fn the_host_is_rewritten_and_the_origin_only_of_our_own_pages_on_upgrades() {
        let rewrite = naming(&HostHeader::Rewrite);
        let public: Option<&[u8]> = Some(b"app-3000.example");
        let local = "localhost:5173".to_owned();
        for (origin, upgrade, wanted) in [
            (
                "https://app-3000.example",
                true,
                Some("http://localhost:5173"),
            ),
            (
                "https://App-3000.Example",
                true,
                Some("http://localhost:5173"),
            ),
            ("https://app-3000.example", false, None),
            ("https://evil.example", true, None),
            ("https://app-3000.example.evil", true, None),
            ("null", true, None),
            ("", true, None),
        ] {
            let got = text(host_and_origin(
                rewrite,
                public,
                Some(origin.as_bytes()),
                upgrade,
            ));
            assert_eq!(got, (local.clone(), wanted.map(str::to_owned)), "{origin}");
        }
    }

    #[test]
    fn the_host_can_be_kept_or_named() {
        let public: Option<&[u8]> = Some(b"app.example");
        let origin: Option<&[u8]> = Some(b"https://app.example");
        let kept = text(host_and_origin(
            naming(&HostHeader::Keep),
            public,
            origin,
            true,
        ));
        assert_eq!(kept, ("app.example".into(), None));
        let header = HostHeader::Name("web.test".into());
        let named = text(host_and_origin(naming(&header), public, origin, true));
        assert_eq!(named, ("web.test".into(), Some("http://web.test".into())));
    }
}
