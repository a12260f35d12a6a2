//! The client against a world without sockets and a kit that does what the test says.

mod chaos;
mod datagrams;
mod ends;
mod expose;
mod expose_tcp;
mod failover;
mod fake_kit;
mod forward;
mod greetings;
mod handler;
mod heirs;
mod hostile;
mod lanes;
mod largest;
mod logins;
mod pull;
mod retry;
mod shares;
mod ways;
mod world;

use std::time::Duration;

use crate::client::bound::{Answerer, BindSpec};
use crate::client::messages::{Notice, Order, Spec};
use crate::client::{Binding, Error, HostHeader, TunnelOptions};
use crate::wire::frame::FrameType;
use crate::wire::service::Service;

use fake_kit::FakeKit;
use world::World;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn options() -> TunnelOptions {
    TunnelOptions::new("ws://127.0.0.1:50").proxy(crate::client::Proxy::None)
}

/// A client that is online with session `id`.
fn online(options: &TunnelOptions) -> (World, FakeKit) {
    online_with(options, r#"{"sessionId":"S-1"}"#)
}

/// A client that is online with what the kit grants.
fn online_with(options: &TunnelOptions, hello_ok: &str) -> (World, FakeKit) {
    let mut world = World::new(options);
    let mut kit = FakeKit::new();
    world.pass(MS);
    come_online(&mut world, &mut kit, hello_ok);
    (world, kit)
}

/// Answers the dial that is out with a session.
fn come_online(world: &mut World, kit: &mut FakeKit, hello_ok: &str) -> String {
    let conn = world.accept();
    let (kind, hello) = kit.upgrade(world, conn);
    assert_eq!(kind, FrameType::Hello);
    kit.greet(world, 0, FrameType::HelloOk, hello_ok);
    hello
}

/// Lets time pass in which the kit answers.
fn pass_with(world: &mut World, kit: &mut FakeKit, span: Duration) {
    let until = world.now + span;
    while world.now < until {
        world.pass(SECOND.min(until.since(world.now)));
        kit.run(world);
    }
}

fn spec(service: Service, port: u16) -> BindSpec {
    BindSpec {
        service,
        container_port: port,
        any_port: port == 0,
        label: None,
        takeover: false,
        host: None,
        host_header: HostHeader::Rewrite,
        headers: Vec::new(),
        proxy_protocol: None,
        replaces: None,
        trust: crate::machine::Trust::System,
        local: Answerer::Target("127.0.0.1:3000".parse().unwrap()),
    }
}

fn order_bind(world: &mut World, kit: &mut FakeKit, reference: u64, spec: BindSpec) {
    let spec = Box::new(Spec(spec));
    world.order(Order::Bind { reference, spec });
    kit.run(world);
}

/// Binds, with `bindId` equal to the reference.
fn bind(world: &mut World, kit: &mut FakeKit, reference: u64, service: Service, port: u16) {
    order_bind(world, kit, reference, spec(service, port));
    assert_eq!(kit.came(FrameType::Bind).len(), 1);
    kit.control(
        world,
        FrameType::BindOk,
        &bind_ok(reference, reference, port),
    );
    assert!(outcome(world, reference).is_ok());
}

fn bind_ok(reference: u64, bind_id: u64, port: u16) -> String {
    format!(
        r#"{{"clientBindRef":{reference},"bindId":{bind_id},"containerPort":{port},
           "publicUrl":null}}"#
    )
}

fn bind_err(reference: u64, code: &str) -> String {
    format!(r#"{{"clientBindRef":{reference},"code":"{code}","message":"why"}}"#)
}

/// What came of a bind.
fn outcome(world: &mut World, reference: u64) -> Result<Binding, Error> {
    let found = world.answers().into_iter().find_map(|notice| match notice {
        Notice::Bound {
            reference: of,
            outcome,
        } if of == reference => Some(outcome),
        _ => None,
    });
    found.expect("the bind was not answered")
}

/// A STREAM_OPEN for a GET without a body.
fn get(target: &str) -> String {
    format!(
        r#"{{"kind":"http","bindId":1,"containerPort":3000,"method":"GET","target":"{target}",
           "headers":[["host","app.example"]],"isUpgrade":false,"body":"none"}}"#
    )
}
