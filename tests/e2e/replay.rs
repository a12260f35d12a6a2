//! The way between client and kit is cut again and again, and nobody who is being served notices.

use crate::support::cutter::{Cut, Cutter};
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::tcp::TcpServer;
use crate::support::upstream::Upstream;
use crate::support::{Noise, PATIENCE, becomes, long};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Cuts every so often, as long as `work` lasts. Gives how many connections that cost.
fn under_cuts(cutter: &Cutter, every: Duration, work: impl FnOnce() + Send) -> usize {
    let (done, cuts) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut noise = Noise::new(5);
            while !done.load(Ordering::SeqCst) {
                std::thread::sleep(every + Duration::from_millis(noise.word() % 50));
                let how = match noise.word() % 2 {
                    0 => Cut::Reset,
                    _ => Cut::Fin,
                };
                let at = noise
                    .word()
                    .is_multiple_of(2)
                    .then(|| noise.word() as usize % 16);
                cuts.fetch_add(cutter.cut(how, at), Ordering::SeqCst);
            }
        });
        // The cutter must end also where the work fails.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::SeqCst);
        if let Err(failed) = result {
            std::panic::resume_unwind(failed);
        }
    });
    cuts.load(Ordering::SeqCst)
}

/// A server whose downloads come in pieces for a while, and that says what of an upload came.
fn slow_server(size: usize, pieces: usize) -> Upstream {
    Upstream::start(move |exchange| {
        if exchange.request.method == "POST" {
            let body = exchange.body();
            let same = body == Noise::bytes(9, body.len());
            exchange.answer(200, "", format!("{} {same}", body.len()).as_bytes());
            return true;
        }
        let bytes = Noise::bytes(3, size);
        let chunked = exchange.request.target.contains("chunked");
        exchange.talk.say(match chunked {
            true => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            false => format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"),
        });
        for piece in bytes.chunks(size / pieces) {
            let went = match chunked {
                true => exchange.chunk(piece),
                false => exchange.talk.say_into_the_void(piece),
            };
            if !went {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        !chunked || exchange.talk.say_into_the_void("0\r\n\r\n")
    })
}

fn survives(lanes: &str) {
    let kit = Kit::start();
    let cutter = Cutter::before(&kit);
    let (size, pieces) = (20 << 20, 150);
    let upstream = slow_server(size, pieces);
    let target = format!("127.0.0.1:{}", upstream.port());
    let args = [
        "expose",
        &target,
        "--container-port",
        "0",
        "--connections",
        lanes,
    ];
    let hoody = cutter.hoody(&kit, &args, 1);
    let port = hoody.port();
    let rounds = if long() { 20 } else { 1 };
    let cuts = under_cuts(&cutter, Duration::from_millis(250), || {
        std::thread::scope(|scope| {
            for path in ["/length", "/chunked", "/length", "/chunked"] {
                scope.spawn(move || {
                    for _ in 0..rounds {
                        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
                        let reply = served(port, &head).reply(false);
                        assert_eq!(reply.status, 200, "{path}");
                        assert!(reply.body == Noise::bytes(3, size), "{path}: other bytes");
                    }
                });
            }
            scope.spawn(move || {
                for _ in 0..rounds {
                    let body = Noise::bytes(9, 8 << 20);
                    let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
                    let mut talk = served(port, &format!("{head}Host: a\r\n\r\n"));
                    for piece in body.chunks(body.len() / pieces) {
                        talk.say(piece);
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    let reply = talk.reply(false);
                    assert_eq!(reply.text(), format!("{} true", body.len()));
                }
            });
        });
    });
    assert!(cuts >= 5, "{cuts} cuts are few");
    println!("{cuts} connections of {lanes} lanes were cut");
    becomes("streams", 0, || {
        kit.metric("hoody_streams_active", "") as u64
    });
}

/// A visitor that has said this and is served: newcomers are told to come again while the client
/// is away.
fn served(port: u16, head: &str) -> Talk {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut talk = Talk::port(port);
        talk.say(head);
        talk.silent_for(Duration::from_millis(200));
        if !talk.rest.starts_with(b"HTTP/1.1 503") {
            return talk;
        }
        assert!(Instant::now() < until, "nobody is let in");
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[test]
fn downloads_and_uploads_survive_cuts_of_their_only_connection() {
    survives("1");
}

#[test]
fn downloads_and_uploads_survive_cuts_of_four_connections() {
    survives("4");
}

#[test]
fn a_raw_connection_through_pull_survives_cuts() {
    let kit = Kit::start();
    let cutter = Cutter::before(&kit);
    let echo = TcpServer::start(|mut stream| {
        let mut twin = stream.try_clone().expect("descriptors are left");
        let _ = std::io::copy(&mut stream, &mut twin);
    });
    let target = format!("127.0.0.1:{}", echo.port);
    let args = ["pull", &target, "--container-port", "0"];
    let hoody = cutter.hoody(&kit, &args, 1);
    let mut caller = TcpStream::connect((Ipv4Addr::LOCALHOST, hoody.port())).expect("it listens");
    caller
        .set_read_timeout(Some(PATIENCE))
        .expect("a TCP socket");
    let cuts = under_cuts(&cutter, Duration::from_millis(150), || {
        let mut noise = Noise::new(77);
        for round in 0..60 {
            let mut sent = vec![0; 1 + (noise.word() % 100_000) as usize];
            noise.fill(&mut sent);
            let mut twin = caller.try_clone().expect("descriptors are left");
            let bytes = sent.clone();
            let writer = std::thread::spawn(move || twin.write_all(&bytes));
            let mut got = vec![0; sent.len()];
            caller.read_exact(&mut got).expect("the echo");
            writer.join().expect("no panic").expect("it is taken");
            assert!(got == sent, "round {round}: other bytes came back");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(cuts >= 5, "{cuts} cuts are few");
    caller.shutdown(Shutdown::Write).expect("it is open");
    let mut rest = Vec::new();
    caller.read_to_end(&mut rest).expect("a clean end");
    assert!(rest.is_empty());
}
