//! The JSON payloads of session frames (PROTOCOL §2, §3, §6, §7, §9).
//!
//! A receiver ignores keys it does not know, and `null` or an absent optional key is the default.
//! Tokens, nonces and session ids are capabilities: their types do not show them.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::code::Code;
use super::frame::FrameType;
use super::json::{null_is_default, null_is_said, read_object};
use crate::limits;

pub use super::capabilities::Capabilities;
pub use super::json::ControlError;
pub use super::values::{BindErrCode, BindMode, BindingKind, JoinErrCode, Secret, SessionId};

/// A JSON payload of a session frame.
pub trait ControlPayload: Serialize + DeserializeOwned {
    /// The frame that carries it.
    const KIND: FrameType;
}

/// Reads a payload: one object, nothing behind it.
pub fn parse<T: ControlPayload>(payload: &[u8]) -> Result<T, ControlError> {
    read_object(T::KIND.name(), payload)
}

/// Appends a payload to `out`.
pub fn write<T: ControlPayload>(payload: &T, out: &mut Vec<u8>) {
    // These types have string keys and no values that JSON cannot say, and a Vec takes any bytes.
    let written = serde_json::to_writer(out, payload);
    debug_assert!(written.is_ok(), "a control payload is always JSON");
}

/// A payload type: camelCase keys, `null` and absent alike for every field with a default.
macro_rules! payload {
    ($name:ident = $kind:ident) => {
        impl ControlPayload for $name {
            const KIND: FrameType = FrameType::$kind;
        }
    };
}

/// HELLO (PROTOCOL §2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Must be the negotiated subprotocol.
    pub version: String,
    /// Proof of the token, unless the upgrade request carried it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// What the client can do.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// Asks for a parked session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Lanes asked for; absent is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Bytes this side will retain (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_buffer: Option<u64>,
    /// On every lane something leaves at least this often (**ours**, PROTOCOL §6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping_every_ms: Option<u64>,
}

/// Proof of the token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    /// `bearer`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub kind: String,
    /// The token.
    #[serde(default, deserialize_with = "null_is_default")]
    pub token: Secret,
}

/// Asks for a session that is there already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resume {
    /// Which one.
    pub session_id: SessionId,
    /// The epoch of its counts (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Grows with each HELLO of a client (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// Reliable frames taken on index 0 (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// The sockets that the client still holds, but for index 0 (PROTOCOL §9).
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub lanes: Vec<MissingLane>,
    /// No other session will do (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<bool>,
}

/// HELLO_OK (PROTOCOL §2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloOk {
    /// The session.
    pub session_id: SessionId,
    /// Whether it is the one that was asked for.
    #[serde(default, deserialize_with = "null_is_default")]
    pub resumed: bool,
    /// The bindings that it still has.
    #[serde(default, deserialize_with = "null_is_default")]
    pub resumed_binds: Vec<ResumedBind>,
    /// Credit that every stream starts with, both ways.
    #[serde(default = "default_stream_window")]
    pub stream_window: u32,
    /// Credit that the session starts with, both ways.
    #[serde(default = "default_session_window")]
    pub session_window: u32,
    /// Lanes granted, the primary counted; absent is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_granted: Option<u32>,
    /// One for each index but the primary's.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub join_tickets: Vec<JoinTicket>,
    /// What was granted of the client's capabilities (**ours**).
    #[serde(default, skip_serializing_if = "Capabilities::is_empty")]
    pub capabilities: Capabilities,
    /// Streams that the session may have open (**ours**).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_streams: Option<u32>,
    /// Bytes this side will retain (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_buffer: Option<u64>,
    /// The epoch of the counts that go on or begin with this (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Reliable frames taken on index 0: only of a session that is resumed with all its streams
    /// (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// The indexes whose sockets the kit keeps, of those that the client named (PROTOCOL §9).
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub lanes: Vec<u32>,
    /// Names the kit's process (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

