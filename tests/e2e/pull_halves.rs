//! Ends of connections: whatever either side of a PULL does, or of raw TCP that is exposed, the other
//! sees what it would see on a direct connection.

use crate::support::client::Hoody;
use crate::support::kit::Kit;
use crate::support::tcp::{TcpServer, reset};
use crate::support::{PATIENCE, becomes};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One side's part in a scene, step by step.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Send this many bytes.
    Send(usize),
    /// Read this many bytes.
    Read(usize),
    /// Read to the end, and note how it came.
    End,
    /// Half-close.
    Fin,
    /// Drop the connection with a reset.
    Rst,
    /// Let the other side act first. What is seen does not depend on it.
    Pause,
    /// Wait until the other side is there.
    Meet,
}

use Step::{End, Fin, Meet, Pause, Read as Take, Rst, Send};

/// Plays a part and notes everything that could be seen.
fn play(mut stream: TcpStream, steps: &[Step], met: &AtomicBool) -> Vec<String> {
    let mut notes = Vec::new();
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a TCP socket");
    for step in steps {
        match *step {
            Send(count) => {
                let sent = stream.write_all(&vec![b'x'; count]);
                notes.push(format!(
                    "sent {count}: {}",
                    sent.map_or("failed", |()| "all")
                ));
            }
            Take(count) => {
                let got = stream.read_exact(&mut vec![0; count]);
                notes.push(format!(
                    "read {count}: {:?}",
                    got.map_err(|error| error.kind())
                ));
            }
            End => notes.push(to_the_end(&mut stream)),
            Fin => {
                let _ = stream.shutdown(Shutdown::Write);
            }
            Rst => {
                reset(stream);
                return notes;
            }
            Meet => becomes("a meeting", true, || met.load(Ordering::Relaxed)),
            Pause => std::thread::sleep(Duration::from_millis(300)),
        }
    }
    notes
}

fn to_the_end(stream: &mut TcpStream) -> String {
    let (mut total, mut block) = (0, vec![0; 65_536]);
    loop {
        match stream.read(&mut block) {
            Ok(0) => return format!("{total} bytes, then FIN"),
            Ok(count) => total += count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return format!("{total} bytes, then RST");
            }
            Err(error) => return format!("{total} bytes, then {:?}", error.kind()),
        }
    }
}

/// Plays one scene against a port in front of `server_steps`, and tells what both saw.
fn scene(
    caller: &'static [Step],
    server: &'static [Step],
    through: Option<(&Kit, &[&str])>,
) -> (Vec<String>, Vec<String>) {
    let (sender, notes) = channel();
    let sender = Mutex::new(sender);
    let met = Arc::new(AtomicBool::new(false));
    let here = met.clone();
    let listener = TcpServer::start(move |stream| {
        here.store(true, Ordering::Relaxed);
        let seen = play(stream, server, &here);
        let _ = sender.lock().map(|sender| sender.send(seen));
    });
    let target = format!("127.0.0.1:{}", listener.port);
    let hoody = through.map(|(kit, how)| {
        let args = [how, &[&target, "--container-port", "0"]].concat();
        Hoody::start(kit, &args, 1)
    });
    let port = hoody.as_ref().map_or(listener.port, Hoody::port);
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("open");
    let ours = play(stream, caller, &met);
    let theirs = notes
        .recv_timeout(PATIENCE)
        .expect("the server's part ends");
    (ours, theirs)
}

const MIB: usize = 1 << 20;

/// Name, the caller's part, the server's part.
const SCENES: &[(&str, &[Step], &[Step])] = &[
    (
        "FIN, then data back",
        &[Send(10), Fin, End],
        &[End, Send(MIB), Fin],
    ),
    (
        "FIN at once, then data back",
        &[Fin, End],
        &[End, Pause, Send(3 * MIB), Fin],
    ),
    (
        "the server's FIN, then data to it",
        &[End, Send(MIB), Fin],
        &[Send(10), Fin, End],
    ),
    (
        "the server's FIN at once",
        &[End, Pause, Send(3 * MIB), Fin],
        &[Fin, End],
    ),
    ("both at once, nothing said", &[Fin, End], &[Fin, End]),
    (
        "much both ways",
        &[Send(100_000), Take(100_000), Fin, End],
        &[Take(100_000), Send(100_000), End, Fin],
    ),
    (
        "a greeting",
        &[Take(5), Send(5), Fin, End],
        &[Send(5), Take(5), End, Fin],
    ),
    (
        "the server's RST after its data",
        &[Take(1000), Send(1), End],
        &[Send(1000), Take(1), Rst],
    ),
    ("the server's RST at once", &[End], &[Pause, Rst]),
    (
        "the caller's RST after its data",
        &[Send(1000), Take(1), Rst],
        &[Take(1000), Send(1), End],
    ),
    ("the caller's RST at once", &[Meet, Rst], &[End]),
    (
        "the server's RST after the caller's FIN",
        &[Send(9), Fin, End],
        &[End, Pause, Rst],
    ),
    (
        "the caller's RST after the server's FIN",
        &[End, Pause, Rst],
        &[Send(9), Fin, Pause, End],
    ),
    (
        "FIN, a long silence, data",
        &[Send(1), Fin, End],
        &[End, Pause, Pause, Pause, Pause, Send(7), Fin],
    ),
];

#[test]
fn every_way_to_end_looks_like_a_direct_connection() {
    // Each scene has a client of its own, which is killed and so leaves a parked session.
    let kit = Kit::with(&["--max-sessions", "64"]);
    for (name, caller, server) in SCENES {
        let direct = scene(caller, server, None);
        for how in [&["pull"][..], &["expose", "--tcp"]] {
            let through = scene(caller, server, Some((&kit, how)));
            assert_eq!(through, direct, "{name}, {how:?}");
        }
    }
}
