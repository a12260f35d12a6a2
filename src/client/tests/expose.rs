//! EXPOSE: requests to a local server and back.

use super::*;
use crate::client::SessionEvent;
use crate::machine::{CloseHow, ConnKey, Ended};

fn exposed() -> (World, FakeKit) {
    let (mut world, mut kit) = online(&options());
    bind(&mut world, &mut kit, 1, Service::HttpExpose, 3000);
    world.events();
    (world, kit)
}

fn record(world: &mut World) -> crate::client::RequestRecord {
    let found = world.events().into_iter().find_map(|event| match event {
        SessionEvent::Request(record) => Some(record),
        _ => None,
    });
    found.expect("no request came to its end")
}

/// Has the local server answer on `conn`, and the kit hear it.
fn answer(world: &mut World, kit: &mut FakeKit, conn: ConnKey, text: &[u8]) {
    world.write(conn, text);
    kit.run(world);
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn a_request_goes_to_the_local_server_and_its_answer_back() {
    for chunk in [1, 3, usize::MAX] {
        let (mut world, mut kit) = exposed();
        world.chunk = chunk;
        let one = kit.open(&mut world, &get("/a?b"));
        kit.eof(&mut world, one);
        let conn = world.accept();
        let request = "GET /a?b HTTP/1.1\r\nhost: 127.0.0.1:3000\r\n\r\n";
        assert_eq!(world.text(conn), request);
        answer(&mut world, &mut kit, conn, OK);
        let seen = kit.seen(one);
        let head = r#"{"status":200,"headers":[["content-length","2"]],"final":true}"#;
        assert_eq!(
            (seen.heads.as_slice(), seen.data.as_slice()),
            ([head.to_owned()].as_slice(), b"ok".as_slice())
        );
        assert!(seen.eof);
        let record = record(&mut world);
        assert_eq!(
            (record.status, record.bytes_out, record.cut),
            (Some(200), 2, None)
        );

        // The connection serves the next one, too, and is closed when nobody wants it.
        let two = kit.open(&mut world, &get("/2"));
        kit.eof(&mut world, two);
        assert!(world.dials.is_empty());
        assert!(world.text(conn).starts_with("GET /2 "));
        answer(&mut world, &mut kit, conn, OK);
        assert!(kit.seen(two).eof);
        world.pass(6 * SECOND);
        assert_eq!(world.is_closed(conn), Some(CloseHow::Clean));
    }
}

#[test]
fn bodies_of_every_framing_pass_in_both_directions() {
    for chunk in [1, 7, usize::MAX] {
        let (mut world, mut kit) = exposed();
        world.chunk = chunk;
        let open = r#"{"kind":"http","bindId":1,"method":"POST","target":"/","headers":[],
            "isUpgrade":false,"body":"chunked"}"#;
        let stream = kit.open(&mut world, open);
        let conn = world.accept();
        kit.data(&mut world, stream, b"abc");
        kit.data(&mut world, stream, &[b'x'; 3000]);
        kit.eof(&mut world, stream);
        let text = world.text(conn);
        let body = format!("3\r\nabc\r\nbb8\r\n{}\r\n0\r\n\r\n", "x".repeat(3000));
        assert!(text.ends_with(&format!("transfer-encoding: chunked\r\n\r\n{body}")));
        let chunked = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n\
            HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\nx: y\r\n\r\n4;e=f\r\nwiki\r\n\
            5\r\npedia\r\n0\r\nt: u\r\n\r\n";
        answer(&mut world, &mut kit, conn, chunked);
        let seen = kit.seen(stream).clone();
        assert_eq!(seen.data, b"wikipedia");
        assert!(seen.heads[0].contains(r#""status":103"#) && seen.heads[0].contains("false"));
        assert_eq!(
            seen.heads[1],
            r#"{"status":201,"headers":[["x","y"]],"final":true}"#
        );
        assert!(seen.eof);
        let record = record(&mut world);
        assert_eq!((record.bytes_in, record.bytes_out), (3003, 9));

        let open = r#"{"kind":"http","bindId":1,"method":"PUT","target":"/",
            "headers":[["content-length","5000"]],"isUpgrade":false,"body":"length"}"#;
        let stream = kit.open(&mut world, open);
        kit.data(&mut world, stream, &[b'y'; 5000]);
        kit.eof(&mut world, stream);
        // A PUT with a body does not ride on a connection that may just be closing, if it is old.
        let text = world.text(conn);
        assert!(text.ends_with(&format!("content-length: 5000\r\n\r\n{}", "y".repeat(5000))));
        answer(
            &mut world,
            &mut kit,
            conn,
            b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        );
        assert!(!kit.seen(stream).eof);
        world.fin(conn);
        kit.run(&mut world);
        assert_eq!(kit.seen(stream).data, b"until the end");
        assert!(kit.seen(stream).eof);
    }
}

#[test]
fn a_local_server_that_is_down_is_a_502_that_says_what_was_tried() {
    let (mut world, mut kit) = exposed();
    let stream = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, stream);
    world.refuse();
    kit.run(&mut world);
    let seen = kit.seen(stream).clone();
    assert!(seen.heads[0].starts_with(r#"{"status":502"#) && seen.eof);
    let text = String::from_utf8(seen.data).unwrap();
    assert!(text.contains("http://127.0.0.1:3000") && text.contains("Connection refused"));
    assert_eq!(record(&mut world).status, Some(502));
    let next = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, next);
    let conn = world.accept();
    answer(&mut world, &mut kit, conn, OK);
    assert!(kit.seen(next).eof);
}

#[test]
fn a_reused_connection_that_was_just_closing_is_replaced_once() {
    for how in ["fin", "reset"] {
        let (mut world, mut kit) = exposed();
        let first = kit.open(&mut world, &get("/1"));
        kit.eof(&mut world, first);
        let old = world.accept();
        answer(&mut world, &mut kit, old, OK);
        let again = kit.open(&mut world, &get("/2"));
        kit.eof(&mut world, again);
        match how {
            "fin" => world.fin(old),
            _ => world.end(old, Ended::Reset),
        }
        let fresh = world.accept();
        assert!(world.text(fresh).starts_with("GET /2 "), "{how}");
        world.end(fresh, Ended::Reset);
        kit.run(&mut world);
        assert!(world.dials.is_empty(), "once is enough");
        assert!(kit.seen(again).heads[0].contains("502"));
    }
}

#[test]
fn what_cannot_be_sent_twice_is_not() {
    let (mut world, mut kit) = exposed();
    let first = kit.open(&mut world, &get("/1"));
    kit.eof(&mut world, first);
    let old = world.accept();
    answer(&mut world, &mut kit, old, OK);
    let post = get("/post").replace("GET", "POST");
    let stream = kit.open(&mut world, &post);
    kit.eof(&mut world, stream);
    assert!(
        world.text(old).contains("POST /post "),
        "a fresh enough connection is used"
    );
    world.end(old, Ended::Reset);
    kit.run(&mut world);
    assert!(world.dials.is_empty());
    assert!(kit.seen(stream).heads[0].contains("502"));
}

#[test]
fn a_cut_body_never_looks_whole() {
    for body in [
        "content-length: 10\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let (mut world, mut kit) = exposed();
        let stream = kit.open(&mut world, &get("/"));
        kit.eof(&mut world, stream);
        let conn = world.accept();
        answer(
            &mut world,
            &mut kit,
            conn,
            format!("HTTP/1.1 200 OK\r\n{body}").as_bytes(),
        );
        world.fin(conn);
        kit.run(&mut world);
        let seen = kit.seen(stream);
        assert!(!seen.eof && seen.reset.is_some(), "{body}");
        assert_eq!(seen.data, b"half");
        assert!(record(&mut world).cut.is_some());
    }
}

#[test]
fn a_visitor_that_reads_nothing_stops_its_own_response_and_no_other() {
    let (mut world, mut kit) = exposed();
    kit.reads = false;
    let slow = kit.open(&mut world, &get("/slow"));
    kit.eof(&mut world, slow);
    let conn = world.accept();
    world.write(conn, b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n");
    world.write(conn, &vec![1; 3_000_000]);
    kit.run(&mut world);
    assert_eq!(
        kit.seen(slow).data.len(),
        1 << 20,
        "as much as the window allows"
    );
    let other = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, other);
    let second = world.accept();
    answer(&mut world, &mut kit, second, OK);
    assert!(kit.seen(other).eof);
    // It reads again.
    kit.reads = true;
    while !kit.seen(slow).eof {
        let key = kit.streams[slow].0.unwrap();
        let behind = kit.seen(slow).data.len();
        kit.session
            .passed_on(key, (1 << 20).min(kit.session.buffered()), world.now);
        kit.run(&mut world);
        assert!(kit.seen(slow).data.len() > behind || kit.seen(slow).eof);
    }
    assert_eq!(kit.seen(slow).data.len(), 3_000_000);
}

#[test]
fn a_local_server_that_reads_nothing_stops_the_upload() {
    let (mut world, mut kit) = exposed();
    let open = r#"{"kind":"http","bindId":1,"method":"PUT","target":"/",
        "headers":[["content-length","3000000"]],"isUpgrade":false,"body":"length"}"#;
    let stream = kit.open(&mut world, open);
    let conn = world.accept();
    world.wires.get_mut(&conn).unwrap().full = true;
    let key = kit.streams[stream].0.unwrap();
    let mut sent = 0;
    loop {
        let more = kit.session.send(key, &[5; 60_000], world.now);
        kit.run(&mut world);
        sent += more;
        if more == 0 {
            break;
        }
    }
    assert_eq!(sent, 1 << 20);
    world.unblock(conn);
    kit.run(&mut world);
    let got = world.take(conn).len();
    assert!(got >= 1 << 20);
    assert!(
        kit.session.send(key, &[5; 60_000], world.now) > 0,
        "credit came back"
    );
}