fn default_stream_window() -> u32 {
    limits::DEFAULT_STREAM_WINDOW
}

fn default_session_window() -> u32 {
    limits::DEFAULT_SESSION_WINDOW
}

impl Default for HelloOk {
    fn default() -> Self {
        HelloOk {
            session_id: SessionId::default(),
            resumed: false,
            resumed_binds: Vec::new(),
            stream_window: limits::DEFAULT_STREAM_WINDOW,
            session_window: limits::DEFAULT_SESSION_WINDOW,
            connections_granted: None,
            join_tickets: Vec::new(),
            capabilities: Capabilities::NONE,
            max_streams: None,
            replay_buffer: None,
            epoch: None,
            received: None,
            lanes: Vec::new(),
            instance: None,
        }
    }
}

/// A binding that a resumed session still has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResumedBind {
    /// Its id, the same as before.
    pub bind_id: u64,
    /// What it carries.
    pub kind: BindingKind,
    /// Which way it goes.
    pub mode: BindMode,
    /// Its port, the same as before.
    pub container_port: u16,
    /// Where the world reaches it, as in BIND_OK (**ours**); an older kit does not say whether
    /// there is such a place at all.
    #[serde(
        default,
        deserialize_with = "null_is_said",
        skip_serializing_if = "Option::is_none"
    )]
    pub public_url: Option<Option<String>>,
    /// The client's name for it, as it asked for it (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_bind_ref: Option<u64>,
}

/// The right to join one socket, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinTicket {
    /// The socket's index, from 1.
    pub index: u32,
    /// The ticket itself.
    pub nonce: Secret,
    /// Milliseconds it is good for.
    #[serde(default, deserialize_with = "null_is_default")]
    pub expires_ms: u64,
}

/// BIND (PROTOCOL §3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bind {
    /// The client's name for the answer.
    pub client_bind_ref: u64,
    /// What it carries.
    pub kind: BindingKind,
    /// Which way it goes.
    pub mode: BindMode,
    /// The port; 0 lets the kit pick.
    #[serde(default, deserialize_with = "null_is_default")]
    pub container_port: u16,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Whether to take the port from another session.
    #[serde(default, deserialize_with = "null_is_default")]
    pub takeover: bool,
    /// Where PULL listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A session of the client's that is lost to it: if it holds the port parked, it gives it up
    /// (**ours**).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<SessionId>,
}

/// BIND_OK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindOk {
    /// The client's name for it.
    pub client_bind_ref: u64,
    /// The kit's name for it.
    pub bind_id: u64,
    /// The port it got.
    pub container_port: u16,
    /// Where the world reaches it; written as `null` when unknown.
    #[serde(default)]
    pub public_url: Option<String>,
}

/// BIND_ERR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindErr {
    /// The client's name for it.
    pub client_bind_ref: u64,
    /// Why.
    pub code: BindErrCode,
    /// Why, for people.
    #[serde(default, deserialize_with = "null_is_default")]
    pub message: String,
}

/// UNBIND.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unbind {
    /// Which one.
    pub bind_id: u64,
}

/// UNBIND_OK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnbindOk {
    /// Which one.
    pub bind_id: u64,
}

/// UNBIND_ERR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnbindErr {
    /// Which one.
    pub bind_id: u64,
    /// Why.
    pub code: BindErrCode,
    /// Why, for people.
    #[serde(default, deserialize_with = "null_is_default")]
    pub message: String,
}

/// BIND_REVOKED.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindRevoked {
    /// Which one.
    pub bind_id: u64,
    /// Why, for people.
    #[serde(default, deserialize_with = "null_is_default")]
    pub reason: String,
}

/// JOIN (PROTOCOL §7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    /// The session to join.
    pub session_id: SessionId,
    /// The socket's index, from 1.
    pub index: u32,
    /// The ticket.
    pub nonce: Secret,
    /// Reliable frames taken on this index: without it the index begins anew (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// Bytes of DATA that the client received on this index so far (**ours**).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_received: Option<u64>,
    /// The sum of WINDOW(0) that the client took on this index (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credit_received: Option<u64>,
}

