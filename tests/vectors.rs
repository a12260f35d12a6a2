//! The test vectors in `tests/vectors`, run against the wire room; see the README there.

use std::net::SocketAddr;

use hoody_tunnel::http::trailers;
use hoody_tunnel::http::write::{CRLF, LAST_CHUNK};
use hoody_tunnel::wire::control::{self, ControlError, ControlPayload};
use hoody_tunnel::wire::frame::{Frame, FrameType, HEADER_LEN, PayloadFault, encode_header};
use hoody_tunnel::wire::message::{DecodeError, FrameDecoder};
use hoody_tunnel::wire::open::{
    self, BodyKind, Header, OpenForward, OpenHttpParts, ResponseHead, StreamOpen,
};
use hoody_tunnel::wire::parts::HeadParts;
use serde_json::{Value, json};

#[test]
fn messages_read_as_their_vectors_say() {
    for case in cases("messages.json") {
        let name = text(&case["name"]);
        let message = bytes(&case);
        match FrameDecoder::new(&message) {
            Ok(decoder) => {
                let frames = case["frames"]
                    .as_array()
                    .unwrap_or_else(|| panic!("{name}: taken"));
                let decoded: Vec<Frame<'_>> = decoder.collect();
                assert_eq!(decoded.len(), frames.len(), "{name}");
                for (frame, expected) in decoded.iter().zip(frames) {
                    assert_frame(name, frame, expected);
                }
                if case["canonical"] == true {
                    assert_eq!(rewrite(&decoded), message, "{name}");
                }
            }
            Err(error) => {
                assert_eq!(case["error"], error_name(error), "{name}: {error}");
                assert_eq!(case["code"], error.code().name(), "{name}");
            }
        }
    }
}

#[test]
fn control_payloads_read_as_their_vectors_say() {
    for case in cases("controls.json") {
        let name = text(&case["name"]);
        match reread(text(&case["type"]), text(&case["payload"]).as_bytes()) {
            Ok(decoded) => assert_eq!(decoded, case["decoded"], "{name}"),
            Err(error) => assert_eq!(case["error"], true, "{name}: {error}"),
        }
    }
}

#[test]
fn stream_opens_read_as_their_vectors_say() {
    for case in cases("stream_open.json") {
        let name = text(&case["name"]);
        let payload = bytes(&case);
        match StreamOpen::parse(&payload) {
            Ok(open) => {
                assert_eq!(open_json(&open), case["decoded"], "{name}");
                if case["canonical"] == true {
                    assert_same_text(name, &write_open(&open), &payload);
                }
            }
            Err(error) => assert_eq!(case["error"], true, "{name}: {error}"),
        }
    }
}

#[test]
fn response_heads_read_as_their_vectors_say() {
    for case in cases("response_head.json") {
        let name = text(&case["name"]);
        let payload = bytes(&case);
        match ResponseHead::parse(&payload) {
            Ok(head) => {
                let decoded = json!({
                    "status": head.status,
                    "headersHex": headers_json(&head.headers),
                    "final": head.is_final,
                });
                assert_eq!(decoded, case["decoded"], "{name}");
                if case["canonical"] == true {
                    let mut out = Vec::new();
                    open::write_response_head(
                        &mut out,
                        head.status,
                        fields(&head.headers),
                        head.is_final,
                        open::NameCase::Lower,
                    )
                    .expect("a vector fits a frame");
                    assert_same_text(name, &out, &payload);
                }
            }
            Err(error) => assert_eq!(case["error"], true, "{name}: {error}"),
        }
    }
}

#[test]
fn what_the_kit_connected_to_reads_as_its_vectors_say() {
    for case in cases("stream_connected.json") {
        let (name, payload) = (text(&case["name"]), text(&case["payload"]).as_bytes());
        match open::parse_connected(payload) {
            Ok(peer) => {
                assert_eq!(case["peer"], *peer, "{name}");
                if case["canonical"] == true {
                    let mut out = Vec::new();
                    open::write_connected(&mut out, &peer);
                    assert_same_text(name, &out, payload);
                }
            }
            Err(error) => assert_eq!(case["error"], true, "{name}: {error}"),
        }
    }
}

