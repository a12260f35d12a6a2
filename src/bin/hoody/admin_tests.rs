//! Tables from answers as PROTOCOL §10 has them, and refusals.

use super::*;

const SESSIONS: &str = r#"{"sessions":[
    {"sessionId":"S-466ab70d-92e8-49b5-95a9-8c0d585dc2b9","peerAddr":"127.0.0.1:5000","isV2":true,
     "connectionsGranted":4,"activeStreams":2,"maxStreams":1024,"bindings":[
       {"bindId":1,"containerPort":3000,"kind":"http","mode":"expose"},
       {"bindId":2,"containerPort":5432,"kind":"tcp","mode":"pull"}]},
    {"sessionId":"S-46ffffff-92e8-49b5-95a9-8c0d585dc2b9","peerAddr":null,"isV2":false,
     "connectionsGranted":1,"activeStreams":0,"maxStreams":1024,"bindings":[]}],"total":2}"#;

fn reply(status: u16, body: &str) -> Result<AdminReply, client::Error> {
    Ok(AdminReply {
        status,
        content_type: "application/json".into(),
        body: body.into(),
    })
}

fn kill(id: &str) -> AdminRequest {
    AdminRequest::Kill {
        session_id: id.into(),
        grace_ms: Some(50),
        ban: None,
    }
}

/// A kit with the two sessions above, which says whom it was told to end.
fn kit(request: &AdminRequest) -> Result<AdminReply, client::Error> {
    match request {
        AdminRequest::Sessions => reply(200, SESSIONS),
        AdminRequest::Kill { session_id, .. } => {
            let body = format!(r#"{{"sessionId":"{session_id}","status":"closing"}}"#);
            reply(202, &body)
        }
        _ => reply(404, r#"{"error":"no such thing"}"#),
    }
}

#[test]
fn sessions_are_a_table_with_shortened_ids() {
    let table = answer(&kit, &AdminRequest::Sessions, false).unwrap();
    let wanted = "\
SESSION     PEER            CONNS  STREAMS  BINDINGS
S-466ab70d  127.0.0.1:5000  4      2        expose 3000, pull 5432
S-46ffffff  parked          1      0        -
";
    assert_eq!(table, wanted);
    let json = answer(&kit, &AdminRequest::Sessions, true).unwrap();
    assert_eq!(json.trim_end(), SESSIONS);
}

#[test]
fn other_answers_are_tables_too() {
    let ask = |body: &'static str| move |_: &AdminRequest| reply(200, body);
    let bindings = ask(
        r#"{"bindings":[{"sessionId":"S-466ab70d-92e8","bindId":2,"port":5432,"kind":"tcp",
            "mode":"pull","bindAddr":"127.0.0.1:5432"}],"total":1}"#,
    );
    let table = answer(&bindings, &AdminRequest::Bindings, false).unwrap();
    assert!(
        table.ends_with("\n5432  pull  tcp   S-466ab70d  2     127.0.0.1:5432\n"),
        "{table}"
    );
    let tunnels = ask(
        r#"{"sessions":[{"sessionId":"S-466ab70d-92e8","peerAddr":"[::1]:9","protocol":"v2",
            "connectionsGranted":2,"activeStreams":1,
            "exposeBindings":[{"bindId":1,"containerPort":3000}],"pullBindings":[]}],
            "orphanedSessions":1,"totalStreams":1,"totalBindings":1,"fdPermitsAvailable":4000}"#,
    );
    let table = answer(&tunnels, &AdminRequest::Tunnels, false).unwrap();
    assert!(
        table.contains("S-466ab70d  [::1]:9  v2        2      1        3000     -\n"),
        "{table}"
    );
    assert!(table.ends_with("1 bindings, 1 streams, 1 parked sessions, 4000 descriptors free\n"));
    let health = ask(
        r#"{"status":"ok","service":"hoody-tunnel","built":null,"started":"2026-01-01T00:00:00Z",
            "memory":{"rss":2097152,"heap":null},"fds":9,"pid":1,"ip":"10.0.0.2",
            "userAgent":"hoody-tunnel/0.1.0"}"#,
    );
    let text = answer(&health, &AdminRequest::Health, false).unwrap();
    assert!(
        text.starts_with("status       ok\nkit          hoody-tunnel/0.1.0\n"),
        "{text}"
    );
    let none = ask(r#"{"sessions":[],"total":0}"#);
    assert_eq!(
        answer(&none, &AdminRequest::Sessions, false).unwrap(),
        "no sessions\n"
    );
}

#[test]
fn the_start_of_an_id_names_one_session_only() {
    let said = |id| answer(&kit, &kill(id), false);
    let done = "session S-466ab70d is closing\n";
    assert_eq!(said("S-466").as_deref(), Ok(done));
    assert_eq!(said("466ab").as_deref(), Ok(done));
    assert_eq!(
        said("S-466ab70d-92e8-49b5-95a9-8c0d585dc2b9").as_deref(),
        Ok(done)
    );
    assert_eq!(said("S-466a…").as_deref(), Ok(done));
    assert!(said("S-46").unwrap_err().contains("several"));
    assert!(said("S-").unwrap_err().contains("no session"));
    assert!(said("").unwrap_err().contains("no session"));
    assert!(said("abc").unwrap_err().contains("no session"));
}

#[test]
fn a_ban_is_told_with_its_time() {
    for (ban, told) in [
        (600_000, "10m"),
        (7_200_000, "2h"),
        (90_000, "90s"),
        (1_500, "1500ms"),
    ] {
        let request = AdminRequest::Kill {
            session_id: "S-466".into(),
            grace_ms: None,
            ban: Some(Duration::from_millis(ban)),
        };
        let wanted =
            format!("session S-466ab70d is closing; its address is kept away for {told}\n");
        assert_eq!(answer(&kit, &request, false), Ok(wanted));
    }
}

#[test]
fn a_refusal_is_told_in_the_kits_words() {
    let refuse = |_: &AdminRequest| reply(401, r#"{"error":"missing token"}"#);
    let why = answer(&refuse, &AdminRequest::Tunnels, false).unwrap_err();
    assert!(
        why.contains("missing token (HTTP 401)") && why.contains("--token-file"),
        "{why}"
    );
    let refuse = |_: &AdminRequest| reply(502, "<html>bad gateway</html>\n");
    let why = answer(&refuse, &AdminRequest::Tunnels, false).unwrap_err();
    assert!(why.contains("<html>bad gateway</html> (HTTP 502)"), "{why}");
    let nonsense = |_: &AdminRequest| reply(200, "hello");
    assert!(answer(&nonsense, &AdminRequest::Tunnels, false).is_err());
}

#[test]
fn nothing_that_a_kit_says_steers_the_terminal() {
    let body = r#"{"sessions":[{"sessionId":"S-\u001b[2J","peerAddr":"\u001b]0;x\u0007"}]}"#;
    let ask = |_: &AdminRequest| reply(200, body);
    let table = answer(&ask, &AdminRequest::Sessions, false).unwrap();
    assert!(!table.contains('\x1b'), "{table}");
    let ask = |_: &AdminRequest| reply(200, "a\x1b[2J\nb\n");
    let metrics = answer(&ask, &AdminRequest::Metrics, false).unwrap();
    assert_eq!(metrics, "a\\u{1b}[2J\nb\n");
}