/// JOIN_OK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinOk {
    /// The socket's index.
    pub index: u32,
    /// Reliable frames taken on this index: without it the index begins anew (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// Bytes of DATA that the kit received on this index so far (**ours**).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_received: Option<u64>,
    /// The sum of WINDOW(0) that the kit took on this index (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credit_received: Option<u64>,
    /// Which process answers, where several ways may lead to several (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// JOIN_ERR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinErr {
    /// Why.
    pub code: JoinErrCode,
    /// Why, for people.
    #[serde(default, deserialize_with = "null_is_default")]
    pub message: String,
    /// Which process answers, where several ways may lead to several (PROTOCOL §9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// SHARD_MAP: informative.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardMap {
    /// One for each socket.
    #[serde(default, deserialize_with = "null_is_default")]
    pub connections: Vec<Shard>,
}

/// One socket of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// The socket's index.
    pub index: u32,
    /// `open`, or what else the kit says.
    #[serde(default, deserialize_with = "null_is_default")]
    pub state: String,
}

/// REISSUE_JOIN_TICKETS from a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReissueRequest {
    /// The sockets that the client has given up (**ours**): the kit may still believe in one that
    /// died in silence.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub missing: Vec<MissingLane>,
}

/// A socket that a client has given up, or that it still holds. The ticket says which: by the time
/// the kit reads this, another one may have joined in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingLane {
    /// Its index, from 1.
    pub index: u32,
    /// The ticket that it joined with, or tried to.
    pub nonce: Secret,
}

/// REISSUE_JOIN_TICKETS from the kit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReissueAnswer {
    /// One for each index that is missing.
    #[serde(default, deserialize_with = "null_is_default")]
    pub join_tickets: Vec<JoinTicket>,
}

/// GOAWAY (PROTOCOL §6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoAway {
    /// The code's number, also when we do not know it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub code: u16,
    /// Why, for people.
    #[serde(default, deserialize_with = "null_is_default")]
    pub message: String,
    /// The last stream that was served.
    #[serde(default, deserialize_with = "null_is_default")]
    pub last_stream_id: u32,
    /// Milliseconds that streams get to finish.
    #[serde(default, deserialize_with = "null_is_default")]
    pub grace_ms: u32,
    /// Whether the client is not wanted back (ours). Older kits do not say.
    #[serde(rename = "final", default, skip_serializing_if = "Option::is_none")]
    pub is_final: Option<bool>,
}

impl GoAway {
    /// A GOAWAY of ours.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        GoAway {
            code: code.as_u16(),
            message: message.into(),
            ..GoAway::default()
        }
    }

    /// Says that the client is not wanted back.
    pub fn for_good(self) -> Self {
        GoAway {
            is_final: Some(true),
            ..self
        }
    }

    /// Says that the client may dial again at once.
    pub fn for_now(self) -> Self {
        GoAway {
            is_final: Some(false),
            ..self
        }
    }

    /// The code, by [`Code::from_peer`].
    pub fn code(&self) -> Code {
        Code::from_peer(self.code)
    }
}