#[test]
fn a_local_server_that_reads_slowly_moves_although_its_socket_is_never_said_to_have_room() {
    let pass = |world: &mut World, kit: &mut FakeKit| {
        for _ in 0..10 {
            world.pass(SECOND);
            kit.run(world);
        }
    };
    let (mut world, mut kit) = exposed();
    let open = r#"{"kind":"http","bindId":1,"method":"PUT","target":"/",
        "headers":[["content-length","3000000"]],"isUpgrade":false,"body":"length"}"#;
    let stream = kit.open(&mut world, open);
    let conn = world.accept();
    world.take(conn);
    kit.data(&mut world, stream, &[5; 100_000]);
    let wire = world.wires.get_mut(&conn).unwrap();
    (wire.full, wire.held) = (true, Some(100_000));
    kit.data(&mut world, stream, &[5; 60_000]);
    let session = world.client.reach.session.attached().unwrap();
    let theirs = world.client.local.exchanges.iter().next().unwrap().1.stream;
    let before = session.streams().last_moved(theirs).unwrap();
    pass(&mut world, &mut kit);
    let moved = |world: &World| {
        let session = world.client.reach.session.attached().unwrap();
        session.streams().last_moved(theirs).unwrap()
    };
    assert_eq!(moved(&world), before, "its system took none");
    world.wires.get_mut(&conn).unwrap().held = Some(99_000);
    pass(&mut world, &mut kit);
    let later = moved(&world);
    assert!(later > before, "it took some");
    pass(&mut world, &mut kit);
    assert_eq!(moved(&world), later, "once");
    assert_eq!(world.take(conn).len(), 100_000);
    // There is room, and nobody says so.
    world.wires.get_mut(&conn).unwrap().full = false;
    pass(&mut world, &mut kit);
    assert_eq!(world.take(conn).len(), 60_000);
}

