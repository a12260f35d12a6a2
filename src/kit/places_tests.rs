//! Floods that are refused and linger, and guessers that wait; and who gets in all the same.

use crate::kit::budget::Class;
use crate::kit::config::Config;
use crate::kit::testing::{Host, guarded};

const HEALTH: &[u8] = b"GET /api/v1/tunnel/health HTTP/1.1\r\nHost: a\r\n\r\n";
const GUESS: &[u8] =
    b"GET /api/v1/tunnel/sessions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\n";

/// A kit of few descriptors to which many came, were refused and do not go.
fn lingered_at() -> Host {
    let mut host = Host::new(Config {
        fd_budget: 64,
        ..guarded()
    });
    for port in 0..500 {
        let conn = host.visit(&format!("192.0.2.66:{}", 1000 + port));
        let conn = conn.expect("who lingers is in nobody's way");
        host.send(conn, b"nonsense\r\n\r\n");
        assert!(host.receive(conn).starts_with("HTTP/1.1 400 "));
    }
    host
}

#[test]
fn who_was_refused_and_lingers_holds_an_eighth_of_the_descriptors_at_most() {
    let host = lingered_at();
    assert_eq!(host.kit.conns.budget.out(Class::Leaving), 64 / 8);
    assert_eq!(host.kit.conns.len(), 64 / 8, "the oldest went");
}

#[test]
fn who_lingers_makes_room_for_operators_laptops_and_visitors() {
    let mut host = lingered_at();
    let laptop = host.laptop("192.0.2.2:1");
    let listener = host.bound[0];
    let mut visitors = 0;
    while host.kit.conns.budget.out(Class::Leaving) > 0 {
        let peer = format!("198.51.100.1:{}", 1000 + visitors);
        host.visit_at(listener, &peer).expect("there is room");
        visitors += 1;
    }
    let operator = host.visit("192.0.2.1:1").expect("accepted");
    host.send(operator, HEALTH);
    assert!(host.receive(operator).starts_with("HTTP/1.1 200 "));
    assert!(!host.closed.contains(&laptop.conn));
}

#[test]
fn guessers_behind_the_same_proxy_lock_nobody_out() {
    let mut host = Host::new(guarded());
    // Enough of them that the address has to wait.
    for port in 0..40 {
        if let Some(conn) = host.visit(&format!("192.0.2.66:{}", 1000 + port)) {
            host.send(conn, GUESS);
            host.receive(conn);
        }
    }
    let guesser = |host: &mut Host, port: u16| {
        let conn = host.visit(&format!("192.0.2.66:{port}"));
        let conn = conn.expect("a guess makes room for the next");
        host.send(conn, GUESS);
    };
    (2000..2100).for_each(|port| guesser(&mut host, port));
    let operator = host.visit("192.0.2.66:1").expect("accepted");
    host.send(operator, HEALTH);
    assert!(host.receive(operator).starts_with("HTTP/1.1 200 "));
    // Whatever token comes with the question for health, it is answered at once.
    for token in ["hush", "x"] {
        let operator = host.visit("192.0.2.66:1").expect("accepted");
        let end = format!("Authorization: Bearer {token}\r\n\r\n");
        let ask = String::from_utf8_lossy(HEALTH).replace("\r\n\r\n", &format!("\r\n{end}"));
        host.send(operator, ask.as_bytes());
        assert!(host.receive(operator).starts_with("HTTP/1.1 200 "));
    }
    // The right token waits as long as a wrong one, but is not displaced by those that come.
    let scrape = host.visit("192.0.2.66:2").expect("accepted");
    let right = String::from_utf8_lossy(GUESS).replace("Bearer x", "Bearer hush");
    host.send(scrape, right.as_bytes());
    assert_eq!(host.receive(scrape), "", "it waits");
    (3000..3100).for_each(|port| guesser(&mut host, port));
    assert!(!host.closed.contains(&scrape));
    host.pass(crate::limits::AUTH_DELAY_MAX);
    assert!(host.receive(scrape).starts_with("HTTP/1.1 200 "));
}
