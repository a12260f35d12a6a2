//! Two names of one server: what visitors call it, and what it is told that it is called.
//!
//! Whoever rewrites `Host` has the rest follow, or the server speaks of itself by a name that its
//! visitors cannot reach. What names the visitor's own scheme and host on the way in gets the local
//! name ([`Names::inwards`]), and what names the local authority on the way out gets the visitor's
//! ([`Back::outwards`]). Other hosts, and other ports of the same, stay what they are; so does all
//! in bodies. A server behind a prefix has that put before paths on the way in and taken off on the
//! way out (`prefix`), also where `Host` is kept and nothing else is rewritten.

use std::borrow::Cow;

use super::fields::{is_host, media_type, trim_whitespace};
use super::prefix;

/// What a server is told of itself.
#[derive(Debug, Clone, Copy)]
pub struct Local<'a> {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// What it gets as `Host`.
    pub authority: &'a [u8],
    /// What stands in front of each path: nothing, or `/path`.
    pub prefix: &'a [u8],
    /// That is the host that the visitor asked: no name is rewritten.
    pub kept: bool,
}

/// The names that a request is rewritten by.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    local: Local<'a>,
    /// How the visitor came: `http` or `https`.
    scheme: &'static str,
    /// What the visitor calls the server, best first.
    own: [Option<&'a [u8]>; 3],
    /// A socket of a page of the same host is its own, whatever scheme the page has: the edge that
    /// ended TLS may not have said so.
    upgrade: bool,
    /// It brings a form of one of the server's own pages.
    own_form: bool,
}

/// What a request says of what its visitor calls the server, and how it came.
#[derive(Debug, Clone, Copy, Default)]
pub struct AskedAs<'a> {
    /// `Host`, as it was asked.
    pub host: Option<&'a [u8]>,
    /// `X-Forwarded-Host`.
    pub forwarded_host: Option<&'a [u8]>,
    /// `X-Forwarded-Proto`.
    pub forwarded_proto: Option<&'a [u8]>,
    /// The address that the kit gives for the binding.
    pub public_url: Option<&'a str>,
    /// It asks for an upgrade.
    pub upgrade: bool,
    /// `Origin`.
    pub origin: Option<&'a [u8]>,
    /// `Content-Type`.
    pub content_type: Option<&'a [u8]>,
}

/// What an answer is rewritten by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Back {
    local: Vec<u8>,
    prefix: Vec<u8>,
    kept: bool,
    scheme: &'static str,
    public: Vec<u8>,
}