#[test]
fn an_upgrade_becomes_raw_in_both_directions_after_the_101_only() {
    let (mut world, mut kit) = exposed();
    let open = r#"{"kind":"http","bindId":1,"method":"GET","target":"/ws",
        "headers":[["host","app.example"],["origin","https://app.example"],
        ["connection","Upgrade"],["upgrade","websocket"]],"isUpgrade":true,"body":"none"}"#;
    let stream = kit.open(&mut world, open);
    let conn = world.accept();
    assert_eq!(
        world.text(conn),
        "GET /ws HTTP/1.1\r\nhost: 127.0.0.1:3000\r\norigin: http://127.0.0.1:3000\r\n\
         connection: Upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
        connection: upgrade\r\n\r\nhello";
    answer(&mut world, &mut kit, conn, switch);
    assert!(kit.seen(stream).heads[0].contains(r#""status":101"#));
    assert_eq!(kit.seen(stream).data, b"hello");
    kit.data(&mut world, stream, b"raw");
    assert_eq!(world.take(conn), b"raw");
    kit.eof(&mut world, stream);
    assert!(world.wires[&conn].finished, "half-close is passed on");
    answer(&mut world, &mut kit, conn, b"bye");
    world.fin(conn);
    kit.run(&mut world);
    assert_eq!(kit.seen(stream).data, b"hellobye");
    assert!(kit.seen(stream).eof);
    assert_eq!(world.is_closed(conn), Some(CloseHow::Clean));
    assert_eq!(record(&mut world).status, Some(101));
}

#[test]
fn a_101_that_nobody_asked_for_is_a_broken_server() {
    let (mut world, mut kit) = exposed();
    let stream = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, stream);
    let conn = world.accept();
    let switch = b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    answer(&mut world, &mut kit, conn, switch);
    assert!(kit.seen(stream).heads[0].contains("502"));
    let page = String::from_utf8_lossy(&kit.seen(stream).data);
    assert!(
        page.contains("no answer that makes sense: it switched protocols"),
        "{page}"
    );
    assert_eq!(world.is_closed(conn), Some(CloseHow::Reset));
}

#[test]
fn an_early_response_ends_the_interest_in_the_request() {
    let (mut world, mut kit) = exposed();
    let open = r#"{"kind":"http","bindId":1,"method":"POST","target":"/","headers":[],
        "isUpgrade":false,"body":"chunked"}"#;
    let stream = kit.open(&mut world, open);
    let conn = world.accept();
    kit.data(&mut world, stream, b"some");
    answer(
        &mut world,
        &mut kit,
        conn,
        b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n",
    );
    assert!(kit.seen(stream).eof);
    assert!(world.is_closed(conn).is_some(), "its framing is open-ended");
    for _ in 0..50 {
        kit.data(&mut world, stream, &[0; 60_000]);
    }
    kit.eof(&mut world, stream);
    assert_eq!(world.client.local.exchanges.len(), 0);
}

