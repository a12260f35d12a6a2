//! The public library against a real kit, over real sockets on loopback.

#[path = "../shared/mod.rs"]
#[allow(dead_code)]
mod shared;
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hoody_tunnel::client::{
    self, AdminRequest, BindErrCode, BindOptions, Error, Request, Response, SessionEvent, Target,
    TunnelOptions, TunnelSession,
};

use shared::{PATIENCE, eventually, free_port};
use support::{Relay, RunningKit, get, pattern, request, service, wait_for};

fn echo(mut request: Request) -> Response {
    let mut body = Vec::new();
    request.body.read_to_end(&mut body).unwrap();
    Response::new(200)
        .header("x-target", request.target.clone())
        .bytes(body)
}

#[test]
fn a_handler_is_served_and_bodies_of_any_size_pass() {
    let kit = RunningKit::start(|_| {});
    let tunnel = client::serve(kit.options(), 0, echo).unwrap();
    let port = tunnel.binding.container_port;
    let bytes = pattern(20_000_000);
    assert!(request(port, "POST", "/up", &bytes) == (200, bytes));
    let streams = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..32)
        .map(|n: usize| {
            let streams = Arc::clone(&streams);
            std::thread::spawn(move || {
                for round in 0..20 {
                    let body = pattern(n * 1000 + round);
                    assert!(request(port, "PUT", "/x", &body) == (200, body));
                    streams.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(streams.load(Ordering::Relaxed), 640);
    tunnel.close().unwrap();
    is_released(port);
}

#[test]
fn more_visitors_than_a_handler_has_threads_take_turns() {
    let kit = RunningKit::start(|_| {});
    let tunnel = client::serve(kit.options(), 0, |_| {
        std::thread::sleep(Duration::from_millis(30));
        Response::text(200, "ok")
    })
    .unwrap();
    let port = tunnel.binding.container_port;
    let start = Instant::now();
    let threads: Vec<_> = (0..150)
        .map(|_| {
            std::thread::spawn(move || {
                (0..6)
                    .map(|_| {
                        let since = Instant::now();
                        assert_eq!(get(port, "/"), (200, b"ok".to_vec()));
                        since.elapsed()
                    })
                    .max()
            })
        })
        .collect();
    let slowest = threads
        .into_iter()
        .filter_map(|thread| thread.join().unwrap())
        .max();
    // A turn is a sixth of it all. Who waits for most of it waits until the others are done.
    let whole = start.elapsed();
    assert!(
        slowest < Some(whole * 3 / 4),
        "somebody waited for {slowest:?} of {whole:?}"
    );
}

#[test]
fn a_streamed_response_arrives_as_it_is_made() {
    let kit = RunningKit::start(|_| {});
    let (tell, told) = std::sync::mpsc::channel::<Vec<u8>>();
    let told = std::sync::Mutex::new(Some(told));
    let tunnel = client::serve(kit.options(), 0, move |_| {
        Response::new(200).stream(Pieces(told.lock().unwrap().take().unwrap()))
    })
    .unwrap();
    let mut visitor = TcpStream::connect(("127.0.0.1", tunnel.binding.container_port)).unwrap();
    visitor.set_read_timeout(Some(PATIENCE)).unwrap();
    visitor
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut seen = Vec::new();
    for n in 0..20 {
        let piece = format!("data: {n}\n\n");
        tell.send(piece.clone().into_bytes()).unwrap();
        while !String::from_utf8_lossy(&seen).contains(&piece) {
            let mut buf = [0; 4096];
            let count = visitor.read(&mut buf).unwrap();
            assert!(count > 0);
            seen.extend_from_slice(&buf[..count]);
        }
    }
}

#[test]
fn a_handler_that_panics_costs_its_visitor_and_not_the_tunnel() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            panic!("the body was told to")
        }
    }
    let kit = RunningKit::start(|_| {});
    let tunnel = client::serve(kit.options(), 0, |request| match request.path() {
        "/panics" => panic!("the handler was told to"),
        "/breaks" => Response::new(200).reader(Broken, 5),
        _ => Response::text(200, "ok"),
    })
    .unwrap();
    let port = tunnel.binding.container_port;
    // More often than there are threads, so that one lost each time would be noticed.
    for _ in 0..100 {
        assert_eq!(get(port, "/panics").0, 500);
        let mut visitor = TcpStream::connect(("127.0.0.1", port)).unwrap();
        visitor.set_read_timeout(Some(PATIENCE)).unwrap();
        visitor
            .write_all(b"GET /breaks HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .unwrap();
        if let Err(error) = visitor.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    assert_eq!(get(port, "/"), (200, b"ok".to_vec()));
    tunnel.close().unwrap();
}

struct Pieces(std::sync::mpsc::Receiver<Vec<u8>>);

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let piece = self.0.recv().unwrap_or_default();
        buf[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

#[test]
fn a_local_server_may_come_and_go() {
    let kit = RunningKit::start(|_| {});
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let tunnel = client::expose(kit.options(), 0, free).unwrap();
    let port = tunnel.binding.container_port;
    let (status, text) = get(port, "/");
    assert_eq!(status, 502);
    assert!(String::from_utf8(text).unwrap().contains(&free.to_string()));
    let listener = std::net::TcpListener::bind(free).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let count = stream.read(&mut head).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .unwrap();
        String::from_utf8_lossy(&head[..count]).into_owned()
    });
    assert_eq!(get(port, "/"), (200, b"ok".to_vec()));
    assert!(
        server
            .join()
            .unwrap()
            .contains(&format!("host: {free}\r\n"))
    );
    assert_eq!(get(port, "/").0, 502);
}

#[test]
fn a_pull_passes_bytes_and_half_closes() {
    let kit = RunningKit::start(|_| {});
    let local = service(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    });
    let tunnel = client::pull(kit.options(), 0, local).unwrap();
    let port = tunnel.binding.container_port;
    for len in [0, 1, 3_000_000] {
        let mut caller = TcpStream::connect(("127.0.0.1", port)).unwrap();
        caller.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = pattern(len);
        caller.write_all(&bytes).unwrap();
        caller.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        caller.read_to_end(&mut back).unwrap();
        bytes.reverse();
        assert!(back == bytes, "{len} bytes came back as {}", back.len());
    }
}

#[test]
fn a_cut_connection_is_resumed_with_its_bindings() {
    let kit = RunningKit::start(|_| {});
    let relay = Relay::start(kit.addr);
    let options = TunnelOptions::new(format!("ws://{}", relay.addr)).token("t0ken");
    let tunnel = client::serve(options, 0, echo).unwrap();
    let (events, port) = (tunnel.session.events(), tunnel.binding.container_port);
    let id = tunnel.session.id();
    for _ in 0..5 {
        assert_eq!(get(port, "/").0, 200);
        relay.cut();
        wait_for(&events, |event| matches!(event, SessionEvent::Lost { .. }));
        wait_for(&events, |event| {
            matches!(event, SessionEvent::Resumed { .. })
        });
    }
    assert_eq!(get(port, "/").0, 200);
    assert_eq!(tunnel.session.id(), id);
}

#[test]
fn a_connection_that_went_silent_is_replaced() {
    let kit = RunningKit::start(|_| {});
    let relay = Relay::start(kit.addr);
    let options = TunnelOptions::new(format!("ws://{}", relay.addr)).token("t0ken");
    let tunnel = client::serve(options, 0, echo).unwrap();
    let (events, port) = (tunnel.session.events(), tunnel.binding.container_port);
    assert_eq!(get(port, "/").0, 200);
    relay.freeze();
    wait_for(&events, |event| {
        matches!(event, SessionEvent::Resumed { .. })
    });
    assert_eq!(get(port, "/").0, 200);
}

#[test]
fn a_kit_that_comes_back_empty_gets_the_same_port_bound_again() {
    // Nobody else may have the port while no kit is there.
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let kit = RunningKit::start(|config| config.listen = listen);
    let tunnel = client::serve(kit.options(), 0, echo).unwrap();
    let (events, port) = (tunnel.session.events(), tunnel.binding.container_port);
    drop(kit);
    wait_for(&events, |event| matches!(event, SessionEvent::Lost { .. }));
    let _kit = RunningKit::start(|config| config.listen = listen);
    wait_for(&events, |event| {
        matches!(event, SessionEvent::Bound { again: true, .. })
    });
    assert_eq!(get(port, "/").0, 200);
}

#[test]
fn a_port_is_taken_over_without_a_refused_visitor() {
    let kit = RunningKit::start(|_| {});
    let old = client::serve(kit.options(), 0, |_| Response::text(200, "old")).unwrap();
    let port = old.binding.container_port;
    let events = old.session.events();
    let new = TunnelSession::connect(kit.options()).unwrap();
    let bind = || BindOptions::expose(port).handler(|_| Response::text(200, "new"));
    let Err(Error::Bind { code, .. }) = new.bind(bind()) else {
        panic!("the port was given twice");
    };
    assert_eq!(code, BindErrCode::AlreadyBound);
    new.bind(bind().takeover(true)).unwrap();
    wait_for(&events, |event| {
        matches!(event, SessionEvent::TakenOver { .. })
    });
    assert_eq!(get(port, "/"), (200, b"new".to_vec()));
}

#[test]
fn several_connections_carry_one_session() {
    let kit = RunningKit::start(|_| {});
    let options = kit.options().connections(4);
    let tunnel = client::serve(options, 0, echo).unwrap();
    let events = tunnel.session.events();
    wait_for(&events, |event| {
        matches!(event, SessionEvent::Lanes { standing: 4, .. })
    });
    let port = tunnel.binding.container_port;
    let threads: Vec<_> = (0..8)
        .map(|n| {
            std::thread::spawn(move || {
                let body = pattern(3_000_000 + n);
                assert!(request(port, "POST", "/", &body) == (200, body));
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn several_bindings_share_a_session_and_one_can_go() {
    let kit = RunningKit::start(|_| {});
    let session = TunnelSession::connect(kit.options()).unwrap();
    let text = |text: &'static str| move |_: Request| Response::text(200, text);
    let one = session
        .bind(BindOptions::expose(0).handler(text("one")))
        .unwrap();
    let two = session
        .bind(BindOptions::expose(0).handler(text("two")))
        .unwrap();
    assert_eq!(get(one.container_port, "/").1, b"one");
    assert_eq!(get(two.container_port, "/").1, b"two");
    session.unbind(&one).unwrap();
    is_released(one.container_port);
    assert_eq!(get(two.container_port, "/").1, b"two");
    assert!(session.unbind(&one).is_err(), "it is gone already");
    session.close().unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let kit = RunningKit::start(|config| config.max_sessions = 1);
    let wrong = TunnelOptions::new(format!("ws://{}", kit.addr)).token("guess");
    let refused = TunnelSession::connect(wrong).unwrap_err();
    assert_eq!(refused.kind(), "auth", "{refused}");
    let elsewhere = TunnelOptions::new(format!("ws://{}/nowhere", kit.addr)).token("t0ken");
    let refused = TunnelSession::connect(elsewhere).unwrap_err();
    assert!(refused.to_string().contains("404"), "{refused}");
    let _one = TunnelSession::connect(kit.options()).unwrap();
    let refused = TunnelSession::connect(kit.options()).unwrap_err();
    assert_eq!(refused.kind(), "session-limit", "{refused}");
    let port = BindOptions::expose(50).to("3000".parse::<Target>().unwrap());
    let Err(Error::Bind { code, .. }) = _one.bind(port) else {
        panic!("a reserved port was bound");
    };
    assert_eq!(code, BindErrCode::ReservedPort);
}

#[test]
fn an_operator_sees_and_ends_a_session_which_stays_away() {
    let kit = RunningKit::start(|_| {});
    let tunnel = client::serve(kit.options(), 0, echo).unwrap();
    let ask = |request: &AdminRequest| client::fetch(&kit.options(), request, PATIENCE).unwrap();
    assert!(ask(&AdminRequest::Health).is_ok());
    let id = tunnel.session.id().unwrap();
    let listed = ask(&AdminRequest::Sessions);
    assert!(String::from_utf8(listed.body).unwrap().contains(&id));
    let events = tunnel.session.events();
    let reply = ask(&AdminRequest::Kill {
        session_id: id.clone(),
        grace_ms: None,
        ban: None,
    });
    assert_eq!(reply.status, 202);
    wait_for(&events, |event| {
        matches!(
            event,
            SessionEvent::Closed {
                error: Some(Error::Closed(_))
            }
        )
    });
    assert!(tunnel.wait().is_err());
    let stranger = TunnelOptions::new(format!("ws://{}", kit.addr));
    let reply = client::fetch(&stranger, &AdminRequest::Sessions, PATIENCE).unwrap();
    assert_eq!(reply.status, 401);
}

#[test]
fn dropping_a_handle_closes_the_session() {
    let kit = RunningKit::start(|_| {});
    let tunnel = client::serve(kit.options(), 0, echo).unwrap();
    let port = tunnel.binding.container_port;
    let events = tunnel.session.events();
    drop(tunnel);
    assert!(
        events
            .into_iter()
            .any(|event| event == SessionEvent::Closed { error: None })
    );
    is_released(port);
}

/// Waits until nobody listens on a port any more.
#[track_caller]
fn is_released(port: u16) {
    eventually("the port is released", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).err()
    });
}
