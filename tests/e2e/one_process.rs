//! A kit inside `hoody`: both halves of the tunnel live on the descriptors of one process.

use crate::support::client::{Hoody, hoody};
use crate::support::http::Talk;
use crate::support::proc::Proc;
use crate::support::tcp::connect_from;
use crate::support::upstream::Upstream;
use crate::support::{Noise, PATIENCE, TempDir, eventually};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// `hoody tunnel ARGS… --json` without a kit, under this `ulimit -n`.
fn alone(open_files: u32, args: &[&str]) -> Command {
    let inner = hoody();
    let mut command = Command::new("bash");
    let script = format!("ulimit -n {open_files}; exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(inner.get_program());
    for (name, _) in inner.get_envs() {
        command.env_remove(name);
    }
    command.arg("tunnel").args(args).arg("--json");
    command
}

/// A visitor with an address of its own asks, and does not read yet.
fn asks(number: u8, port: u16, path: &str) -> Talk {
    let mut talk = Talk::over(connect_from(Ipv4Addr::new(127, 0, 7, number), port));
    talk.say(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    talk
}

/// Newcomers are served or told to come again, all of them at once.
fn newcomers_are_answered(port: u16, path: &str) {
    for number in 200..206 {
        let since = Instant::now();
        let reply = asks(number, port, path).reply(false);
        let took = since.elapsed();
        assert!(took < Duration::from_secs(3), "{took:?}: {reply:?}");
        match reply.status {
            200 => {}
            503 => assert!(reply.field("retry-after").is_some(), "{reply:?}"),
            other => panic!("a newcomer got {other}"),
        }
    }
}

fn turned_away(hoody: &Hoody) {
    let text = "turned away with 503";
    let told = |line: &str| line.contains(text).then_some(());
    let found = hoody.proc.out.wait_from(0, PATIENCE, told);
    assert!(found.is_some(), "nobody was told\n{}", hoody.proc.said());
}

#[test]
fn slow_downloads_leave_an_answer_to_newcomers_whatever_the_limit() {
    let dir = TempDir::new();
    Noise::file(&dir.write("large", b""), 7, 16 << 20);
    dir.write("small", b"quick\n");
    let path = dir.path().display().to_string();
    for (open_files, slow) in [(64, 60), (128, 100), (256, 200)] {
        let hoody = Hoody::from_command(&mut alone(open_files, &["serve", &path]), 1);
        let limit = format!("the limit of open files is {open_files}");
        let told = |line: &str| line.contains(&limit).then_some(());
        assert!(hoody.proc.out.wait_from(0, PATIENCE, told).is_some());
        let held: Vec<Talk> = (0..slow)
            .map(|number| asks(number % 40, hoody.port(), "/large"))
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        newcomers_are_answered(hoody.port(), "/small");
        turned_away(&hoody);
        drop(held);
        eventually("it serves again", PATIENCE, || {
            let reply = asks(210, hoody.port(), "/small").reply(false);
            (reply.status == 200).then_some(())
        });
    }
}

#[test]
fn one_address_takes_only_its_share_of_a_kit_inside_hoody() {
    let dir = TempDir::new();
    Noise::file(&dir.write("large", b""), 7, 16 << 20);
    dir.write("small", b"quick\n");
    let path = dir.path().display().to_string();
    let hoody = Hoody::from_command(&mut alone(128, &["serve", &path]), 1);
    let _held: Vec<Talk> = (0..100).map(|_| asks(1, hoody.port(), "/large")).collect();
    std::thread::sleep(Duration::from_millis(500));
    for number in 2..5 {
        let reply = asks(number, hoody.port(), "/small").reply(false);
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

#[test]
fn a_slow_local_server_leaves_an_answer_to_newcomers() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let door = Arc::clone(&gate);
    let upstream = Upstream::start(move |exchange| {
        let (open, news) = &*door;
        let guard = open.lock().expect("nobody panics");
        drop(news.wait_while(guard, |open| !*open));
        exchange.answer(200, "", b"served\n");
        true
    });
    let target = format!("127.0.0.1:{}", upstream.port());
    let hoody = Hoody::from_command(&mut alone(128, &["expose", &target]), 1);
    let mut held: Vec<Talk> = (0..100)
        .map(|number| asks(number % 40, hoody.port(), "/"))
        .collect();
    turned_away(&hoody);
    // More of them than newcomers find room beside.
    let mut newcomer = asks(200, hoody.port(), "/");
    let silent = newcomer.silent_for(Duration::from_secs(3));
    *gate.0.lock().expect("nobody panics") = true;
    gate.1.notify_all();
    assert!(!silent, "a newcomer got no answer");
    assert_eq!(newcomer.reply(false).status, 503);
    let served = held.iter_mut().map(|talk| talk.reply(false).status);
    assert!(served.filter(|status| *status == 200).count() > 20);
}

#[test]
fn too_few_descriptors_for_a_kit_inside_hoody_are_a_sentence_and_code_2() {
    for open_files in [24, 40, 50] {
        let mut proc = Proc::spawn("hoody", &mut alone(open_files, &["serve", "/tmp"]));
        assert_eq!(proc.wait(PATIENCE).code(), Some(2), "{}", proc.said());
        let said = proc.said();
        let limit = format!("hoody: the limit of open files is {open_files} (ulimit -n)");
        assert!(said.contains(&limit), "{said}");
    }
}