impl<'a> Names<'a> {
    /// For a server that is told so of itself. The kit has set the forwarding facts from what it
    /// saw, or kept a trusted proxy's (PROTOCOL §11).
    pub fn new(local: Local<'a>, visitor: AskedAs<'a>) -> Names<'a> {
        let public_url = visitor.public_url.and_then(|url| split(url.as_bytes()));
        let public_url = public_url.map(|url| (url.scheme, url.authority));
        let first = |list: &'a [u8]| trim_whitespace(list.split(|&it| it == b',').next()?).into();
        let forwarded = visitor.forwarded_host.and_then(first);
        let own = [
            forwarded.filter(|host| is_host(host)),
            visitor.host.filter(|host| !host.is_empty()),
            public_url.map(|(_, authority)| authority),
        ];
        let called = own.iter().flatten().next().copied();
        let by_address = public_url.filter(|(_, it)| called.is_some_and(|called| same(it, called)));
        let by_address = by_address.and_then(|(scheme, _)| scheme);
        let said = visitor.forwarded_proto.and_then(first);
        let is_secure = |said: &[u8]| same(said, b"https") || same(said, b"wss");
        let scheme = match by_address {
            Some("https") => "https",
            _ if said.is_some_and(is_secure) => "https",
            _ => "http",
        };
        let mut names = Names {
            local,
            scheme,
            own,
            upgrade: visitor.upgrade,
            own_form: false,
        };
        let is_own = |origin| names.inwards(b"origin", origin).is_some();
        names.own_form =
            visitor.origin.is_some_and(is_own) && visitor.content_type.is_some_and(is_form);
        names
    }

    /// What the server is asked for instead of `target`; nothing where that would lead out of its
    /// prefix.
    pub fn target<'t>(&self, target: &'t [u8]) -> Option<Cow<'t, [u8]>> {
        let prefix = self.local.prefix;
        if prefix.is_empty() {
            return Some(Cow::Borrowed(target));
        }
        let is_inside = target.starts_with(b"/") && !prefix::climbs(target);
        is_inside.then(|| Cow::Owned(prefix::put_on(prefix, target)))
    }

    /// Whether a field of the request would have something done outside the prefix.
    pub fn leads_out(&self, name: &[u8], value: &[u8]) -> bool {
        let path = split(value).map_or(value, |url| url.rest);
        !self.local.prefix.is_empty() && same(name, b"destination") && prefix::climbs(path)
    }

    /// What a field of the request becomes, if it names the visitor's own scheme and host.
    pub fn inwards(&self, name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let lenient = match name {
            _ if same(name, b"origin") => self.upgrade,
            _ if same(name, b"referer") => false,
            // Where a resource goes is no question of trust (RFC 4918 §10.3).
            _ if same(name, b"destination") => true,
            // Servers that let this field count hold it against `Origin`, where forged requests are
            // to be told apart: those that a form can make. All else learns from it where it is.
            _ if same(name, b"x-forwarded-host") => {
                let wanted = self.own_form && !self.local.kept;
                return wanted.then(|| self.local.authority.to_vec());
            }
            _ => return None,
        };
        let mut before = self.local.prefix;
        if same(name, b"origin") {
            before = b"";
        }
        let Some(url) = split(value) else {
            let is_path = same(name, b"destination") && value.starts_with(b"/");
            return (is_path && !before.is_empty()).then(|| prefix::put_on(before, value));
        };
        let scheme = url.scheme?;
        let is_own = self
            .own
            .iter()
            .flatten()
            .any(|own| same(own, url.authority));
        let fits = is_own && (lenient || scheme == self.scheme);
        let (named, authority) = match self.local.kept {
            true if before.is_empty() => return None,
            true => (scheme, url.authority),
            false => (self.local.scheme, self.local.authority),
        };
        let slash: &[u8] = match url.rest.first() {
            Some(b'/') => b"",
            _ if before.is_empty() => b"",
            _ => b"/",
        };
        let parts = [named.as_bytes(), b"://", authority, before, slash, url.rest];
        fits.then(|| parts.concat())
    }

    /// What the answer is rewritten by; nothing where the visitor named no host.
    pub fn back(&self) -> Option<Back> {
        let public = match self.local.kept {
            true => self.local.authority,
            false => self.own.iter().flatten().next()?,
        };
        Some(Back {
            local: self.local.authority.to_vec(),
            prefix: self.local.prefix.to_vec(),
            kept: self.local.kept,
            scheme: self.scheme,
            public: public.to_vec(),
        })
    }
}

impl Back {
    /// What a field of the answer becomes, if it names the local authority.
    pub fn outwards(&self, name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        if same(name, b"location") || same(name, b"content-location") {
            return self.url(value);
        }
        if same(name, b"refresh") {
            let at = refresh_url(value)?;
            let (before, url) = value.split_at_checked(at)?;
            return Some([before, &self.url(url)?].concat());
        }
        match same(name, b"set-cookie") {
            true => self.cookie(value),
            false => None,
        }
    }

    /// Which of `fields` change, by their places, and what they become.
    pub fn rewritten<'f>(
        &self,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    ) -> Vec<(usize, Vec<u8>)> {
        let changed = |(at, (name, value))| Some((at, self.outwards(name, value)?));
        fields.enumerate().filter_map(changed).collect()
    }

    fn url(&self, value: &[u8]) -> Option<Vec<u8>> {
        let Some(url) = split(value) else {
            return self.path(value);
        };
        let nothing = self.kept && self.prefix.is_empty();
        if nothing || !same(url.authority, &self.local) {
            return None;
        }
        let rest = prefix::take_off(&self.prefix, url.rest)?;
        let scheme = match url.scheme {
            Some(scheme) if self.kept => [scheme.as_bytes(), b":"].concat(),
            Some(_) => [self.scheme.as_bytes(), b":"].concat(),
            None => Vec::new(),
        };
        Some([&scheme, b"//".as_slice(), &self.public, &rest].concat())
    }

    /// A path of its own that lies behind the prefix.
    fn path(&self, value: &[u8]) -> Option<Vec<u8>> {
        if self.prefix.is_empty() {
            return None;
        }
        let path = prefix::take_off(&self.prefix, value)?;
        prefix::stays(&path).then(|| path.into_owned())
    }

    /// A cookie of the local name is one of whatever host the visitor asked: it has no `Domain`
    /// (RFC 6265 §5.2.3). One of a path behind the prefix is one of what visitors ask there.
    fn cookie(&self, value: &[u8]) -> Option<Vec<u8>> {
        let mut parts = value.split(|&octet| octet == b';');
        let mut new = parts.next()?.to_vec();
        let mut changed = false;
        for part in parts {
            let became = match attribute(part) {
                Some((name, domain)) if same(name, b"domain") && self.is_own(domain) => None,
                Some((name, path)) if same(name, b"path") => {
                    let before = &part[..part.len() - after_equals(part).len()];
                    let path = self.path(path).map(|path| [before, &path].concat());
                    Some(path.map_or(Cow::Borrowed(part), Cow::Owned))
                }
                _ => Some(Cow::Borrowed(part)),
            };
            changed |= !matches!(became, Some(Cow::Borrowed(_)));
            if let Some(became) = became {
                new.push(b';');
                new.extend_from_slice(&became);
            }
        }
        changed.then_some(new)
    }

    /// Whether a cookie's `Domain` is the local name.
    fn is_own(&self, domain: &[u8]) -> bool {
        let domain = domain.strip_prefix(b".").unwrap_or(domain);
        let host = without_port(&self.local);
        !self.kept && (same(domain, b"localhost") || same(domain, host))
    }
}

