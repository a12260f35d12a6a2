//! What a laptop shares among its visitors: connections, descriptors, logins.

use crate::support::client::{Hoody, hoody_at};
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::upstream::{Exchange, Upstream};
use crate::support::{Noise, PATIENCE, TempDir, eventually};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

/// Answers `/quick` at once, and everything else only when it is told to.
struct Patient {
    upstream: Upstream,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Patient {
    fn start() -> Patient {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let door = Arc::clone(&gate);
        let upstream = Upstream::start(move |exchange| {
            if exchange.request.target != "/quick" {
                let (open, news) = &*door;
                let guard = open.lock().expect("nobody panics");
                drop(news.wait_while(guard, |open| !*open));
            }
            exchange.answer(200, "", b"served\n");
            true
        });
        Patient { upstream, gate }
    }

    fn release(&self) {
        *self.gate.0.lock().expect("nobody panics") = true;
        self.gate.1.notify_all();
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        self.release();
    }
}

fn hold(port: u16) -> Talk {
    let mut talk = Talk::port(port);
    talk.say("GET /held HTTP/1.1\r\nHost: visitor.test\r\n\r\n");
    talk
}

#[test]
fn more_than_five_hundred_visitors_are_served_at_once() {
    let kit = Kit::start();
    let patient = Patient::start();
    let hoody = Hoody::expose(&kit, patient.upstream.port());
    let mut held: Vec<Talk> = (0..530).map(|_| hold(hoody.port())).collect();
    for _ in 0..530 {
        patient.upstream.next();
    }
    assert_eq!(Talk::port(hoody.port()).get("/quick").status, 200);
    patient.release();
    for talk in &mut held {
        assert_eq!(talk.reply(false).status, 200);
    }
}

#[test]
fn a_laptop_short_of_descriptors_says_so_and_answers_503() {
    let kit = Kit::start();
    let patient = Patient::start();
    let target = format!("127.0.0.1:{}", patient.upstream.port());
    let args = ["expose", &target, "--container-port", "0", "--json"];
    let inner = hoody_at(&kit, &args);
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -n 72; exec \"$@\"", "bash"]);
    command.arg(inner.get_program()).args(inner.get_args());
    let hoody = Hoody::from_command(&mut command, 1);
    let mark = hoody.mark();
    let mut held: Vec<Talk> = (0..80).map(|_| hold(hoody.port())).collect();
    let notice = hoody.wait_event(mark, "notice", PATIENCE);
    let message = notice["message"].as_str().expect("a sentence").to_owned();
    assert!(message.contains("turned away with 503"), "{message}");
    patient.release();
    let replies: Vec<_> = held.iter_mut().map(|talk| talk.reply(false)).collect();
    let refused: Vec<_> = replies.iter().filter(|one| one.status == 503).collect();
    assert!(!refused.is_empty() && refused.len() < 80);
    for reply in refused {
        assert_eq!(reply.field("retry-after").as_deref(), Some("1"));
        let text = reply.text();
        assert!(text.contains("The tunnel is busy"), "{text}");
    }
    assert!(replies.iter().all(|one| [200, 503].contains(&one.status)));
    eventually("it serves again", PATIENCE, || {
        let reply = Talk::port(hoody.port()).get("/quick");
        (reply.status == 200).then_some(())
    });
}

/// Who is logged in on which connection.
type LoggedIn = Mutex<BTreeMap<SocketAddr, String>>;

/// A server that takes NTLM's three messages, believes every name, and then serves whatever comes
/// on the connection as that person.
fn believes_ntlm() -> Upstream {
    let people = Arc::new(LoggedIn::default());
    Upstream::start(move |exchange| {
        exchange.body();
        let conn = exchange.talk.stream.peer_addr().expect("it stands");
        ntlm(exchange, conn, &people);
        true
    })
}

