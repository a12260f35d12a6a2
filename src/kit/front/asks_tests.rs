//! What is answered to what, without any socket.

use super::*;
use crate::wire::control::Secret;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Who asks.
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn open() -> Config {
    Config {
        no_auth: true,
        ..Config::default()
    }
}

fn guarded() -> Config {
    Config {
        token: Some(Secret::new("hush")),
        ..Config::default()
    }
}

fn ask_text(text: &str, config: &Config) -> Ask {
    let mut front = AskReader::default();
    front.feed(text.as_bytes());
    match front.next(config, PEER) {
        Heard::Asked(ask) => ask,
        step => panic!("{text} gave {step:?}"),
    }
}

fn get(path: &str, fields: &str, config: &Config) -> Ask {
    ask_text(
        &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:50\r\n{fields}\r\n"),
        config,
    )
}

fn refused(ask: Ask) -> (u16, String) {
    match ask.wanted {
        Wanted::Refuse(denial) => {
            let mut out = Vec::new();
            denial.refusal.write(&mut out, ask.asked, None);
            (denial.refusal.status, String::from_utf8(out).unwrap())
        }
        wanted => panic!("not refused but {wanted:?}"),
    }
}

fn connect_ask(fields: &str, config: &Config) -> Ask {
    get(
        "/api/v1/tunnel/connect",
        &format!("{UPGRADE}{fields}"),
        config,
    )
}

