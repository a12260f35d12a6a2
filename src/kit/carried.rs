//! What the wire can carry of what may be configured.
//!
//! HELLO_OK lists all bindings of a resumed session in one frame (PROTOCOL §2). A kit that could
//! not say it would find out when a laptop comes back, so it is found out at the start.

use crate::kit::config::{Config, ConfigError};
use crate::limits::{MAX_BINDINGS, MAX_FRAME_PAYLOAD};
use crate::wire::control::{
    self, Capabilities, HelloOk, JoinTicket, ResumedBind, Secret, SessionId,
};
use crate::wire::service::Service;

impl Config {
    /// Bindings of a session that one HELLO_OK can list, whatever their ids and ports.
    pub(super) fn bindings_carried(&self) -> usize {
        let frame = size(&self.longest_answer(0));
        // And the comma between it and the next one.
        let each = size(&self.longest_answer(1)) - frame + 1;
        MAX_FRAME_PAYLOAD.saturating_sub(frame) / each
    }

    pub(super) fn check_carried(&self) -> Result<(), ConfigError> {
        let carried = self.bindings_carried();
        if self.max_bindings_per_session <= carried.min(MAX_BINDINGS) {
            return Ok(());
        }
        let pattern = match carried {
            0 => "--public-url-pattern or --public-tcp-pattern is too long for",
            _ if self.public_url.is_some() || self.public_tcp.is_some() => {
                "with its --public-url-pattern and --public-tcp-pattern no more fit"
            }
            _ => "no more fit",
        };
        Err(ConfigError::new(format!(
            "--max-bindings-per-session must be between 1 and {}, not {}: {pattern} the frame that \
             tells a laptop what it still has",
            carried.clamp(1, MAX_BINDINGS),
            self.max_bindings_per_session,
        )))
    }

    /// The longest HELLO_OK that lists so many bindings. All its fields are named here, so that a
    /// new one is counted too.
    fn longest_answer(&self, bindings: usize) -> HelloOk {
        let binding = Service::ALL.map(|service| ResumedBind {
            bind_id: u64::MAX,
            kind: service.kind(),
            mode: service.mode(),
            container_port: u16::MAX,
            public_url: Some(self.public_url_of(service, u16::MAX)),
            client_bind_ref: Some(u64::MAX),
        });
        let binding = binding.into_iter().max_by_key(json_size);
        let ticket = JoinTicket {
            index: u32::MAX,
            nonce: Secret::new("f".repeat(32)),
            expires_ms: u64::MAX,
        };
        HelloOk {
            session_id: SessionId::new("S-466ab70d-92e8-49b5-95a9-8c0d585dc2b9"),
            resumed: false,
            resumed_binds: binding.into_iter().cycle().take(bindings).collect(),
            stream_window: u32::MAX,
            session_window: u32::MAX,
            connections_granted: Some(u32::MAX),
            join_tickets: vec![ticket; self.max_connections_per_session],
            capabilities: Capabilities::ALL,
            max_streams: Some(u32::MAX),
            replay_buffer: Some(u64::MAX),
            epoch: Some(u64::MAX),
            received: Some(u64::MAX),
            lanes: vec![u32::MAX; self.max_connections_per_session],
            instance: Some("f".repeat(16)),
        }
    }
}

fn json_size(binding: &ResumedBind) -> usize {
    serde_json::to_vec(binding).map_or(0, |json| json.len())
}

fn size(answer: &HelloOk) -> usize {
    let mut json = Vec::new();
    control::write(answer, &mut json);
    json.len()
}

#[cfg(test)]
#[path = "carried_tests.rs"]
mod tests;