payload!(Hello = Hello);
payload!(HelloOk = HelloOk);
payload!(Bind = Bind);
payload!(BindOk = BindOk);
payload!(BindErr = BindErr);
payload!(Unbind = Unbind);
payload!(UnbindOk = UnbindOk);
payload!(UnbindErr = UnbindErr);
payload!(BindRevoked = BindRevoked);
payload!(Join = Join);
payload!(JoinOk = JoinOk);
payload!(JoinErr = JoinErr);
payload!(ShardMap = ShardMap);
payload!(ReissueRequest = ReissueJoinTickets);
payload!(ReissueAnswer = ReissueJoinTickets);
payload!(GoAway = GoAway);

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "s3cr3t-t0k3n-of-the-kit";

    #[test]
    fn a_secret_is_in_no_debug_output() {
        let json = format!(
            r#"{{"version":"v","auth":{{"kind":"bearer","token":"{TOKEN}"}},
                "resume":{{"sessionId":"S-466ab70d-92e8-49b5-95a9-8c0d585dc2b9"}}}}"#
        );
        let hello: Hello = parse(json.as_bytes()).expect("a good HELLO");
        assert_eq!(
            hello.auth.as_ref().map(|auth| auth.token.expose()),
            Some(TOKEN)
        );
        let shown = format!("{hello:?}");
        assert!(!shown.contains(TOKEN), "{shown}");
        assert!(!shown.contains("92e8"), "{shown}");
        assert!(
            shown.contains("S-466a"),
            "enough of the id is shown to find it: {shown}"
        );
    }

    #[test]
    fn a_secret_is_in_no_error() {
        let malformed = [
            r#"{"version":"v","auth":"TOKEN"}"#,
            r#"{"version":"v","auth":{"kind":1,"token":"TOKEN"}}"#,
            r#"{"version":"v","maxConnections":"TOKEN"}"#,
            r#"{"version":"v","auth":{"token":"TOKEN"}"#,
            r#"{"auth":{"token":"TOKEN"}}"#,
            r#"{"version":"v","auth":{"token":"TOKEN","token":"TOKEN"}}"#,
            r#"{"version":"v"}TOKEN"#,
            r#""TOKEN""#,
        ];
        for json in malformed {
            let error = parse::<Hello>(json.replace("TOKEN", TOKEN).as_bytes()).expect_err(json);
            assert!(!error.to_string().contains("s3cr3t"), "{error}");
            assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
        }
    }

    #[test]
    fn an_error_names_the_payload_and_the_place() {
        let error = |json: &str| parse::<Bind>(json.as_bytes()).expect_err(json).to_string();
        assert_eq!(error("[]"), "malformed BIND: not a JSON object");
        assert_eq!(error("{}"), "malformed BIND: missing field `clientBindRef`");
        assert_eq!(
            error(r#"{"a":1"#),
            "malformed BIND: not one JSON object, see 1:6"
        );
        assert_eq!(
            error(r#"{"clientBindRef":"x"}"#),
            "malformed BIND: a value of the wrong type or out of range before 1:20"
        );
    }

    #[test]
    fn secrets_are_equal_only_when_every_octet_is() {
        let secret = Secret::new(TOKEN);
        assert!(secret.matches(TOKEN));
        assert!(!secret.matches(""));
        assert!(!secret.matches(&TOKEN[1..]));
        assert!(!secret.matches(&TOKEN.replace("kit", "kiT")));
        assert!(Secret::default().matches(""));
        // One difference must not make good for another.
        assert!(!Secret::new("aa").matches("bb"));
        assert_eq!(Secret::new("a"), Secret::new("a"));
        assert_ne!(Secret::new("a"), Secret::new("b"));
        assert_eq!(format!("{:?}", Secret::new(TOKEN)), "(secret)");
    }

    #[test]
    fn a_kit_that_knows_no_public_url_is_told_from_one_that_does_not_say() {
        let url = |more: &str| {
            let json =
                format!(r#"{{"bindId":1,"kind":"http","mode":"expose","containerPort":1{more}}}"#);
            let bind: ResumedBind = serde_json::from_str(&json).expect("a good binding");
            bind.public_url
        };
        assert_eq!(url(""), None);
        assert_eq!(url(r#","publicUrl":null"#), Some(None));
        assert_eq!(url(r#","publicUrl":"u""#), Some(Some("u".into())));
    }

    #[test]
    fn a_session_id_of_a_hostile_peer_shows_nothing_but_plain_characters() {
        assert_eq!(SessionId::new("S-\x1b[31mred").to_string(), "S-…");
        assert_eq!(SessionId::new("").to_string(), "…");
        assert_eq!(SessionId::new("S-\x1b").as_str(), "S-\x1b");
    }
}