#[test]
fn trailers_of_a_peer_are_written_as_their_vectors_say() {
    let octets = |text: &str| -> Vec<u8> { text.chars().map(|it| it as u8).collect() };
    for case in cases("http/trailers.json") {
        if case["rule"] != "write" {
            continue;
        }
        let (name, mut out) = (text(&case["name"]), Vec::new());
        let read = open::parse_trailers(text(&case["payload"]).as_bytes());
        let written = read
            .ok()
            .and_then(|read| trailers::write(&mut out, fields(&read)).ok());
        let Some(any) = written else {
            assert!(out.is_empty() && case["error"] == true, "{name}");
            continue;
        };
        out.extend_from_slice(if any { CRLF } else { LAST_CHUNK });
        assert_same_text(name, &out, &octets(text(&case["text"])));
    }
}

#[test]
fn parts_of_heads_are_joined_as_their_vectors_say() {
    for case in cases("head_parts.json") {
        let (name, mut parts) = (text(&case["name"]), HeadParts::default());
        let payloads = case["parts"].as_array().expect("a list");
        let times = case["repeat"].as_u64().unwrap_or(1) as usize;
        let mut fit = true;
        for payload in payloads.iter().cycle().take(payloads.len() * times) {
            let mut payload = text(payload).to_owned();
            if let Some(count) = case["elements"].as_u64() {
                let elements = vec![r#"["a","b"]"#; count as usize].join(",");
                payload = payload.replace(r#"["a","b"]"#, &elements);
            }
            fit &= parts.add(payload.as_bytes());
        }
        assert_eq!(!fit, case["tooMuch"] == true, "{name}");
        if !fit {
            continue;
        }
        let octets = |it: &Value| -> Vec<u8> { text(it).chars().map(|it| it as u8).collect() };
        let header = |field: &Value| Header {
            name: octets(&field[0]).into(),
            value: octets(&field[1]).into(),
        };
        let list = |of: &Value| -> Vec<Header<'static>> {
            of.as_array()
                .map_or_else(Vec::new, |all| all.iter().map(header).collect())
        };
        match parts.before(list(&case["rest"])) {
            Ok(all) => match case["count"].as_u64() {
                Some(count) => assert_eq!(all.len() as u64, count, "{name}"),
                None => assert_eq!(all, list(&case["headers"]), "{name}"),
            },
            Err(error) => assert_eq!(case["error"], true, "{name}: {error}"),
        }
    }
}

fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let cases: Vec<Value> = serde_json::from_str(&text).expect("a file of vectors is JSON");
    assert!(!cases.is_empty(), "{file} has cases");
    cases
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is a string"))
}

