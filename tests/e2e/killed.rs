//! What visitors and callers see of a kit that is killed in the middle, and that those whose end
//! was in order see nothing of it.

use crate::support::client::Hoody;
use crate::support::kit::Kit;
use crate::support::{Noise, PATIENCE};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

/// A local server that has `serve` answer each connection, on a thread of its own.
fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Reads a request's head, octet by octet.
fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut octet), Ok(1)) {
        head.push(octet[0]);
    }
}

fn lead(kit: &Kit, how: &str, port: u16) -> Hoody {
    let target = format!("127.0.0.1:{port}");
    Hoody::start(kit, &[how, &target, "--container-port", "0"], 1)
}

fn connect(port: u16, first: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(first.as_bytes()).expect("it is taken");
    stream
}

const GET: &str = "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n";

#[test]
fn a_body_without_a_length_and_a_raw_stream_are_reset_when_the_kit_is_killed() {
    let forever = |first: &'static str| {
        server(move |mut stream| {
            if !first.is_empty() {
                read_head(&mut stream);
            }
            let mut more = first.as_bytes();
            while stream.write_all(more).is_ok() {
                more = b"and on, ";
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    for how in ["expose", "pull"] {
        let mut kit = Kit::start();
        let first = match how {
            "expose" => "HTTP/1.0 200 OK\r\n\r\nit goes ",
            _ => "",
        };
        let hoody = lead(&kit, how, forever(first));
        let mut stream = connect(hoody.port(), if how == "expose" { GET } else { "" });
        let mut came = Vec::new();
        let mut piece = [0; 512];
        while !came.ends_with(b"and on, ") {
            let count = stream.read(&mut piece).expect("it goes on");
            assert_ne!(count, 0, "{how} ended by itself");
            came.extend(&piece[..count]);
        }
        kit.proc.signal(libc::SIGKILL);
        kit.proc.wait(PATIENCE);
        let end = loop {
            match stream.read(&mut piece) {
                Ok(1..) => {}
                end => break end,
            }
        };
        let kind = end.as_ref().map_err(std::io::Error::kind);
        assert_eq!(kind, Err(ErrorKind::ConnectionReset), "{how} looks whole");
    }
}

#[test]
fn ten_thousand_whole_bodies_without_a_length_end_in_order_and_raw_streams_too() {
    let kit = Kit::start();
    let body = Noise::bytes(3, 40_000);
    let sent = body.clone();
    let web = server(move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
        let _ = stream.write_all(&sent);
    });
    let raw = server(|mut stream| {
        let mut asked = Vec::new();
        let _ = stream.read_to_end(&mut asked);
        let _ = stream.write_all(&asked);
    });
    let exposed = lead(&kit, "expose", web);
    let pulled = lead(&kit, "pull", raw);
    let (exposed, pulled) = (exposed.port(), pulled.port());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..2500 {
                    let mut stream = connect(exposed, GET);
                    let mut came = Vec::new();
                    let end = stream.read_to_end(&mut came);
                    assert!(end.is_ok(), "round {round}: {end:?} after {}", came.len());
                    assert!(came.ends_with(&body), "round {round}: {}", came.len());
                }
            });
            scope.spawn(|| {
                for round in 0..500 {
                    let mut stream = connect(pulled, "an echo");
                    stream.shutdown(Shutdown::Write).expect("it stands");
                    let mut came = String::new();
                    let end = stream.read_to_string(&mut came);
                    assert!(end.is_ok(), "round {round}: {end:?} after {came}");
                    assert_eq!(came, "an echo", "round {round}");
                }
            });
        }
    });
}

#[test]
fn what_a_kit_had_finished_arrives_although_it_is_killed() {
    let mut kit = Kit::start();
    let body = Noise::bytes(3, 50_000);
    let sent = body.clone();
    let web = server(move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
        let _ = stream.write_all(&sent);
    });
    let hoody = lead(&kit, "expose", web);
    // It takes nothing until the kit, which is done with it, is gone.
    let mut stream = connect(hoody.port(), GET);
    hoody.wait_event(0, "request", PATIENCE);
    std::thread::sleep(Duration::from_millis(500));
    kit.proc.signal(libc::SIGKILL);
    kit.proc.wait(PATIENCE);
    let mut came = Vec::new();
    stream.read_to_end(&mut came).expect("it ends in order");
    assert!(came.ends_with(&body), "{} bytes came", came.len());
}