#[test]
fn an_upgrade_gets_its_answer_and_the_better_subprotocol() {
    let offers = "Sec-WebSocket-Protocol: hoody-tunnel.v1, hoody-tunnel.v2\r\n\
                  Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let ask = connect_ask(offers, &open());
    let Wanted::Connect(connect) = ask.wanted else {
        panic!("{ask:?}")
    };
    assert_eq!(connect.subprotocol, Subprotocol::V2);
    let mut out = Vec::new();
    connect.write(&mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{text}"
    );
    assert!(text.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(text.contains("sec-websocket-protocol: hoody-tunnel.v2\r\n"));
    assert!(!text.contains("extensions"));
    assert!(text.ends_with("\r\n\r\n"));
}

#[test]
fn without_our_subprotocol_there_is_no_upgrade_but_a_reason_in_plain_text() {
    for offers in ["", "Sec-WebSocket-Protocol: chat\r\n"] {
        let (status, text) = refused(connect_ask(offers, &open()));
        assert_eq!(status, 400);
        assert!(text.contains("content-type: text/plain") && text.contains("hoody-tunnel.v1"));
    }
}

#[test]
fn a_request_that_is_no_upgrade_is_told_how_to_upgrade() {
    let (status, text) = refused(get("/api/v1/tunnel/connect", "", &open()));
    assert_eq!(status, 426);
    assert!(text.contains("sec-websocket-version: 13\r\n"), "{text}");
    let post = "POST /api/v1/tunnel/connect HTTP/1.1\r\nHost: a\r\n\r\n";
    let (status, text) = refused(ask_text(post, &open()));
    assert_eq!(status, 405);
    assert!(text.contains("allow: GET\r\n"));
}

#[test]
fn a_foreign_page_cannot_open_a_tunnel() {
    let fields = "Sec-WebSocket-Protocol: hoody-tunnel.v1\r\nOrigin: https://evil.test\r\n";
    for config in [open(), guarded()] {
        let (status, text) = refused(connect_ask(fields, &config));
        assert_eq!(status, 403);
        assert!(text.contains("text/plain"));
    }
}

#[test]
fn a_client_behind_a_proxy_connects_whatever_the_host_for_it_is_no_browser() {
    let text = format!(
        "GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: app-50.example\r\n{UPGRADE}\
         Sec-WebSocket-Protocol: hoody-tunnel.v1\r\n\r\n"
    );
    assert!(matches!(
        ask_text(&text, &open()).wanted,
        Wanted::Connect(_)
    ));
}

#[test]
fn an_upgrade_with_a_wrong_token_may_still_prove_itself_in_hello() {
    let offer = "Sec-WebSocket-Protocol: hoody-tunnel.v1\r\n";
    for (fields, credential) in [
        ("", Credential::Missing),
        ("Authorization: Bearer no\r\n", Credential::Wrong),
        ("Authorization: Bearer hush\r\n", Credential::Proven),
    ] {
        let ask = connect_ask(&format!("{offer}{fields}"), &guarded());
        assert!(matches!(ask.wanted, Wanted::Connect(_)));
        assert_eq!(ask.credential, credential);
        assert_eq!(ask.shows_token(), credential != Credential::Missing);
    }
    assert_eq!(
        connect_ask(offer, &open()).credential,
        Credential::NotNeeded
    );
}

#[test]
fn all_endpoints_but_health_need_the_token() {
    for (path, wanted) in [
        ("metrics", Wanted::Metrics),
        ("sessions", Wanted::Sessions),
        ("bindings", Wanted::Bindings),
        ("tunnels", Wanted::Tunnels),
        ("openapi.json", Wanted::OpenApi),
    ] {
        let path = format!("/api/v1/tunnel/{path}");
        assert_eq!(get(&path, "", &open()).wanted, wanted);
        assert_eq!(
            get(&path, "Authorization: Bearer hush\r\n", &guarded()).wanted,
            wanted
        );
        for fields in ["", "Authorization: Bearer no\r\n"] {
            let (status, text) = refused(get(&path, fields, &guarded()));
            assert_eq!(status, 401);
            assert!(text.contains("www-authenticate: Bearer\r\n"), "{text}");
            assert!(
                text.contains("content-type: application/json") && text.contains(r#"{"error":"#)
            );
        }
    }
    assert_eq!(
        get("/api/v1/tunnel/health", "", &guarded()).wanted,
        Wanted::Health
    );
    assert_eq!(
        get("/api/v1/tunnel/health?x=1", "", &open()).wanted,
        Wanted::Health
    );
}

#[test]
fn a_rebound_name_is_refused_unless_a_token_is_asked_for() {
    for path in ["health", "metrics", "nothing"] {
        let text = format!("GET /api/v1/tunnel/{path} HTTP/1.1\r\nHost: evil.test:50\r\n\r\n");
        assert_eq!(refused(ask_text(&text, &open())).0, 403, "{path}");
    }
    let text = "GET /api/v1/tunnel/health HTTP/1.1\r\nHost: evil.test:50\r\n\r\n";
    assert_eq!(ask_text(text, &guarded()).wanted, Wanted::Health);
    let absolute = "GET http://evil.test/api/v1/tunnel/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(refused(ask_text(absolute, &open())).0, 403);
}

#[test]
fn unknown_paths_and_wrong_methods_are_told_apart() {
    for path in [
        "/",
        "/health",
        "/api/v1/tunnel",
        "/api/v1/tunnel/",
        "/api/v1/tunnel/health/",
    ] {
        assert_eq!(refused(get(path, "", &open())).0, 404, "{path}");
    }
    assert_eq!(
        refused(ask_text(
            "OPTIONS * HTTP/1.1\r\nHost: [::1]\r\n\r\n",
            &open()
        ))
        .0,
        404
    );
    for path in ["a/b", "", "%2e", "S-1/"] {
        assert_eq!(
            refused(get(&format!("/api/v1/tunnel/sessions/{path}"), "", &open())).0,
            404
        );
    }
    let post = "POST /api/v1/tunnel/health HTTP/1.1\r\nHost: [::1]\r\n\r\n";
    let (status, text) = refused(ask_text(post, &open()));
    assert!(
        status == 405 && text.contains("allow: GET, HEAD\r\n"),
        "{text}"
    );
    let (status, text) = refused(get("/api/v1/tunnel/sessions/S-1", "", &open()));
    assert!(
        status == 405 && text.contains("allow: DELETE\r\n"),
        "{text}"
    );
}

fn kill_ask(rest: &str, fields: &str, config: &Config) -> Ask {
    let head = format!("DELETE /api/v1/tunnel/sessions/{rest} HTTP/1.1\r\nHost: localhost\r\n");
    ask_text(&format!("{head}{fields}\r\n"), config)
}

#[test]
fn a_kill_names_a_session_and_a_grace_within_bounds() {
    for (query, millis) in [
        ("", DEFAULT_KILL_GRACE_MS),
        ("?", DEFAULT_KILL_GRACE_MS),
        ("?grace_ms=0", 0),
        ("?grace_ms=5000", 5000),
        ("?grace_ms=7&", 7),
    ] {
        let ask = kill_ask(&format!("S-1a{query}"), "", &open());
        let grace = Duration::from_millis(millis);
        assert_eq!(
            ask.wanted,
            Wanted::Kill {
                session: SessionId::new("S-1a"),
                grace,
                ban: None
            },
            "{query}"
        );
    }
    for query in [
        "grace_ms",
        "grace_ms=",
        "grace_ms=5001",
        "grace_ms=-1",
        "grace_ms=%31",
        "grace_ms=1&grace_ms=1",
        "grace_ms=99999999999999999999",
        "grace_ms=1.5",
        "ban",
        "ban=",
        "ban=0",
        "ban=25h",
        "ban=10x",
        "ban=1m&ban=1m",
        "ban=%31m",
        "grace_ms=7&grace_ms2=9",
        "graceMs=7",
        "grace-ms",
        "bann=10m",
        "Ban=10m",
        "%62an=10m",
        "x",
        "=1",
    ] {
        assert_eq!(
            refused(kill_ask(&format!("S-1?{query}"), "", &open())).0,
            400,
            "{query}"
        );
    }
}

#[test]
fn a_kill_may_keep_the_address_away() {
    for (query, seconds) in [
        ("ban=10m", 600),
        ("ban=1", 1),
        ("grace_ms=0&ban=24h", 86_400),
    ] {
        let ask = kill_ask(&format!("S-1a?{query}"), "", &open());
        let Wanted::Kill { ban, .. } = ask.wanted else {
            panic!("{query}: {:?}", ask.wanted);
        };
        assert_eq!(ban, Some(Duration::from_secs(seconds)), "{query}");
    }
}

#[test]
fn a_kill_needs_the_token_and_no_foreign_page() {
    assert_eq!(refused(kill_ask("S-1", "", &guarded())).0, 401);
    assert_eq!(refused(kill_ask("S-1?grace_ms=x", "", &guarded())).0, 401);
    assert_eq!(
        refused(kill_ask("S-1", "Origin: http://evil.test\r\n", &open())).0,
        403
    );
    assert_eq!(
        refused(kill_ask(
            "S-1",
            "Origin: http://localhost:3000\r\n",
            &open()
        ))
        .0,
        403
    );
}

#[test]
fn pipelined_requests_come_in_order_however_they_are_cut() {
    let one = "GET /api/v1/tunnel/health HTTP/1.1\r\nHost: [::1]\r\n\r\n";
    let two =
        "HEAD /api/v1/tunnel/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let text = [one, two, "GET"].concat();
    for size in [1, 7, 1000] {
        let (mut front, mut seen) = (AskReader::default(), Vec::new());
        for piece in text.as_bytes().chunks(size) {
            front.feed(piece);
            while let Heard::Asked(ask) = front.next(&guarded(), PEER) {
                seen.push((ask.asked.head, ask.asked.keep_alive));
            }
        }
        assert_eq!(seen, [(false, true), (true, false)]);
        assert!(!front.is_idle());
        assert_eq!(front.rest(), b"GET");
        assert!(front.is_idle());
    }
}

#[test]
fn a_request_with_a_body_is_the_last_on_its_connection() {
    let text = "DELETE /api/v1/tunnel/sessions/S-1 HTTP/1.1\r\nHost: localhost\r\n\
                Content-Length: 5\r\n\r\nhello";
    let ask = ask_text(text, &open());
    assert!(matches!(ask.wanted, Wanted::Kill { .. }) && !ask.asked.keep_alive);
    let text = text.replace("Content-Length: 5", "Content-Length: 0");
    assert!(ask_text(&text, &open()).asked.keep_alive);
}

#[test]
fn what_is_no_request_is_malformed() {
    let mut front = AskReader::default();
    front.feed(b"\x16\x03\x01\x02\x00");
    let Heard::Malformed(reject) = front.next(&open(), PEER) else {
        panic!("a TLS hello is no HTTP")
    };
    let mut out = Vec::new();
    Refusal::json(reject.status, reject.why).write_and_close(&mut out, false, None);
    assert!(out.starts_with(b"HTTP/1.1 400 "));
}

#[test]
fn bent_requests_are_answered_or_refused_and_never_break_the_front() {
    let good = format!(
        "GET /api/v1/tunnel/connect HTTP/1.1\r\nHost: 127.0.0.1:50\r\n{UPGRADE}\
         Sec-WebSocket-Protocol: hoody-tunnel.v1\r\nOrigin: http://127.0.0.1:50\r\n\
         Authorization: Bearer hush\r\n\r\n\
         DELETE /api/v1/tunnel/sessions/S-1?grace_ms=10 HTTP/1.1\r\nHost: [::1]:50\r\n\r\n"
    );
    let mut entropy = crate::entropy::Entropy::from_seed(5);
    for _ in 0..3000 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..=entropy.below(3) {
            let at = entropy.below(bytes.len() as u32) as usize;
            match entropy.below(3) {
                0 => bytes[at] = entropy.octets::<1>()[0],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"\r\n :,;?&=[]%*"[entropy.below(13) as usize]),
            }
        }
        for config in [open(), guarded()] {
            let mut front = AskReader::default();
            front.feed(&bytes);
            for _ in 0..bytes.len() {
                let Heard::Asked(ask) = front.next(&config, PEER) else {
                    break;
                };
                if let Wanted::Refuse(denial) = ask.wanted {
                    assert!(
                        (400..500).contains(&denial.refusal.status) || denial.refusal.status == 505
                    );
                }
            }
        }
    }
}
