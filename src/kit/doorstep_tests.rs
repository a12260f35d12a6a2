//! Floods of silent connections, and who gets in all the same.

use std::time::Duration;

use crate::kit::config::Config;
use crate::kit::testing::{Host, UPGRADE, guarded};
use crate::limits::PRE_AUTH_MAY_STAY;

const HEALTH: &[u8] = b"GET /api/v1/tunnel/health HTTP/1.1\r\nHost: a\r\n\r\n";

/// A kit whose doorstep is full of one address' silence, half of it after an upgrade.
fn flooded() -> Host {
    let mut host = Host::new(guarded());
    for port in 0..Config::default().max_pre_auth_connections {
        let conn = host.visit(&format!("192.0.2.66:{}", 1000 + port)).unwrap();
        if port % 2 == 0 {
            host.send(conn, UPGRADE);
            host.receive(conn);
        }
    }
    host
}

#[test]
fn silent_connections_of_one_address_lock_nobody_else_out() {
    let mut host = flooded();
    let operator = host.visit("192.0.2.1:1").expect("room was made");
    assert_eq!(host.closed.len(), 1, "one of the flood went for it");
    // The flood goes on, and displaces itself.
    for port in 0..100 {
        host.visit(&format!("192.0.2.66:{}", 3000 + port));
    }
    host.send(operator, HEALTH);
    assert!(host.receive(operator).starts_with("HTTP/1.1 200 "));
    let laptop = host.laptop("192.0.2.2:1");
    assert!(!host.closed.contains(&operator) && !host.closed.contains(&laptop.conn));
    let page = host.get("metrics");
    assert!(
        page.contains("reason=\"pre_auth_displaced\"} 2\n"),
        "{page}"
    );
    assert!(page.contains("reason=\"pre_auth_limit\"} 100\n"), "{page}");
}

#[test]
fn behind_one_address_only_those_go_that_had_time_to_speak() {
    let mut host = flooded();
    assert_eq!(host.visit("192.0.2.66:1"), None, "all of them are fresh");
    host.pass(PRE_AUTH_MAY_STAY);
    let newcomer = host.visit("192.0.2.66:1").expect("room was made");
    for port in 2..100 {
        host.visit(&format!("192.0.2.66:{port}"));
    }
    assert!(!host.closed.contains(&newcomer), "it is fresh");
    host.send(newcomer, HEALTH);
    assert!(host.receive(newcomer).starts_with("HTTP/1.1 200 "));
}

#[test]
fn who_was_answered_stays_longer_than_who_said_nothing() {
    let mut host = Host::new(Config {
        max_pre_auth_connections: 3,
        ..guarded()
    });
    let operator = host.visit("192.0.2.66:1").unwrap();
    host.send(operator, HEALTH);
    host.receive(operator);
    let silent = [2, 3].map(|port| {
        host.pass(Duration::from_millis(1));
        host.visit(&format!("192.0.2.66:{port}")).unwrap()
    });
    host.pass(PRE_AUTH_MAY_STAY);
    for conn in [silent[0], silent[1], operator] {
        host.visit("192.0.2.66:9").expect("room was made");
        assert_eq!(host.closed.last(), Some(&conn));
    }
}
