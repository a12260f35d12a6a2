//! Which requests and responses switch to WebSocket. Nothing else switches (PROTOCOL §4): an
//! `Upgrade: h2c` that passed would carry requests no rule of ours has seen.

use super::connection::ConnectionOptions;
use super::fields::Fields;
use super::head::{RequestBody, Version};

/// Whether a request asks for WebSocket in a way that we pass on as an upgrade.
///
/// A request with a body is none: two meanings of the octets after its head would compete.
pub(super) fn asks_for_websocket(
    method: &str,
    version: Version,
    body: RequestBody,
    options: &ConnectionOptions<'_>,
    fields: &Fields<'_>,
) -> bool {
    options.upgrade
        && method == "GET"
        && version == Version::Http11
        && matches!(body, RequestBody::None | RequestBody::Length(0))
        && upgrades_to_websocket(fields)
}

/// Whether there is exactly one `Upgrade`, and it says `websocket` and nothing else.
pub(super) fn upgrades_to_websocket(fields: &Fields<'_>) -> bool {
    let mut values = fields.all("upgrade");
    let first = values
        .next()
        .is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    first && values.next().is_none()
}