/// The octets of a case: `hex`, `parts`, `payload` or `payloadHex`.
fn bytes(case: &Value) -> Vec<u8> {
    if let Some(payload) = case["payload"].as_str() {
        return payload.as_bytes().to_vec();
    }
    if let Some(hex) = case["hex"].as_str().or(case["payloadHex"].as_str()) {
        return unhex(hex);
    }
    let parts = case["parts"].as_array().expect("a case has octets");
    let repeat = |part: &Value| part["repeat"].as_u64().expect("a part repeats") as usize;
    parts
        .iter()
        .flat_map(|part| unhex(text(&part["hex"])).repeat(repeat(part)))
        .collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |octet: &u8| char::from(*octet).to_digit(16).expect("hex") as u8;
    hex.as_bytes()
        .chunks(2)
        .map(|pair| digit(&pair[0]) << 4 | digit(&pair[1]))
        .collect()
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn assert_frame(name: &str, frame: &Frame<'_>, expected: &Value) {
    assert_eq!(expected["type"], frame.kind.name(), "{name}");
    assert_eq!(expected["streamId"], frame.stream_id, "{name}");
    match expected["payloadLength"].as_u64() {
        Some(len) => assert_eq!(frame.payload.len() as u64, len, "{name}"),
        None => assert_eq!(expected["payloadHex"], hex(frame.payload), "{name}"),
    }
    if expected.get("json").is_some() {
        let payload: Value = serde_json::from_slice(frame.payload).expect("a payload of JSON");
        assert_eq!(payload, expected["json"], "{name}");
    }
    let mut fault = None;
    match frame.kind {
        FrameType::Eof => fault = frame.eof().err(),
        FrameType::Reset => match frame.reset() {
            Ok(reset) => {
                let decoded = json!({
                    "number": reset.number,
                    "code": reset.code().name(),
                    "reason": reset.reason_text(),
                });
                assert_eq!(decoded, expected["reset"], "{name}");
            }
            Err(error) => fault = Some(error),
        },
        FrameType::Window => match frame.window_increment() {
            Ok(increment) => assert_eq!(expected["increment"], increment, "{name}"),
            Err(error) => fault = Some(error),
        },
        FrameType::Ack => {
            let count = frame
                .eight_bytes()
                .map(u64::from_be_bytes)
                .expect("eight bytes");
            assert_eq!(expected["ack"], count.to_string(), "{name}");
        }
        _ => {}
    }
    assert_eq!(expected["fault"].as_str(), fault.map(fault_name), "{name}");
    assert_eq!(
        expected["faultCode"].as_str(),
        fault.map(|f| f.code().name()),
        "{name}"
    );
}

fn rewrite(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for frame in frames {
        let mut header = [0; HEADER_LEN];
        encode_header(
            &mut header,
            frame.kind,
            frame.stream_id,
            frame.payload.len(),
        );
        body.extend_from_slice(&header);
        body.extend_from_slice(frame.payload);
    }
    body
}

fn error_name(error: DecodeError) -> &'static str {
    match error {
        DecodeError::Empty => "EMPTY",
        DecodeError::TooLarge { .. } => "TOO_LARGE",
        DecodeError::TooManyFrames => "TOO_MANY_FRAMES",
        DecodeError::HeaderCutShort { .. } => "HEADER_CUT_SHORT",
        DecodeError::PayloadTooLong { .. } => "PAYLOAD_TOO_LONG",
        DecodeError::PayloadCutShort { .. } => "PAYLOAD_CUT_SHORT",
        DecodeError::UnknownType { .. } => "UNKNOWN_TYPE",
        DecodeError::SessionFrameOnStream { .. } => "SESSION_FRAME_ON_STREAM",
        DecodeError::StreamFrameOnZero { .. } => "STREAM_FRAME_ON_ZERO",
        DecodeError::PayloadSize { .. } => "PAYLOAD_SIZE",
        DecodeError::ZeroSessionIncrement => "ZERO_SESSION_INCREMENT",
    }
}

fn fault_name(fault: PayloadFault) -> &'static str {
    match fault {
        PayloadFault::EofNotEmpty => "EOF_NOT_EMPTY",
        PayloadFault::ResetTooShort => "RESET_TOO_SHORT",
        PayloadFault::WindowSize => "WINDOW_SIZE",
        PayloadFault::ZeroIncrement => "ZERO_INCREMENT",
    }
}

/// Reads a payload, writes it, and gives what was written.
fn reread(kind: &str, payload: &[u8]) -> Result<Value, ControlError> {
    fn one<T: ControlPayload>(payload: &[u8]) -> Result<Value, ControlError> {
        let decoded: T = control::parse(payload)?;
        let mut out = Vec::new();
        control::write(&decoded, &mut out);
        Ok(serde_json::from_slice(&out).expect("what was written is JSON"))
    }
    match kind {
        "HELLO" => one::<control::Hello>(payload),
        "HELLO_OK" => one::<control::HelloOk>(payload),
        "BIND" => one::<control::Bind>(payload),
        "BIND_OK" => one::<control::BindOk>(payload),
        "BIND_ERR" => one::<control::BindErr>(payload),
        "UNBIND" => one::<control::Unbind>(payload),
        "UNBIND_OK" => one::<control::UnbindOk>(payload),
        "UNBIND_ERR" => one::<control::UnbindErr>(payload),
        "BIND_REVOKED" => one::<control::BindRevoked>(payload),
        "JOIN" => one::<control::Join>(payload),
        "JOIN_OK" => one::<control::JoinOk>(payload),
        "JOIN_ERR" => one::<control::JoinErr>(payload),
        "SHARD_MAP" => one::<control::ShardMap>(payload),
        "REISSUE_JOIN_TICKETS" => one::<control::ReissueAnswer>(payload),
        "GOAWAY" => one::<control::GoAway>(payload),
        _ => panic!("{kind} is a control frame"),
    }
}