/// Name and value of a cookie's attribute that has both.
fn attribute(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = part.iter().position(|&octet| octet == b'=')?;
    let name = trim_whitespace(&part[..equals]);
    Some((name, trim_whitespace(after_equals(part))))
}

fn after_equals(part: &[u8]) -> &[u8] {
    let equals = part.iter().position(|&octet| octet == b'=');
    equals.map_or(&[], |equals| &part[equals + 1..])
}

/// An absolute URL of HTTP, or one without a scheme (RFC 3986 §4.2).
struct Url<'a> {
    scheme: Option<&'static str>,
    authority: &'a [u8],
    /// Path, query and fragment.
    rest: &'a [u8],
}

fn split(value: &[u8]) -> Option<Url<'_>> {
    let after = |start: &str| {
        let (first, rest) = value.split_at_checked(start.len())?;
        same(first, start.as_bytes()).then_some(rest)
    };
    let (scheme, rest) = match (after("http://"), after("https://"), after("//")) {
        (Some(rest), _, _) => (Some("http"), rest),
        (_, Some(rest), _) => (Some("https"), rest),
        (_, _, Some(rest)) => (None, rest),
        _ => return None,
    };
    let ends = |octet: &u8| matches!(octet, b'/' | b'?' | b'#' | b'\\');
    let end = rest.iter().position(ends).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    Some(Url {
        scheme,
        authority,
        rest,
    })
}

/// Where the URL begins in `Refresh: 5; url='…'` (HTML, "shared declarative refresh steps").
fn refresh_url(value: &[u8]) -> Option<usize> {
    let skip = |at: usize, of: &dyn Fn(u8) -> bool| {
        let more = value[at..].iter().take_while(|&&octet| of(octet)).count();
        at + more
    };
    let blank = |octet: u8| octet == b' ' || octet == b'\t';
    let at = skip(0, &|octet| {
        octet.is_ascii_digit() || octet == b'.' || blank(octet)
    });
    if at == 0 || !matches!(value.get(at), Some(b';' | b',')) {
        return None;
    }
    let mut at = skip(at + 1, &blank);
    let word = value.get(at..at + 3).is_some_and(|word| same(word, b"url"));
    let equals = skip(at + 3 * usize::from(word), &blank);
    if word && value.get(equals) == Some(&b'=') {
        at = skip(equals + 1, &blank);
    }
    let quoted = matches!(value.get(at), Some(b'"' | b'\''));
    Some(at + usize::from(quoted))
}

fn without_port(authority: &[u8]) -> &[u8] {
    let colon = authority.iter().rposition(|&octet| octet == b':');
    let bracket = authority.iter().rposition(|&octet| octet == b']');
    match colon {
        Some(colon) if bracket.is_none_or(|bracket| bracket < colon) => &authority[..colon],
        _ => authority,
    }
}

/// Whether a body's type is one of those that a page of anybody may send without being asked
/// (Fetch, "CORS-safelisted request-header").
fn is_form(content_type: &[u8]) -> bool {
    let forms: [&[u8]; 3] = [
        b"application/x-www-form-urlencoded",
        b"multipart/form-data",
        b"text/plain",
    ];
    forms
        .iter()
        .any(|form| same(form, media_type(content_type)))
}

fn same(one: &[u8], other: &[u8]) -> bool {
    one.eq_ignore_ascii_case(other)
}
