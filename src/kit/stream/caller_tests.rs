//! Raw TCP on EXPOSE ports, and callers who wait for a laptop that is away.

use std::time::Duration;

use crate::kit::config::Config;
use crate::kit::public_url::PublicUrl;
use crate::kit::testing::{Host, Laptop, guarded};
use crate::limits::VISITOR_GONE_AFTER;
use crate::machine::{Ended, Event, Machine};
use crate::wire::frame::FrameType;

const RAW: &str = r#"{"version":"hoody-tunnel.v1","capabilities":["tcp-expose"]}"#;
const HOLD: Duration = Duration::from_secs(20);

fn bind(host: &mut Host, laptop: &mut Laptop, bind: &str) -> (FrameType, String) {
    let bind = format!(r#"{{"clientBindRef":7,{bind}}}"#);
    let lanes = laptop.mux.lanes_mut();
    lanes.push_control(FrameType::Bind, bind.as_bytes());
    host.exchange(laptop);
    laptop.told.last().expect("an answer").clone()
}

fn raw(port: u16) -> String {
    format!(r#""kind":"tcp","mode":"expose","containerPort":{port}"#)
}

/// A kit, and a laptop that has exposed port 3000 as raw TCP.
fn exposed(config: Config) -> (Host, Laptop) {
    let mut host = Host::new(config);
    let mut laptop = host.greet("192.0.2.1:1000", RAW);
    let (kind, answer) = bind(&mut host, &mut laptop, &raw(3000));
    assert_eq!(kind, FrameType::BindOk, "{answer}");
    (host, laptop)
}

fn holding() -> Config {
    Config {
        hold_visitors: HOLD,
        ..guarded()
    }
}

fn leaves(host: &mut Host, laptop: &Laptop) -> String {
    let json: serde_json::Value = serde_json::from_str(&laptop.told[0].1).expect("HELLO_OK");
    let (conn, how) = (laptop.conn, Ended::Reset);
    host.kit.handle(Event::Ended { conn, how }, host.now);
    host.settle();
    json["sessionId"].as_str().expect("an id").to_owned()
}

fn comes_back(host: &mut Host, id: &str) -> Laptop {
    let resume = format!(r#""resume":{{"sessionId":"{id}"}}"#);
    let hello = RAW.replace('}', &format!(",{resume}}}"));
    host.greet("192.0.2.1:1001", &hello)
}

fn says(host: &mut Host, line: &str) -> bool {
    host.get("metrics")
        .contains(&format!("\nhoody_tunnel_{line}\n"))
}

#[test]
fn a_caller_from_the_world_is_a_stream_with_its_address_and_no_byte_is_read_as_http() {
    let config = Config {
        public_tcp: Some(PublicUrl::parse_tcp("tcp://kit.example:{port}").unwrap()),
        ..guarded()
    };
    let (mut host, mut laptop) = exposed(config);
    let (_, bound) = laptop.told.last().expect("BIND_OK");
    assert!(
        bound.contains(r#""publicUrl":"tcp://kit.example:3000""#),
        "{bound}"
    );
    let at = host.bound[0];
    let caller = host.visit_at(at, "203.0.113.9:50000").expect("accepted");
    host.send(caller, b"SSH-2.0-x\r\n");
    host.exchange(&mut laptop);
    let open = r#"{"kind":"tcp","bindId":1,"containerPort":3000,"remoteAddr":"203.0.113.9:50000"}"#;
    assert_eq!(laptop.opens, [open]);
    laptop
        .mux
        .send(laptop.streams[0], b"SSH-2.0-y\r\n", host.now);
    host.exchange(&mut laptop);
    assert_eq!(host.receive(caller), "SSH-2.0-y\r\n");
    assert!(says(
        &mut host,
        r#"bindings_active{kind="tcp",mode="expose"} 1"#
    ));
    assert!(
        host.get("bindings")
            .contains(r#""port":3000,"kind":"tcp","mode":"expose"}"#)
    );
    assert!(
        host.get("sessions")
            .contains(r#""kind":"tcp","mode":"expose"}"#)
    );
}

#[test]
fn without_the_capability_or_the_operators_leave_it_is_refused_with_the_reason() {
    let mut host = Host::new(guarded());
    let mut laptop = host.greet("192.0.2.1:1000", r#"{"version":"hoody-tunnel.v1"}"#);
    let (kind, answer) = bind(&mut host, &mut laptop, &raw(3000));
    assert_eq!(kind, FrameType::BindErr);
    assert!(
        answer.contains("INVALID_KIND") && answer.contains("`tcp-expose`"),
        "{answer}"
    );
    let mut host = Host::new(Config {
        tcp_expose: false,
        ..guarded()
    });
    let mut laptop = host.greet("192.0.2.1:1000", RAW);
    assert!(!laptop.told[0].1.contains("tcp-expose"), "it was granted");
    let (_, answer) = bind(&mut host, &mut laptop, &raw(3000));
    assert!(
        answer.contains("INVALID_KIND") && answer.contains("--no-tcp-expose"),
        "{answer}"
    );
}

#[test]
fn http_and_raw_tcp_share_the_ports_and_take_them_from_each_other() {
    let (mut host, mut first) = exposed(guarded());
    let at = host.bound[0];
    let caller = host.visit_at(at, "203.0.113.9:50000").expect("accepted");
    host.exchange(&mut first);
    let mut second = host.greet("192.0.2.2:1000", RAW);
    let http = r#""kind":"http","mode":"expose","containerPort":3000"#;
    let (_, answer) = bind(&mut host, &mut second, http);
    assert!(answer.contains("ALREADY_BOUND"), "{answer}");
    let (kind, answer) = bind(
        &mut host,
        &mut second,
        &format!(r#"{http},"takeover":true"#),
    );
    assert_eq!(kind, FrameType::BindOk, "{answer}");
    assert!(
        host.kit
            .conns
            .get(caller)
            .is_none_or(|it| !it.role.has_stream())
    );
    // The socket is the same, and speaks HTTP now.
    assert!(host.unlistened.is_empty());
    let asks = |host: &mut Host| {
        let visitor = host.visit_at(at, "203.0.113.9:50001").expect("accepted");
        host.send(visitor, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        visitor
    };
    let visitor = asks(&mut host);
    host.exchange(&mut second);
    assert!(second.opens[0].contains(r#""kind":"http""#));
    host.answer(&mut second, 0, 2);
    assert!(host.receive(visitor).ends_with("\r\n\r\nxx"));
    // And back: a connection that was kept speaks to nobody's raw stream.
    let busy = asks(&mut host);
    host.exchange(&mut second);
    let taken = format!(r#"{},"takeover":true"#, raw(3000));
    let (kind, answer) = bind(&mut host, &mut first, &taken);
    assert_eq!(kind, FrameType::BindOk, "{answer}");
    assert!(host.receive(busy).starts_with("HTTP/1.1 502 "));
    assert!(host.finished.contains(&visitor) && host.finished.contains(&busy));
    let streams = first.opens.len();
    let caller = host.visit_at(at, "203.0.113.9:50002").expect("accepted");
    host.send(caller, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    host.exchange(&mut first);
    assert!(first.opens[streams].contains(r#""kind":"tcp""#));
    assert!(says(
        &mut host,
        r#"bindings_active{kind="http",mode="expose"} 0"#
    ));
}

#[test]
fn while_the_laptop_is_away_a_caller_is_closed_or_waits_where_the_operator_said_so() {
    let (mut host, laptop) = exposed(guarded());
    leaves(&mut host, &laptop);
    assert!(host.visit_at(host.bound[0], "203.0.113.9:1").is_none());

    for pull in [false, true] {
        let (mut host, mut laptop) = exposed(holding());
        if pull {
            let pull = r#""kind":"tcp","mode":"pull","containerPort":5432"#;
            bind(&mut host, &mut laptop, pull);
        }
        let at = *host.bound.last().expect("a port");
        let id = leaves(&mut host, &laptop);
        let (first, hangs_up) = (
            host.visit_at(at, "127.0.0.1:1"),
            host.visit_at(at, "127.0.0.1:2"),
        );
        let (first, hangs_up) = (first.expect("waits"), hangs_up.expect("waits"));
        assert_eq!(host.send_some(first, b"hello"), 0, "it is read");
        assert!(says(&mut host, "held_visitors 2"));
        host.finish_unread(hangs_up);
        host.pass(VISITOR_GONE_AFTER);
        assert!(host.closed.contains(&hangs_up) && !host.closed.contains(&first));
        let mut laptop = comes_back(&mut host, &id);
        assert_eq!(laptop.opens.len(), 1);
        host.send(first, b"hello");
        host.exchange(&mut laptop);
        assert!(says(
            &mut host,
            r#"held_visitors_total{outcome="served"} 1"#
        ));
        assert!(says(&mut host, r#"held_visitors_total{outcome="gone"} 1"#));
        // The next one waits in vain.
        leaves(&mut host, &laptop);
        let late = host.visit_at(at, "127.0.0.1:3").expect("waits");
        host.pass(HOLD - Duration::from_millis(1));
        assert!(!host.closed.contains(&late));
        host.pass(Duration::from_millis(1));
        assert!(host.closed.contains(&late));
        assert!(says(
            &mut host,
            r#"held_visitors_total{outcome="expired"} 1"#
        ));
    }
}

#[test]
fn who_waits_for_raw_tcp_is_closed_when_the_port_becomes_http_and_served_when_it_stays_raw() {
    for raw_again in [false, true] {
        let (mut host, first) = exposed(holding());
        leaves(&mut host, &first);
        let at = host.bound[0];
        let caller = host.visit_at(at, "203.0.113.9:1").expect("waits");
        let mut second = host.greet("192.0.2.2:1000", RAW);
        let kind = if raw_again { "tcp" } else { "http" };
        let port =
            format!(r#""kind":"{kind}","mode":"expose","containerPort":3000,"takeover":true"#);
        let (kind, answer) = bind(&mut host, &mut second, &port);
        assert_eq!(kind, FrameType::BindOk, "{answer}");
        assert_eq!(second.opens.len(), usize::from(raw_again));
        assert_eq!(host.closed.contains(&caller), !raw_again);
    }
}

#[test]
fn a_successor_goes_on_with_the_kind_of_a_port() {
    let (mut host, mut laptop) = exposed(guarded());
    bind(
        &mut host,
        &mut laptop,
        r#""kind":"http","mode":"expose","containerPort":3001"#,
    );
    host.kit.handle(Event::Upgrade, host.now);
    host.settle();
    let handed = host.handed.take().expect("a handover");
    let json = serde_json::to_string(&handed).expect("JSON");
    assert!(json.contains(r#""isExpose":true,"kind":"tcp""#), "{json}");
    let handed = serde_json::from_str(&json).expect("the same");
    let entropy = crate::entropy::Entropy::from_seed(3);
    let now = crate::clock::Instant::ZERO;
    let mut host = Host::around(crate::kit::Kit::successor(guarded(), entropy, now, handed));
    assert!(says(
        &mut host,
        r#"bindings_active{kind="tcp",mode="expose"} 1"#
    ));
    assert!(says(
        &mut host,
        r#"bindings_active{kind="http",mode="expose"} 1"#
    ));
}
