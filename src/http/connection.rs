//! The `Connection` fields of a head: what they say about the connection and which other fields
//! they declare hop-by-hop.

use super::fields::{Field, tokens};
use crate::limits::MAX_CONNECTION_NAMES;

/// What the `Connection` fields of one head say.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionOptions<'a> {
    /// The sender closes after this exchange, or wants us to.
    pub close: bool,
    /// An HTTP/1.0 sender can keep the connection.
    pub keep_alive: bool,
    /// The `Upgrade` field is meant for us.
    pub upgrade: bool,
    /// Trailers go on, and so does the field that announces them.
    pub(super) passes_trailer: bool,
    /// Names of other fields that end at this hop.
    named: [&'a [u8]; MAX_CONNECTION_NAMES],
    count: usize,
}

impl<'a> ConnectionOptions<'a> {
    /// Reads all `Connection` fields; `None` when they name more fields than anybody needs.
    pub fn gather(fields: impl Iterator<Item = Field<'a>>) -> Option<Self> {
        let mut options = Self {
            close: false,
            keep_alive: false,
            upgrade: false,
            passes_trailer: false,
            named: [&[]; MAX_CONNECTION_NAMES],
            count: 0,
        };
        for (name, value) in fields {
            if name.eq_ignore_ascii_case(b"connection") {
                tokens(value).try_for_each(|token| options.note(token))?;
            }
        }
        Some(options)
    }

    fn note(&mut self, token: &'a [u8]) -> Option<()> {
        if token.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if token.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else {
            *self.named.get_mut(self.count)? = token;
            self.count += 1;
        }
        Some(())
    }

    /// Whether a field called `name` stays behind at this hop.
    ///
    /// `Connection` cannot remove `Host` or `Content-Length`: what they say was already decided
    /// on, and a message without them would be another message.
    pub fn removes(&self, name: &[u8]) -> bool {
        let announces = self.passes_trailer && name.eq_ignore_ascii_case(b"trailer");
        if is_hop_by_hop(name) && !announces {
            return true;
        }
        let named = self.named.get(..self.count).unwrap_or_default();
        named.iter().any(|option| option.eq_ignore_ascii_case(name))
            && !name.eq_ignore_ascii_case(b"host")
            && !name.eq_ignore_ascii_case(b"content-length")
    }
}

/// Fields that never pass a proxy (PROTOCOL §4), and those that talk to one: `Proxy-*`, and
/// `Proxy`, which CGI programs take for their own proxy setting.
fn is_hop_by_hop(name: &[u8]) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match name.len() {
        2 => is("te"),
        5 => is("proxy"),
        7 => is("trailer") || is("upgrade") || is_proxy_field(name),
        10 => is("connection") || is("keep-alive") || is_proxy_field(name),
        17 => is("transfer-encoding") || is_proxy_field(name),
        _ => is_proxy_field(name),
    }
}

fn is_proxy_field(name: &[u8]) -> bool {
    name.get(..6)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"proxy-"))
}
