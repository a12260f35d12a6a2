//! A kit that fills every frame up to its largest legal content: the client may leave it, and must
//! not fall over, neither at once nor when it says again what it was told.

use super::*;
use crate::limits::{MAX_FRAME_PAYLOAD, MAX_NONCE, MAX_SESSION_ID};
use crate::machine::Ended;

/// `text` with all that a frame still carries of `with` in place of its `@`.
fn filled(text: &str, with: &str) -> String {
    let room = MAX_FRAME_PAYLOAD - (text.len() - 1);
    text.replace('@', &with.repeat(room / with.len()))
}

/// Each frame that a kit may send, with a place that may be long.
const FRAMES: &[(FrameType, &str)] = &[
    (
        FrameType::BindOk,
        r#"{"clientBindRef":7,"bindId":7,"containerPort":1,"publicUrl":"@"}"#,
    ),
    (
        FrameType::BindErr,
        r#"{"clientBindRef":7,"code":"PORT_IN_USE","message":"@"}"#,
    ),
    (
        FrameType::BindErr,
        r#"{"clientBindRef":7,"code":"@","message":"why"}"#,
    ),
    (FrameType::UnbindOk, r#"{"bindId":1,"more":"@"}"#),
    (
        FrameType::UnbindErr,
        r#"{"bindId":2,"code":"NOT_FOUND","message":"@"}"#,
    ),
    (FrameType::JoinOk, r#"{"index":1,"more":"@"}"#),
    (FrameType::JoinErr, r#"{"code":"BAD_TICKET","message":"@"}"#),
    (
        FrameType::ReissueJoinTickets,
        r#"{"joinTickets":[{"index":1,"nonce":"@"}]}"#,
    ),
    (FrameType::ShardMap, r#"{"more":"@"}"#),
    (
        FrameType::BindRevoked,
        r#"{"bindId":1,"reason":"@","code":13}"#,
    ),
    (FrameType::HelloOk, r#"{"sessionId":"@"}"#),
    (FrameType::GoAway, r#"{"code":0,"message":"@","graceMs":1}"#),
];

const STREAMS: &[&str] = &[
    r#"{"kind":"http","bindId":1,"method":"GET","target":"/@","headers":[["host","a"]]}"#,
    r#"{"kind":"http","bindId":1,"method":"@","target":"/","headers":[["host","a"]]}"#,
    r#"{"kind":"http","bindId":1,"method":"GET","target":"/","headers":[["host","@"]]}"#,
    r#"{"kind":"http","bindId":1,"method":"GET","target":"/","headers":[["@","a"]]}"#,
    r#"{"kind":"http","bindId":1,"method":"GET","target":"/","remoteAddr":"@","headers":[]}"#,
    r#"{"kind":"tcp","bindId":2,"remoteAddr":"@"}"#,
    r#"{"kind":"@","bindId":2}"#,
];

const FILLINGS: [&str; 4] = ["a", "\u{202e}", "\\u001b", "\\\""];

fn tunnel() -> (World, FakeKit) {
    let (mut world, mut kit) = online(&options().connections(4));
    bind(&mut world, &mut kit, 1, Service::HttpExpose, 3000);
    bind(&mut world, &mut kit, 2, Service::TcpPull, 5432);
    (world, kit)
}

/// The client goes on, or has left, and says all that it wants to say.
fn goes_on(mut world: World) {
    world.events();
    for _ in 0..8 {
        if !world.dials.is_empty() {
            world.refuse();
        }
        world.pass(SECOND);
    }
    world.order(Order::Close { at_once: true });
    world.pass(SECOND);
    assert!(world.stopped);
}

#[test]
fn the_largest_frames_of_a_kit_end_no_client() {
    for filling in FILLINGS {
        for (kind, text) in FRAMES {
            let (mut world, mut kit) = tunnel();
            kit.control(&mut world, *kind, &filled(text, filling));
            goes_on(world);
        }
        for text in STREAMS {
            let (mut world, mut kit) = tunnel();
            kit.open(&mut world, &filled(text, filling));
            goes_on(world);
        }
    }
}

#[test]
fn the_largest_first_answers_of_a_kit_end_no_client() {
    let lists = [
        r#"{"sessionId":"S-1","capabilities":["x"@]}"#,
        r#"{"sessionId":"S-1","resumed":true,"resumedBindings":[{"bindId":1}@]}"#,
        r#"{"sessionId":"S-1","joinTickets":[{"index":1,"nonce":"n"}@]}"#,
        r#"{"sessionId":"S-1","connectionsGranted":4294967295,"more":"@"}"#,
        r#"{"sessionId":"@"}"#,
    ];
    let fillings = [
        r#","x""#,
        r#",{"bindId":1}"#,
        r#",{"index":1,"nonce":"n"}"#,
        "a",
        "\u{202e}",
    ];
    for text in lists {
        for filling in fillings {
            let mut world = World::new(&options().connections(4));
            let mut kit = FakeKit::new();
            world.pass(MS);
            let conn = world.accept();
            kit.upgrade(&mut world, conn);
            kit.greet(&mut world, 0, FrameType::HelloOk, &filled(text, filling));
            goes_on(world);
        }
    }
}

#[test]
fn what_a_kit_calls_a_session_and_its_tickets_fits_the_frames_that_say_it_again() {
    let mut world = World::new(&options().connections(16));
    let mut kit = FakeKit::new();
    world.pass(MS);
    let id = "\\u0001".repeat(MAX_SESSION_ID);
    let hello_ok = format!(r#"{{"sessionId":"{id}","connectionsGranted":16}}"#);
    come_online(&mut world, &mut kit, &hello_ok);
    for length in [MAX_NONCE, MAX_FRAME_PAYLOAD / 7] {
        for index in 1..16 {
            let nonce = "\\u0001".repeat(length);
            let json = format!(r#"{{"joinTickets":[{{"index":{index},"nonce":"{nonce}"}}]}}"#);
            if json.len() <= MAX_FRAME_PAYLOAD {
                kit.control(&mut world, FrameType::ReissueJoinTickets, &json);
            }
            while !world.dials.is_empty() {
                world.refuse();
            }
        }
        world.pass(4 * SECOND);
        kit.run(&mut world);
    }
    let asked = kit.came(FrameType::ReissueJoinTickets);
    assert!(asked.iter().any(|json| json.contains("nonce")), "{asked:?}");
    world.end(kit.conns[0].unwrap(), Ended::Reset);
    world.pass(SECOND);
    let conn = world.accept();
    let (kind, hello) = FakeKit::new().upgrade(&mut world, conn);
    assert_eq!(kind, FrameType::Hello);
    assert!(hello.contains(&id), "it asks for its session");
}
