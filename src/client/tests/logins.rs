//! Logins that hold for a connection: nobody else gets a connection that carried one.

use super::*;
use crate::machine::ConnKey;

fn exposed() -> (World, FakeKit) {
    let (mut world, mut kit) = online(&options());
    bind(&mut world, &mut kit, 1, Service::HttpExpose, 3000);
    (world, kit)
}

/// A request of the visitor's connection `remote` with these fields besides Host. Behind a `#` may
/// stand the connection's number, as JSON.
fn ask(world: &mut World, kit: &mut FakeKit, remote: &str, fields: &[(&str, &str)]) -> usize {
    let (remote, number) = match remote.split_once('#') {
        Some((remote, number)) => (remote, format!(r#","connectionId":{number}"#)),
        None => (remote, String::new()),
    };
    let fields: String = fields
        .iter()
        .map(|(name, value)| format!(r#",["{name}","{value}"]"#))
        .collect();
    let host = r#"["host","app.example"]"#;
    let open = get("/").replace(host, &format!("{host}{fields}"));
    let (open, _) = open.rsplit_once('}').unwrap();
    let remote = match remote {
        "" => String::new(),
        remote => format!(r#","remoteAddr":"{remote}""#),
    };
    let stream = kit.open(world, &format!("{open}{remote}{number}}}"));
    kit.eof(world, stream);
    stream
}

fn answer(world: &mut World, kit: &mut FakeKit, conn: ConnKey, text: &str) {
    world.take(conn);
    world.write(conn, text.as_bytes());
    kit.run(world);
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CHALLENGE: &str = "HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate\r\n\
    www-authenticate: NTLM\r\ncontent-length: 0\r\n\r\n";
const ALICE: &str = "203.0.113.9:50001";
const BOB: &str = "203.0.113.9:50002";

#[test]
fn a_connection_that_somebody_logged_in_on_is_never_anothers() {
    let (mut world, mut kit) = exposed();
    ask(
        &mut world,
        &mut kit,
        ALICE,
        &[("authorization", "NTLM TlRM")],
    );
    let hers = world.accept();
    answer(&mut world, &mut kit, hers, OK);
    for stranger in [BOB, "203.0.113.10:50001", ""] {
        let stream = ask(&mut world, &mut kit, stranger, &[]);
        assert!(world.text(hers).is_empty(), "{stranger} is served as Alice");
        let conn = world.accept();
        answer(&mut world, &mut kit, conn, "HTTP/1.0 200 OK\r\n\r\n");
        world.fin(conn);
        kit.run(&mut world);
        assert!(kit.seen(stream).eof);
    }
    // She goes on with hers, and what she sends need not be repeatable.
    let mut post = Vec::from([("authorization", "NTLM TlRM")]);
    post.push(("x", "y"));
    world.pass(2 * SECOND);
    ask(&mut world, &mut kit, ALICE, &post);
    assert!(world.dials.is_empty());
    assert!(world.text(hers).contains("NTLM TlRM"));
    answer(&mut world, &mut kit, hers, OK);
    // When she has been away for long enough it is closed.
    world.pass(6 * SECOND);
    assert!(world.is_closed(hers).is_some());
}

#[test]
fn who_comes_from_the_same_port_on_the_next_connection_is_somebody_else() {
    let (mut world, mut kit) = exposed();
    let alice = format!("{ALICE}#1");
    ask(
        &mut world,
        &mut kit,
        &alice,
        &[("authorization", "NTLM TlRM")],
    );
    let hers = world.accept();
    answer(&mut world, &mut kit, hers, OK);
    // A number that is none is as good as none.
    for other in ["#2", "#0", "", "#\"1\"", "#[1]", "#-1", "#null"] {
        let stream = ask(&mut world, &mut kit, &format!("{ALICE}{other}"), &[]);
        assert!(world.text(hers).is_empty(), "{other} is served as Alice");
        let conn = world.accept();
        answer(&mut world, &mut kit, conn, "HTTP/1.0 200 OK\r\n\r\n");
        world.fin(conn);
        kit.run(&mut world);
        assert!(kit.seen(stream).eof);
    }
    ask(&mut world, &mut kit, &alice, &[]);
    assert!(world.dials.is_empty());
    assert!(world.text(hers).starts_with("GET / "));
}

#[test]
fn a_connection_that_asked_for_a_login_belongs_to_whom_it_asked() {
    for challenge in [
        CHALLENGE,
        "HTTP/1.1 407 No\r\nproxy-authenticate: Basic realm=x, nTLM\r\n\
         content-length: 0\r\n\r\n",
    ] {
        let (mut world, mut kit) = exposed();
        ask(&mut world, &mut kit, ALICE, &[]);
        let conn = world.accept();
        answer(&mut world, &mut kit, conn, challenge);
        ask(&mut world, &mut kit, BOB, &[]);
        let his = world.accept();
        assert_ne!(conn, his);
        ask(
            &mut world,
            &mut kit,
            ALICE,
            &[("Authorization", "negotiate YII=")],
        );
        assert!(world.text(conn).contains("negotiate YII="));
    }
}

#[test]
fn all_three_legs_of_a_login_take_one_connection_however_many_log_in() {
    let (mut world, mut kit) = exposed();
    let visitors: Vec<String> = (0..8)
        .map(|n| format!("203.0.113.9:{}", 50_000 + n))
        .collect();
    let mut conns = Vec::new();
    for visitor in &visitors {
        ask(&mut world, &mut kit, visitor, &[]);
        conns.push(world.accept());
    }
    for conn in &conns {
        answer(&mut world, &mut kit, *conn, CHALLENGE);
    }
    for leg in ["NTLM one", "NTLM three"] {
        for visitor in visitors.iter().rev() {
            ask(&mut world, &mut kit, visitor, &[("authorization", leg)]);
        }
        assert!(world.dials.is_empty(), "a leg went astray");
        for conn in &conns {
            assert_eq!(world.text(*conn).matches(leg).count(), 1);
            answer(&mut world, &mut kit, *conn, CHALLENGE);
        }
    }
}

#[test]
fn a_login_of_nobody_known_ends_its_connection() {
    let (mut world, mut kit) = exposed();
    for remote in ["", "203.0.113.9", "203.0.113.9:0"] {
        let stream = ask(&mut world, &mut kit, remote, &[("authorization", "NTLM x")]);
        let conn = world.accept();
        answer(&mut world, &mut kit, conn, OK);
        assert!(kit.seen(stream).eof);
        assert!(world.is_closed(conn).is_some(), "`{remote}`");
    }
    // Other logins are the request's, and its connection is anybody's.
    ask(&mut world, &mut kit, "", &[("authorization", "Basic YQ==")]);
    let conn = world.accept();
    answer(&mut world, &mut kit, conn, OK);
    ask(&mut world, &mut kit, BOB, &[]);
    assert!(world.text(conn).contains("GET / "));
}