#[test]
fn a_visitor_that_leaves_takes_the_request_with_it() {
    let (mut world, mut kit) = exposed();
    let stream = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, stream);
    let conn = world.accept();
    kit.reset(&mut world, stream);
    assert_eq!(world.is_closed(conn), Some(CloseHow::Clean));
    let upload = kit.open(&mut world, &get("/").replace("none", "chunked"));
    let conn = world.accept();
    kit.reset(&mut world, upload);
    assert_eq!(
        world.is_closed(conn),
        Some(CloseHow::Reset),
        "a cut request never looks whole"
    );
    assert_eq!(world.client.local.exchanges.len(), 0);
    assert!(record(&mut world).cut.is_some());
}

#[test]
fn hostile_opens_cost_their_stream_only() {
    let (mut world, mut kit) = exposed();
    for (json, wanted) in [
        ("{", "PROTOCOL_ERROR"),
        (r#"{"kind":"tcp","bindId":1}"#, "BIND_ERROR"),
        (
            r#"{"kind":"http","bindId":9,"method":"GET","target":"/"}"#,
            "BIND_ERROR",
        ),
        (
            r#"{"kind":"tcp","mode":"forward","host":"127.0.0.1","port":22}"#,
            "REFUSED_STREAM",
        ),
    ] {
        let stream = kit.open(&mut world, json);
        let reset = kit.seen(stream).reset.clone().unwrap_or_default();
        assert!(reset.starts_with(wanted), "{json}: {reset}");
    }
    for open in [
        get("/\\r\\nx: y"),
        get("http://elsewhere/"),
        get("/").replace("GET", "G T"),
        get("/").replace("app.example", "a\\r\\nb"),
        get("/").replace("\"none\"", "\"length\""),
    ] {
        let stream = kit.open(&mut world, &open);
        kit.eof(&mut world, stream);
        assert!(
            kit.seen(stream).heads[0].contains(r#""status":400"#),
            "{open}"
        );
        assert!(kit.seen(stream).eof);
    }
    assert!(world.dials.is_empty());
    assert_eq!(world.client.local.exchanges.len(), 0);
}

#[test]
fn a_local_server_whose_interim_heads_do_not_end_is_a_bad_gateway() {
    let (mut world, mut kit) = exposed();
    let stream = kit.open(&mut world, &get("/"));
    kit.eof(&mut world, stream);
    let conn = world.accept();
    let hint = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n",
        "x".repeat(8000)
    );
    for _ in 0..20 {
        answer(&mut world, &mut kit, conn, hint.as_bytes());
    }
    let heads = &kit.seen(stream).heads;
    assert_eq!(heads.len(), 9, "what fits 64 KiB, and the answer");
    assert!(heads[8].contains(r#""status":502"#));
    assert!(world.is_closed(conn).is_some());
    assert!(String::from_utf8_lossy(&kit.seen(stream).data).contains("interim heads do not end"));
}