fn ntlm(exchange: &mut Exchange, conn: SocketAddr, people: &LoggedIn) {
    let mut people = people.lock().expect("nobody panics");
    let field = exchange.request.field("authorization");
    let token = field.and_then(|value| value.strip_prefix("NTLM ").map(from_base64));
    match token {
        // Negotiate: the challenge follows (MS-NLMP 2.2.1.2), in bytes and not in UTF-16.
        Some(token) if token.get(8) == Some(&1) => {
            let mut challenge = b"NTLMSSP\0\x02\0\0\0".to_vec();
            challenge.extend([0, 0, 0, 0, 48, 0, 0, 0]);
            challenge.extend(0x0000_0202_u32.to_le_bytes());
            challenge.extend(*b"8 octets");
            challenge.resize(48, 0);
            let field = format!("WWW-Authenticate: NTLM {}\r\n", to_base64(&challenge));
            exchange.answer(401, &field, b"");
        }
        Some(token) => {
            let number = |at: usize| usize::from(u16::from_le_bytes([token[at], token[at + 1]]));
            let (length, offset) = (number(36), number(40));
            let name = String::from_utf8_lossy(&token[offset..offset + length]).into_owned();
            exchange.answer(200, "", format!("you are {name}").as_bytes());
            people.insert(conn, name);
        }
        None => match people.get(&conn) {
            Some(name) => exchange.answer(200, "", format!("you are {name}").as_bytes()),
            None => exchange.answer(401, "WWW-Authenticate: NTLM\r\n", b"who are you?"),
        },
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..piece.len()].copy_from_slice(piece);
        let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) & 63;
            let padding = digit > piece.len();
            text.push(if padding {
                '='
            } else {
                char::from(ALPHABET[index as usize])
            });
        }
    }
    text
}

fn from_base64(text: &str) -> Vec<u8> {
    let (mut bytes, mut word, mut bits) = (Vec::new(), 0_u32, 0);
    for octet in text.bytes() {
        let Some(value) = ALPHABET.iter().position(|one| *one == octet) else {
            continue;
        };
        word = word << 6 | value as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
        }
    }
    bytes
}

/// `curl` as `name`, twice over one connection; what it got.
fn curl_as(name: &str, port: u16) -> Command {
    let url = format!("http://127.0.0.1:{port}/");
    let mut command = Command::new("curl");
    command.args([
        "-sS",
        "--max-time",
        "20",
        "--ntlm",
        "-u",
        &format!("{name}:secret"),
    ]);
    command.args([&url, &url]);
    command
}

#[test]
fn logins_of_many_at_once_succeed_and_no_stranger_is_taken_for_one_of_them() {
    let kit = Kit::start();
    let upstream = believes_ntlm();
    let hoody = Hoody::expose(&kit, upstream.port());
    let port = hoody.port();
    for _ in 0..3 {
        let names: Vec<String> = (0..8).map(|number| format!("alice{number}")).collect();
        let logins: Vec<_> = names
            .iter()
            .map(|name| {
                let mut command = curl_as(name, port);
                std::thread::spawn(move || command.output().expect("curl is installed"))
            })
            .collect();
        for (name, login) in names.iter().zip(logins) {
            let output = login.join().expect("no thread panics");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{output:?}");
            assert_eq!(text, format!("you are {name}").repeat(2));
        }
        for _ in 0..20 {
            let reply = Talk::port(port).get("/");
            assert_eq!(reply.status, 401, "a stranger got: {}", reply.text());
        }
    }
}

#[test]
fn slow_downloads_and_idle_visitors_of_a_served_directory_hold_up_nobody() {
    // Windows in which all of them find room, so that only the laptop can hold anybody up.
    let windows = ["--stream-initial-window", "256KiB"];
    let session = ["--session-initial-window", "64MiB"];
    let kit = Kit::with(&[windows, session].concat());
    let dir = TempDir::new();
    Noise::file(&dir.write("large", b""), 7, 4 << 20);
    dir.write("small", b"quick\n");
    let path = dir.path().display().to_string();
    let hoody = Hoody::start(&kit, &["serve", &path, "--container-port", "0"], 1);
    let mut held: Vec<Talk> = (0..100)
        .map(|_| {
            let mut talk = Talk::port(hoody.port());
            talk.say("GET /large HTTP/1.1\r\nHost: visitor.test\r\n\r\n");
            // It reads the beginning, and then nothing more for now.
            talk.head().expect("the download begins");
            talk
        })
        .collect();
    let idle: Vec<Talk> = (0..100)
        .map(|_| {
            let mut talk = Talk::port(hoody.port());
            assert_eq!(talk.get("/small").text(), "quick\n");
            talk
        })
        .collect();
    let mut uploads: Vec<Talk> = (0..100)
        .map(|_| {
            let mut talk = Talk::port(hoody.port());
            talk.say("PUT /x HTTP/1.1\r\nHost: visitor.test\r\nContent-Length: 9\r\n\r\nslow");
            talk
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(Talk::port(hoody.port()).get("/small").text(), "quick\n");
    }
    for talk in &mut uploads {
        talk.say("-body");
        assert_eq!(talk.reply(false).status, 405);
    }
    drop(idle);
    let whole = std::fs::read(dir.join("large")).expect("it is there");
    for talk in held.iter_mut().take(5) {
        let body = talk.take(whole.len());
        assert!(body == whole, "what was slow came whole");
    }
}
