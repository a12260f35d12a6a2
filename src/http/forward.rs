//! What of a head passes to the other side (PROTOCOL §4, §11).
//!
//! Filters, not lists: they borrow from the head and yield field by field, and whoever calls writes
//! JSON or HTTP text from them without a list in between. Names come out as they were written.

use std::net::IpAddr;

use super::connection::ConnectionOptions;
use super::fields::Field;
use super::head::{RequestHead, ResponseHead, Version};
use super::trail::is_forwarding;
use crate::digits::{push_ip, push_number};

/// What we tell the upstream about where a request came from.
///
/// From a trusted proxy, `X-Forwarded-For` is appended to what is there, and `X-Forwarded-Proto`
/// and `-Host` are set only when absent: it ended TLS and knows both better than we do. From
/// anybody else all that proxies say is dropped, and the three are set from what we see.
#[derive(Debug, Clone)]
pub struct Forwarded<'a> {
    by_proxy: bool,
    /// The earlier hops and the peer.
    chain: Vec<u8>,
    proto: Option<&'static [u8]>,
    host: Option<&'a [u8]>,
    /// `Max-Forwards` of the next hop.
    hops: Option<Vec<u8>>,
    via: Option<&'static [u8]>,
}

impl<'a> Forwarded<'a> {
    /// From a request, the address and scheme (`http` or `https`) it came by, and whether that is
    /// a trusted proxy's.
    pub fn new(head: &RequestHead<'a>, peer: IpAddr, by_proxy: bool, scheme: &'static str) -> Self {
        let is_said = |name| by_proxy && head.fields.get(name).is_some();
        let mut chain = Vec::with_capacity(LONGEST_ADDRESS);
        for earlier in head
            .fields
            .all("x-forwarded-for")
            .filter(|value| by_proxy && !value.is_empty())
        {
            chain.extend_from_slice(earlier);
            chain.extend_from_slice(b", ");
        }
        // A visitor over a dual-stack socket is still an IPv4 visitor.
        push_ip(&mut chain, peer.to_canonical());
        Self {
            by_proxy,
            chain,
            proto: (!is_said("x-forwarded-proto")).then_some(scheme.as_bytes()),
            host: head.host.filter(|_| !is_said("x-forwarded-host")),
            hops: head.max_forwards().ok().flatten().map(|hops| {
                let mut text = Vec::new();
                push_number(&mut text, hops.saturating_sub(1));
                text
            }),
            via: None,
        }
    }

    /// Says that the request came through us too, and in which version.
    pub fn with_via(self, version: Version) -> Self {
        let via: &[u8] = match version {
            Version::Http10 => b"1.0 hoody-tunnel",
            Version::Http11 => VIA,
        };
        let via = Some(via);
        Self { via, ..self }
    }
}

/// The fields of a visitor's request that go on to the client, in order, and those we add.
///
/// `Host` comes first and is the host that was asked (of the absolute-form target, if it was one).
/// `Content-Length` stays. On an upgrade `Connection: Upgrade` and `Upgrade: websocket` follow,
/// written by us, so that nothing else that `Connection` said passes along. Names with `_` stay
/// behind: many servers read `X_Real_IP` as if it were `X-Real-IP`. Where trailers travel
/// ([`RequestHead::pass_trailers`]), `TE: trailers` does, for the client to say it again.
pub fn request_fields<'a>(
    head: &'a RequestHead<'a>,
    forwarded: &'a Forwarded<'a>,
) -> impl Iterator<Item = Field<'a>> + Clone {
    let host = head.host.map(|host| (b"host".as_slice(), host));
    let passing = head.fields.iter().filter(|(name, _)| {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let counts = forwarded.hops.is_some() && is("max-forwards");
        let is_replaced = is("host") || is("x-forwarded-for") || counts;
        // An HTTP/1.0 visitor would never see the 100 (RFC 9110 §10.1.1).
        let is_vain = head.version == Version::Http10 && is("expect");
        // Forwarding facts stay even if Connection names them, or anyone could erase the trail.
        let is_kept = is("x-forwarded-proto") || is("x-forwarded-host");
        let is_invented = !forwarded.by_proxy && is_forwarding(name) || name.contains(&b'_');
        !is_replaced && !is_vain && !is_invented && (is_kept || !head.options.removes(name))
    });
    let added = [
        Some((b"x-forwarded-for".as_slice(), forwarded.chain.as_slice())),
        forwarded
            .proto
            .map(|proto| (b"x-forwarded-proto".as_slice(), proto)),
        forwarded
            .host
            .map(|host| (b"x-forwarded-host".as_slice(), host)),
        forwarded
            .hops
            .as_ref()
            .map(|hops| (b"max-forwards".as_slice(), hops.as_slice())),
        forwarded.via.map(|via| (b"via".as_slice(), via)),
    ];
    host.into_iter()
        .chain(passing)
        .chain(added.into_iter().flatten())
        .chain(takes_trailers(head.asks_for_trailers))
        .chain(upgrade_fields(head.upgrade))
}

/// The fields of an upstream's response that go on to the kit, in order. `switches` is whether this
/// is the 101 that accepts an upgrade ([`ResponseHead::accepts_upgrade`]).
pub fn response_fields<'a>(
    head: &'a ResponseHead<'a>,
    switches: bool,
) -> impl Iterator<Item = Field<'a>> + Clone {
    let is_length = |name: &[u8]| name.eq_ignore_ascii_case(b"content-length");
    let mut length = head.length();
    end_to_end(head.fields.iter(), &head.options)
        .filter_map(move |(name, value)| match is_length(name) {
            true => length.take().map(|length| (name, length)),
            false => Some((name, value)),
        })
        .chain(upgrade_fields(switches))
}

/// `fields` without those that end at this hop.
pub(super) fn end_to_end<'a>(
    fields: impl Iterator<Item = Field<'a>> + Clone,
    options: &ConnectionOptions<'a>,
) -> impl Iterator<Item = Field<'a>> + Clone {
    fields.filter(move |(name, _)| !options.removes(name))
}

/// The field that says that trailers are taken, or none.
fn takes_trailers<'a>(taken: bool) -> impl Iterator<Item = Field<'a>> + Clone {
    let field: Field<'a> = (b"te", b"trailers");
    taken.then_some(field).into_iter()
}

/// The two fields that make an upgrade, or none.
pub(super) fn upgrade_fields<'a>(upgrade: bool) -> impl Iterator<Item = Field<'a>> + Clone {
    let fields: [Field<'a>; 2] = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")];
    fields.into_iter().filter(move |_| upgrade)
}

/// How a gateway names itself to both sides; not by its host, which may be nobody's business.
pub(super) const VIA: &[u8] = b"1.1 hoody-tunnel";
/// Octets of an address as text, at most.
const LONGEST_ADDRESS: usize = 45;
