//! What the local server is called in the requests that it gets.

use crate::client::options::HostHeader;
use crate::http::OwnField;
use crate::http::rewrite::{AskedAs, Local, Names};

/// The local server's names.
#[derive(Debug, Clone, Copy)]
pub struct Naming<'a> {
    /// Its own name, with its port where that says anything.
    pub authority: &'a str,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// What stands in front of each path that it is asked for.
    pub prefix: &'a str,
    /// What the user wants it to see.
    pub host_header: &'a HostHeader,
    /// What every request has, whatever its visitor sent.
    pub own: &'a [OwnField],
    /// Where the world reaches it, when the kit knows.
    pub public_url: Option<&'a str>,
}

impl<'a> Naming<'a> {
    /// What the local server sees as `Host`, and what else is rewritten where that is another than
    /// the visitor asked: development servers compare `Host` and `Origin`, to keep strangers' pages
    /// out.
    pub(super) fn names(&self, visitor: AskedAs<'a>) -> (&'a [u8], Option<Names<'a>>) {
        let (authority, kept) = match self.host_header {
            HostHeader::Rewrite => (self.authority.as_bytes(), false),
            HostHeader::Name(name) => (name.as_bytes(), false),
            HostHeader::Keep => (visitor.host.unwrap_or(self.authority.as_bytes()), true),
        };
        let local = Local {
            scheme: self.scheme,
            authority,
            prefix: self.prefix.as_bytes(),
            kept,
        };
        let nothing = kept && self.prefix.is_empty();
        (authority, (!nothing).then(|| Names::new(local, visitor)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_rewritten_kept_or_named_and_the_rest_follows_unless_it_is_kept() {
        let visitor = AskedAs {
            host: Some(b"app.example"),
            ..AskedAs::default()
        };
        let rewritten = "http://localhost:5173".to_owned();
        for (host_header, host, origin) in [
            (HostHeader::Rewrite, "localhost:5173", Some(rewritten)),
            (HostHeader::Keep, "app.example", None),
            (
                HostHeader::Name("web.test".into()),
                "web.test",
                Some("http://web.test".into()),
            ),
        ] {
            let naming = Naming {
                authority: "localhost:5173",
                scheme: "http",
                prefix: "",
                host_header: &host_header,
                own: &[],
                public_url: None,
            };
            let (local, names) = naming.names(visitor);
            assert_eq!(local, host.as_bytes());
            let got = names.and_then(|names| names.inwards(b"origin", b"http://app.example"));
            assert_eq!(got, origin.map(String::into_bytes));
        }
    }
}