fn headers_json(headers: &[Header<'_>]) -> Value {
    headers
        .iter()
        .map(|field| json!([hex(&field.name), hex(&field.value)]))
        .collect()
}

fn fields<'h>(headers: &'h [Header<'_>]) -> impl Iterator<Item = (&'h [u8], &'h [u8])> {
    headers.iter().map(|field| (&*field.name, &*field.value))
}

fn open_json(open: &StreamOpen<'_>) -> Value {
    let mut said = match open {
        StreamOpen::Http(http) => json!({
            "kind": "http",
            "bindId": http.bind_id,
            "containerPort": http.container_port,
            "method": http.method,
            "targetHex": hex(&http.target),
            "headersHex": headers_json(&http.headers),
            "isUpgrade": http.is_upgrade,
            "declaredBody": http.declared_body.map(BodyKind::name),
            "body": http.body().name(),
            "remoteAddr": http.remote_addr,
        }),
        StreamOpen::Tcp(tcp) => json!({
            "kind": "tcp",
            "bindId": tcp.bind_id,
            "containerPort": tcp.container_port,
            "remoteAddr": tcp.remote_addr,
        }),
        StreamOpen::Udp(udp) => json!({
            "kind": "udp",
            "bindId": udp.bind_id,
            "containerPort": udp.container_port,
            "remoteAddr": udp.remote_addr,
        }),
        StreamOpen::Forward(OpenForward::Port { host, port }) => {
            json!({ "kind": "forward", "host": host, "port": port })
        }
        StreamOpen::Forward(OpenForward::Unix(path)) => {
            json!({ "kind": "forward", "unix": path })
        }
    };
    if let StreamOpen::Http(http) = open
        && let Some(number) = http.connection_id
    {
        said["connectionId"] = number.into();
    }
    said
}

/// Writes an open that says everything.
fn write_open(open: &StreamOpen<'_>) -> Vec<u8> {
    let addr = |addr: &Option<std::borrow::Cow<'_, str>>| -> SocketAddr {
        addr.as_deref()
            .expect("an address")
            .parse()
            .expect("an address and a port")
    };
    let mut out = Vec::new();
    match open {
        StreamOpen::Http(http) => {
            let parts = OpenHttpParts {
                names: open::NameCase::Lower,
                bind_id: http.bind_id.expect("a binding"),
                container_port: http.container_port.expect("a port"),
                method: &http.method,
                target: &http.target,
                is_upgrade: http.is_upgrade,
                body: http.body(),
                remote_addr: addr(&http.remote_addr),
                connection_id: http
                    .connection_id
                    .map(|number| number.try_into().expect("a number of ours")),
            };
            open::write_open_http(&mut out, &parts, fields(&http.headers)).expect("it fits");
        }
        StreamOpen::Tcp(tcp) => open::write_open_tcp(
            &mut out,
            tcp.bind_id.expect("a binding"),
            tcp.container_port.expect("a port"),
            addr(&tcp.remote_addr),
        ),
        StreamOpen::Udp(udp) => open::write_open_udp(
            &mut out,
            udp.bind_id.expect("a binding"),
            udp.container_port.expect("a port"),
            addr(&udp.remote_addr),
        ),
        StreamOpen::Forward(forward) => {
            open::write_open_forward(&mut out, forward).expect("it fits");
        }
    }
    out
}

fn assert_same_text(name: &str, left: &[u8], right: &[u8]) {
    assert_eq!(
        String::from_utf8_lossy(left),
        String::from_utf8_lossy(right),
        "{name}"
    );
}
