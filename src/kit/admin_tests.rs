//! The answers, word by word, and against the document that describes them.

use serde_json::{Value, json};

use super::*;

fn about() -> About {
    About {
        version: "1.2.3",
        built: None,
        started: "2026-01-31T12:00:00Z".to_string(),
        pid: 7,
        ..About::default()
    }
}

const ONE: &str = "S-11111111-92e8-49b5-95a9-8c0d585dc2b9";
const TWO: &str = "S-22222222-92e8-49b5-95a9-8c0d585dc2b9";

fn rows() -> Vec<SessionRow> {
    let expose = BindingRow {
        bind_id: 1,
        port: 3000,
        service: Service::HttpExpose,
        addr: [0, 0, 0, 0].into(),
    };
    let pull = BindingRow {
        bind_id: 2,
        port: 5432,
        service: Service::TcpPull,
        addr: [127, 0, 0, 1].into(),
    };
    let one = SessionRow {
        session_id: SessionId::new(ONE),
        peer_addr: "203.0.113.9:51234".parse().unwrap(),
        is_v2: true,
        connections_granted: 4,
        active_streams: 5,
        max_streams: 1024,
        parked: false,
        bindings: vec![pull, expose],
        forwards: vec![ForwardRow {
            target: "db:5432".into(),
            connected: true,
        }],
    };
    let two = SessionRow {
        session_id: SessionId::new(TWO),
        peer_addr: "[2001:db8::1]:9".parse().unwrap(),
        is_v2: false,
        connections_granted: 1,
        active_streams: 0,
        parked: true,
        bindings: vec![BindingRow {
            port: 4000,
            ..expose
        }],
        forwards: Vec::new(),
        ..one.clone()
    };
    vec![two, one]
}

fn read(answer: &[u8]) -> Value {
    serde_json::from_slice(answer).unwrap()
}

#[test]
fn health_says_what_the_program_is_and_uses() {
    let expected = json!({
        "status": "ok", "service": "hoody-tunnel", "built": null, "started": "2026-01-31T12:00:00Z",
        "memory": {"rss": 5, "heap": null}, "fds": 6, "pid": 7, "ip": "127.0.0.1",
        "userAgent": "hoody-tunnel/1.2.3",
    });
    let usage = Usage {
        rss: 5,
        fds: 6,
        log_lines_dropped: 0,
    };
    assert_eq!(read(&health(&about(), usage)), expected);
}

#[test]
fn sessions_come_in_order_of_ids_with_their_bindings() {
    let expected = json!({"sessions": [
        {"sessionId": ONE, "peerAddr": "203.0.113.9:51234", "isV2": true, "connectionsGranted": 4,
         "activeStreams": 5, "maxStreams": 1024, "bindings": [
            {"bindId": 1, "containerPort": 3000, "kind": "http", "mode": "expose"},
            {"bindId": 2, "containerPort": 5432, "kind": "tcp", "mode": "pull"}]},
        {"sessionId": TWO, "peerAddr": "[2001:db8::1]:9", "isV2": false, "connectionsGranted": 1,
         "activeStreams": 0, "maxStreams": 1024, "bindings": [
            {"bindId": 1, "containerPort": 4000, "kind": "http", "mode": "expose"}]},
    ], "total": 2});
    assert_eq!(read(&sessions(rows())), expected);
    assert_eq!(
        read(&sessions(Vec::new())),
        json!({"sessions": [], "total": 0})
    );
}

#[test]
fn only_pull_bindings_name_their_address() {
    let expected = json!({"bindings": [
        {"sessionId": ONE, "bindId": 1, "port": 3000, "kind": "http", "mode": "expose"},
        {"sessionId": ONE, "bindId": 2, "port": 5432, "kind": "tcp", "mode": "pull",
         "bindAddr": "127.0.0.1"},
        {"sessionId": TWO, "bindId": 1, "port": 4000, "kind": "http", "mode": "expose"},
    ], "total": 3});
    assert_eq!(read(&bindings(rows())), expected);
}

#[test]
fn tunnels_have_totals() {
    let expected = json!({"sessions": [
        {"sessionId": ONE, "peerAddr": "203.0.113.9:51234", "protocol": "v2",
         "connectionsGranted": 4, "activeStreams": 5,
         "exposeBindings": [{"bindId": 1, "containerPort": 3000}],
         "pullBindings": [{"bindId": 2, "containerPort": 5432}],
         "forwards": [{"target": "db:5432", "connected": true}]},
        {"sessionId": TWO, "peerAddr": "[2001:db8::1]:9", "protocol": "v1",
         "connectionsGranted": 1, "activeStreams": 0,
         "exposeBindings": [{"bindId": 1, "containerPort": 4000}], "pullBindings": [],
         "forwards": []},
    ], "orphanedSessions": 1, "totalStreams": 5, "totalBindings": 3, "fdPermitsAvailable": 99});
    assert_eq!(read(&tunnels(rows(), 99)), expected);
}

#[test]
fn every_answer_has_exactly_the_keys_that_are_documented() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    for (schema, answer) in [
        ("Health", health(&about(), Usage::default())),
        ("Sessions", sessions(rows())),
        ("Bindings", bindings(rows())),
        ("Tunnels", tunnels(rows(), 1)),
        ("Closing", closing(ONE)),
        ("Error", br#"{"error":"why"}"#.to_vec()),
    ] {
        let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
        fits(&document, &schema, &read(&answer));
    }
}

/// Holds a value against the part of JSON Schema that the document uses for structure.
fn fits(document: &Value, schema: &Value, value: &Value) {
    if let Some(path) = schema["$ref"].as_str() {
        let target = document.pointer(path.trim_start_matches('#'));
        return fits(document, target.expect(path), value);
    }
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let has_type = match &schema["type"] {
        Value::Array(types) => types.iter().any(|known| known == name),
        known => known == name,
    };
    assert!(has_type, "{value} is no {}", schema["type"]);
    if let Some(constant) = schema.get("const") {
        assert_eq!(constant, value);
    }
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{value} is none of {words:?}");
    }
    for item in value.as_array().into_iter().flatten() {
        fits(document, &schema["items"], item);
    }
    let Some(object) = value.as_object() else {
        return;
    };
    assert_eq!(schema["additionalProperties"], false);
    for key in schema["required"].as_array().into_iter().flatten() {
        assert!(
            object.contains_key(key.as_str().unwrap()),
            "{key} is missing in {value}"
        );
    }
    for (key, value) in object {
        let property = schema["properties"].get(key);
        fits(
            document,
            property.unwrap_or_else(|| panic!("{key} is not documented")),
            value,
        );
    }
}

#[test]
fn the_document_names_every_endpoint_and_every_reference_leads_somewhere() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
    for endpoint in [
        "connect",
        "health",
        "metrics",
        "sessions",
        "sessions/{id}",
        "bindings",
        "tunnels",
        "openapi.json",
    ] {
        let path = format!("/api/v1/tunnel/{endpoint}");
        assert!(paths.contains(&&path), "{path}");
    }
    assert_eq!(paths.len(), 8);
    check_references(&document, &document);
}

fn check_references(document: &Value, part: &Value) {
    if let Some(path) = part.get("$ref").and_then(Value::as_str) {
        assert!(
            document.pointer(path.trim_start_matches('#')).is_some(),
            "{path}"
        );
    }
    match part {
        Value::Object(members) => members
            .values()
            .for_each(|it| check_references(document, it)),
        Value::Array(items) => items.iter().for_each(|it| check_references(document, it)),
        _ => {}
    }
}
