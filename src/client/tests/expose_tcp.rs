//! Raw connections from the world to a local service.

use super::*;
use crate::wire::control::BindErrCode;

const OPEN: &str = r#"{"kind":"tcp","bindId":1,"containerPort":2222,"remoteAddr":"203.0.113.9:5"}"#;

/// A client whose kit granted these.
fn granted(capabilities: &str) -> (World, FakeKit) {
    let mut world = World::new(&options());
    let mut kit = FakeKit::new();
    world.pass(MS);
    let hello_ok = format!(r#"{{"sessionId":"S-1","capabilities":[{capabilities}]}}"#);
    let hello = come_online(&mut world, &mut kit, &hello_ok);
    assert!(hello.contains(r#""tcp-expose""#), "{hello}");
    (world, kit)
}

#[test]
fn a_visitor_is_a_raw_connection_to_the_local_service() {
    let (mut world, mut kit) = granted(r#""tcp-expose""#);
    let mut spec = spec(Service::TcpExpose, 2222);
    spec.proxy_protocol = Some(crate::client::ProxyProtocol::V1);
    order_bind(&mut world, &mut kit, 1, spec);
    let asked = kit.came(FrameType::Bind);
    assert!(
        asked[0].contains(r#""kind":"tcp","mode":"expose""#),
        "{asked:?}"
    );
    kit.control(&mut world, FrameType::BindOk, &bind_ok(1, 1, 2222));
    let binding = outcome(&mut world, 1).expect("it is bound");
    assert_eq!(
        (binding.kind.name(), binding.mode.name()),
        ("tcp", "expose")
    );
    let stream = kit.open(&mut world, OPEN);
    let conn = world.accept();
    kit.data(&mut world, stream, b"GET / HTTP/1.1\r\n\r\n");
    world.write(conn, b"SSH-2.0-x\r\n");
    kit.run(&mut world);
    let said = world.take(conn);
    let greeted: &[u8] = b"PROXY TCP4 203.0.113.9 0.0.0.0 5 2222\r\n";
    assert_eq!(said, [greeted, b"GET / HTTP/1.1\r\n\r\n"].concat());
    assert_eq!(kit.seen(stream).data, b"SSH-2.0-x\r\n");
}

#[test]
fn a_kit_that_did_not_grant_it_is_not_asked_and_the_user_is_told_what_to_do() {
    for capabilities in ["", r#""replay","header-case""#] {
        let (mut world, mut kit) = granted(capabilities);
        order_bind(&mut world, &mut kit, 1, spec(Service::TcpExpose, 2222));
        assert!(kit.came(FrameType::Bind).is_empty(), "it was asked");
        let Err(Error::Bind { code, message }) = outcome(&mut world, 1) else {
            panic!("it was bound");
        };
        assert_eq!(code, BindErrCode::InvalidKind);
        assert!(
            message.contains("--no-tcp-expose") && message.contains("Upgrade"),
            "{message}"
        );
        // Others are bound as ever.
        bind(&mut world, &mut kit, 2, Service::TcpPull, 5432);
    }
}
