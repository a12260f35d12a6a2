//! Forwarded streams under a host without sockets: every way to stand, and every way not to.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use crate::kit::config::Config;
use crate::kit::policy::Policy;
use crate::kit::testing::{Host, Laptop, guarded};
use crate::limits::{FORWARD_WITHIN, HASTY_OPENS};
use crate::machine::{DialTarget, Ended, Event, Found, IoFailure, Machine};
use crate::wire::code::Code;

const HELLO: &str = r#"{"version":"hoody-tunnel.v1","capabilities":["forward"]}"#;

fn allowing(list: &str) -> Config {
    Config {
        allow_forward: Policy::parse(&[list.to_owned()]).expect("a list"),
        ..guarded()
    }
}

/// A kit that allows so much, and a laptop with `forward`.
fn begin(list: &str) -> (Host, Laptop) {
    let mut host = Host::new(allowing(list));
    let laptop = host.greet("192.0.2.1:1000", HELLO);
    (host, laptop)
}

fn open(host: &mut Host, laptop: &mut Laptop, target: &str) {
    let open = format!(r#"{{"kind":"tcp","mode":"forward",{target}}}"#);
    let stream = laptop.mux.open(0, open.as_bytes(), host.now);
    laptop.streams.push(stream.expect("a stream"));
    host.exchange(laptop);
}

const DB: &str = r#""host":"db","port":5432"#;

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

impl Host {
    /// Answers the oldest look-up.
    fn resolves(&mut self, found: &[(&str, bool)]) {
        let (conn, ..) = self.sought.remove(0);
        let found = found.iter().map(|(at, is_local)| Found {
            addr: addr(at),
            is_local: *is_local,
        });
        let found = found.collect();
        self.kit.handle(Event::Resolved { conn, found }, self.now);
        self.settle();
    }

    /// The oldest dial stands.
    fn stands(&mut self, peer: &str) {
        let (conn, _) = self.dialled[0];
        let peer = addr(peer);
        self.kit.handle(Event::Connected { conn, peer }, self.now);
        self.settle();
    }

    fn fails(&mut self, conn: crate::machine::ConnKey, kind: ErrorKind) {
        let text = "it did not work".to_owned();
        let how = Ended::Failed(IoFailure { kind, text });
        self.kit.handle(Event::Ended { conn, how }, self.now);
        self.settle();
    }

    fn counts(&mut self, outcome: &str) -> u64 {
        let page = self.get("metrics");
        let name = format!("hoody_tunnel_forward_dials_total{{outcome=\"{outcome}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("a row").parse().expect("a number")
    }

    /// Nothing of it is left.
    fn at_rest(&self) {
        let [sessions, streams, conns, _] = self.kit.leftovers();
        assert_eq!((sessions, streams, conns), (1, 0, 1), "the lane alone");
    }
}

fn reset(laptop: &Laptop) -> (Code, &str) {
    let (_, code, why) = laptop.resets.last().expect("a RESET");
    (*code, why)
}

#[test]
fn a_stream_stands_when_every_address_is_allowed_and_bytes_wait_for_it() {
    let (mut host, mut laptop) = begin("db:5432");
    open(&mut host, &mut laptop, DB);
    assert_eq!(host.sought[0].1, "db");
    let sent = laptop.mux.send(laptop.streams[0], b"hello", host.now);
    laptop.mux.send_eof(laptop.streams[0], host.now);
    assert_eq!(sent, 5);
    host.exchange(&mut laptop);
    host.resolves(&[("10.0.0.5:5432", false), ("10.0.0.6:5432", false)]);
    let target = DialTarget::Addrs(vec![addr("10.0.0.5:5432"), addr("10.0.0.6:5432")]);
    let conn = host.dialled[0].0;
    assert_eq!(host.dialled, [(conn, target)]);
    assert!(
        host.get("tunnels")
            .contains(r#"{"target":"db:5432","connected":false}"#)
    );
    assert!(!host.finished.contains(&conn));
    host.stands("10.0.0.6:5432");
    host.exchange(&mut laptop);
    assert_eq!(laptop.connected, [r#"{"peer":"10.0.0.6:5432"}"#]);
    assert_eq!(host.receive(conn), "hello");
    let finished = host.finished.contains(&conn);
    assert!(finished, "EOF becomes FIN, behind the bytes");
    assert!(
        host.get("tunnels")
            .contains(r#"{"target":"db:5432","connected":true}"#)
    );
    host.send(conn, b"answer");
    host.finish(conn);
    host.exchange(&mut laptop);
    assert_eq!(laptop.got, b"answer");
    assert_eq!(host.counts("connected"), 1);
    host.at_rest();
}

#[test]
fn one_address_that_is_not_allowed_refuses_all_of_a_name() {
    for (list, found) in [
        ("10.0.0.0/8:5432", ["10.0.0.5:5432", "192.168.0.1:5432"]),
        ("10.0.0.0/8:5432", ["192.168.0.1:5432", "10.0.0.5:5432"]),
        ("db:5432", ["10.0.0.5:5432", "169.254.169.254:5432"]),
        ("loopback", ["127.0.0.1:5432", "[64:ff9b::7f00:1]:5432"]),
    ] {
        let (mut host, mut laptop) = begin(list);
        open(&mut host, &mut laptop, DB);
        host.resolves(&found.map(|at| (at, false)));
        host.exchange(&mut laptop);
        let (code, why) = reset(&laptop);
        assert!(
            code == Code::RefusedStream && why.contains("--allow-forward"),
            "{why}"
        );
        assert!(host.dialled.is_empty());
        assert_eq!(host.counts("policy"), 1);
        host.at_rest();
    }
}

#[test]
fn what_is_not_allowed_is_never_looked_up_or_dialled() {
    for target in [
        r#""host":"db","port":5433"#,
        r#""host":"10.0.0.1","port":5432"#,
        r#""unix":"/run/other.sock""#,
    ] {
        let (mut host, mut laptop) = begin("db:5432,unix:/run/x.sock");
        open(&mut host, &mut laptop, target);
        assert_eq!(reset(&laptop).0, Code::RefusedStream);
        assert!(host.sought.is_empty() && host.dialled.is_empty());
        host.at_rest();
    }
    let (mut host, mut laptop) = begin("db:5432,unix:/run/x.sock");
    open(&mut host, &mut laptop, r#""unix":"/run/x.sock""#);
    host.stands("0.0.0.0:0");
    host.exchange(&mut laptop);
    assert_eq!(laptop.connected, [r#"{"peer":"unix:/run/x.sock"}"#]);
}

#[test]
fn no_local_address_leads_to_a_port_of_the_kits_own() {
    let port = guarded().listen.port();
    for (host_name, at, is_local) in [
        ("127.0.0.1", "127.0.0.1", true),
        ("0.0.0.0", "0.0.0.0", true),
        ("::1", "[::1]", true),
        ("10.0.0.9", "10.0.0.9", true),
    ] {
        let (mut host, mut laptop) = begin("0.0.0.0/0:*,[::]/0:*");
        let target = format!(r#""host":"{host_name}","port":{port}"#);
        open(&mut host, &mut laptop, &target);
        host.resolves(&[(&format!("{at}:{port}"), is_local)]);
        host.exchange(&mut laptop);
        assert!(reset(&laptop).1.contains("the tunnel's own"), "{at}");
        assert_eq!(host.counts("own_port"), 1);
    }
    // Elsewhere that port is somebody else's.
    let (mut host, mut laptop) = begin("0.0.0.0/0:*");
    open(
        &mut host,
        &mut laptop,
        &format!(r#""host":"10.0.0.9","port":{port}"#),
    );
    host.resolves(&[(&format!("10.0.0.9:{port}"), false)]);
    assert_eq!(host.dialled.len(), 1);
}

#[test]
fn a_port_that_is_bound_while_it_is_dialled_is_the_tunnels_own_too() {
    let (mut host, mut laptop) = begin("loopback");
    open(&mut host, &mut laptop, r#""host":"127.0.0.1","port":3000"#);
    host.resolves(&[("127.0.0.1:3000", true)]);
    let mut other = host.greet("192.0.2.2:1000", r#"{"version":"hoody-tunnel.v1"}"#);
    let bind = br#"{"clientBindRef":1,"kind":"http","mode":"expose","containerPort":3000}"#;
    let kind = crate::wire::frame::FrameType::Bind;
    other.mux.lanes_mut().push_control(kind, bind);
    host.exchange(&mut other);
    host.stands("127.0.0.1:3000");
    host.exchange(&mut laptop);
    assert!(reset(&laptop).1.contains("the tunnel's own"));
    // And from then on at once.
    open(&mut host, &mut laptop, r#""host":"127.0.0.1","port":3000"#);
    host.resolves(&[("127.0.0.1:3000", true)]);
    host.exchange(&mut laptop);
    assert_eq!(host.counts("own_port"), 2);
}

#[test]
fn each_way_of_failing_has_its_word() {
    let dials = [
        (ErrorKind::ConnectionRefused, "refused"),
        (ErrorKind::TimedOut, "timeout"),
        (ErrorKind::HostUnreachable, "unreachable"),
        (ErrorKind::NetworkUnreachable, "unreachable"),
        (ErrorKind::PermissionDenied, "unreachable"),
    ];
    for (kind, word) in dials {
        let (mut host, mut laptop) = begin("db:5432");
        open(&mut host, &mut laptop, DB);
        host.resolves(&[("10.0.0.5:5432", false)]);
        let conn = host.dialled[0].0;
        host.fails(conn, kind);
        host.exchange(&mut laptop);
        let wanted = format!("{word}: it did not work");
        assert_eq!(reset(&laptop), (Code::Cancel, &*wanted));
        assert_eq!(host.counts(word), 1);
        host.at_rest();
    }
    for kind in [ErrorKind::NotFound, ErrorKind::TimedOut] {
        let (mut host, mut laptop) = begin("db:5432");
        open(&mut host, &mut laptop, DB);
        let conn = host.sought[0].0;
        host.fails(conn, kind);
        host.exchange(&mut laptop);
        assert_eq!(reset(&laptop), (Code::Cancel, "dns: it did not work"));
    }
    let (mut host, mut laptop) = begin("db:5432");
    open(&mut host, &mut laptop, DB);
    host.resolves(&[]);
    host.exchange(&mut laptop);
    assert!(reset(&laptop).1.starts_with("dns: "));
    open(&mut host, &mut laptop, DB);
    let conn = host.sought[0].0;
    host.fails(conn, ErrorKind::QuotaExceeded);
    host.exchange(&mut laptop);
    assert_eq!(
        reset(&laptop),
        (Code::RefusedStream, "no file descriptors left")
    );
}

#[test]
fn what_never_comes_about_is_given_up_and_who_leaves_costs_nothing() {
    for resolved in [false, true] {
        let (mut host, mut laptop) = begin("db:5432");
        open(&mut host, &mut laptop, DB);
        if resolved {
            host.resolves(&[("10.0.0.5:5432", false)]);
        }
        host.pass_with(&mut laptop, FORWARD_WITHIN + Duration::from_secs(1));
        assert!(reset(&laptop).1.starts_with("timeout: "));
        host.at_rest();
        open(&mut host, &mut laptop, DB);
        host.sought.truncate(1);
        let stream = *laptop.streams.last().expect("it");
        laptop.mux.reset(stream, Code::Cancel, "no more");
        host.exchange(&mut laptop);
        assert_eq!(host.counts("left"), 1);
        host.at_rest();
    }
}

#[test]
fn who_was_not_granted_it_opens_nothing() {
    for (list, hello) in [
        ("loopback", r#"{"version":"hoody-tunnel.v1"}"#),
        ("off", HELLO),
    ] {
        let mut host = Host::new(allowing(list));
        let mut laptop = host.greet("192.0.2.1:1000", hello);
        let granted = laptop.told[0].1.contains("forward");
        assert!(!granted, "{list}");
        open(&mut host, &mut laptop, r#""host":"127.0.0.1","port":1"#);
        let (code, why) = reset(&laptop);
        assert!(code == Code::RefusedStream && why.contains("no connections"));
    }
}

#[test]
fn odd_streams_cost_themselves_alone() {
    let (mut host, mut laptop) = begin("loopback");
    for odd in [
        r#"{"kind":"tcp"}"#,
        r#"{"kind":"http","method":"GET","target":"/"}"#,
        r#"{"kind":"tcp","mode":"forward"}"#,
        "[",
    ] {
        let stream = laptop.mux.open(0, odd.as_bytes(), host.now);
        laptop.streams.push(stream.expect("a stream"));
        host.exchange(&mut laptop);
        assert_eq!(reset(&laptop).0, Code::ProtocolError, "{odd}");
    }
    assert_eq!(host.counts("malformed"), 4);
    open(
        &mut host,
        &mut laptop,
        &format!(r#""host":"{}","port":1"#, "a".repeat(300)),
    );
    assert!(reset(&laptop).1.starts_with("dns: "));
    host.at_rest();
}

#[test]
fn opening_too_fast_costs_the_streams_and_not_the_session() {
    let (mut host, mut laptop) = begin("loopback");
    let target = r#""host":"10.0.0.1","port":1"#;
    for _ in 0..HASTY_OPENS.burst + 50 {
        open(&mut host, &mut laptop, target);
    }
    assert_eq!(host.counts("too_fast"), 50);
    host.pass(Duration::from_secs(1));
    open(&mut host, &mut laptop, target);
    assert_eq!(host.counts("too_fast"), 50);
    host.at_rest();
}

#[test]
fn sessions_share_the_descriptors_and_visitors_keep_theirs() {
    let config = Config {
        fd_budget: 64,
        ..allowing("loopback")
    };
    let mut host = Host::new(config);
    let mut greedy = host.greet("192.0.2.1:1000", HELLO);
    let target = r#""host":"127.0.0.1","port":1"#;
    for _ in 0..64 {
        open(&mut host, &mut greedy, target);
    }
    assert!(host.counts("share") > 0);
    let mut modest = host.greet("192.0.2.2:1000", HELLO);
    let before = host.sought.len();
    open(&mut host, &mut modest, target);
    assert_eq!(host.sought.len(), before + 1, "there is one for it");
}

#[test]
fn an_idle_session_that_may_forward_stays() {
    let (mut host, mut laptop) = begin("loopback");
    host.pass_with(&mut laptop, Duration::from_secs(1000));
    assert_eq!(host.kit.leftovers()[0], 1);
    let mut host = Host::new(allowing("loopback"));
    let mut plain = host.greet("192.0.2.2:1000", r#"{"version":"hoody-tunnel.v1"}"#);
    for _ in 0..100 {
        if host.kit.leftovers()[0] == 0 {
            return;
        }
        host.pass(Duration::from_secs(5));
        if host.kit.leftovers()[0] > 0 {
            host.exchange(&mut plain);
        }
    }
    panic!("another one is idle and stays");
}
