//! Whoever reads what our programs print may stop, or go: nobody else notices.

use crate::support::client::{event, hoody, hoody_at};
use crate::support::http::{Reply, Talk};
use crate::support::kit::Kit;
use crate::support::proc::{Lines, Proc, kit_program, run};
use crate::support::tunnel::{RESET, Tunnel};
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, at_rest, eventually, free_port};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStderr, Command, Stdio};

/// A child that is ended with its test, whatever becomes of that.
struct Stuck(Child);

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stuck {
    #[track_caller]
    fn ends_well(&mut self, why: &str) {
        let status = eventually(why, PATIENCE, || self.0.try_wait().expect("our own child"));
        assert_eq!(status.code(), Some(0), "{why}");
    }

    fn terminate(&self) {
        // SAFETY: kill(2) takes two numbers; the pid is our own child's.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
    }
}

/// Makes a pipe hold as little as it can.
fn narrow(pipe: &impl AsRawFd) {
    // SAFETY: fcntl(2) on a descriptor of ours.
    let outcome = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert!(outcome >= 4096);
}

/// A kit that logs everything, and whose log nobody reads.
fn unread_kit() -> (Stuck, ChildStderr, u16) {
    let port = free_port();
    let mut child = Command::new(kit_program())
        .args(["--listen", &format!("127.0.0.1:{port}"), "--no-auth"])
        .env("HOODY_TUNNEL_LOG", "debug")
        .env_remove("HOODY_TUNNEL_TOKEN")
        .stderr(Stdio::piped())
        .spawn()
        .expect("our own program");
    let log = child.stderr.take().expect("it is piped");
    narrow(&log);
    let kit = Stuck(child);
    eventually("the kit listens", PATIENCE, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (kit, log, port)
}

fn ask(talk: &mut Talk, port: u16, path: &str) -> Reply {
    talk.say(format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
    ));
    talk.reply(false)
}

fn dropped(talk: &mut Talk, port: u16) -> u64 {
    let page = ask(talk, port, "/api/v1/tunnel/metrics").text();
    let name = "hoody_tunnel_log_lines_dropped_total ";
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.expect("the metric is there")
        .parse()
        .expect("a number")
}

/// Asks for nothing that there is, a line of the log each, until lines are dropped.
fn fill(port: u16) -> u64 {
    let mut talk = Talk::port(port);
    for _ in 0..20_000 {
        assert_eq!(ask(&mut talk, port, "/nowhere").status, 404);
    }
    dropped(&mut talk, port)
}

#[test]
fn a_kit_whose_log_is_not_read_serves_on_and_tells_what_was_dropped() {
    let (mut kit, log, port) = unread_kit();
    let before = fill(port);
    assert!(before > 0, "20,000 lines fit nowhere");
    let told = std::thread::spawn(move || {
        let lines = BufReader::new(log).lines().map_while(Result::ok);
        let lines: Vec<String> = lines.collect();
        let told = lines.iter().filter_map(|line| {
            let (count, _) = line.split_once(" lines dropped")?;
            count.rsplit(' ').next()?.parse::<u64>().ok()
        });
        (told.sum::<u64>(), lines)
    });
    // With a reader again no line is lost any more, and the last ones are out at the end.
    let mut talk = Talk::port(port);
    let after = eventually("the log is read again", PATIENCE, || {
        let count = dropped(&mut talk, port);
        ask(&mut talk, port, "/nowhere");
        (count == dropped(&mut talk, port)).then_some(count)
    });
    kit.terminate();
    kit.ends_well("the kit ends when it is asked to");
    let (told, lines) = told.join().expect("the reader reads");
    assert_eq!(told, after, "what was dropped and what the log says");
    let refused = |line: &&String| line.contains("INFO") && line.contains("refused 127.0.0.1");
    assert_eq!(
        lines.iter().filter(refused).count(),
        1,
        "the others are summed"
    );
    let sum = lines.iter().any(|line| line.contains(" more in "));
    assert!(sum, "the last lines: {:?}", &lines[lines.len() - 3..]);
}

#[test]
fn a_kit_whose_log_is_not_read_ends_at_the_first_sigterm() {
    let (mut kit, _log, port) = unread_kit();
    fill(port);
    kit.terminate();
    kit.ends_well("the kit ends when it is asked to");
}

#[test]
fn a_stranger_who_is_refused_a_hundred_times_writes_a_line_or_two() {
    let kit = Kit::start();
    for _ in 0..100 {
        let reply = kit.admin_with("GET", "sessions", "");
        assert_eq!(reply.status, 401);
    }
    let refused = |kit: &Kit| {
        let lines = kit.proc.err.all();
        lines
            .into_iter()
            .filter(|line| line.contains(" refused "))
            .collect::<Vec<_>>()
    };
    let sum = |line: &String| line.contains("refused 99 more in ") && line.contains("(auth)");
    let lines = eventually("the sum is told", PATIENCE, || {
        let lines = refused(&kit);
        lines.iter().any(sum).then_some(lines)
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("refused 127.0.0.1: "), "{lines:?}");
}

#[test]
fn a_peers_reason_is_short_and_harmless_in_the_log() {
    for format in ["text", "json"] {
        let kit = Kit::with(&["--log-format", format]);
        let mut owner = Tunnel::open(&kit);
        let (_, port) = owner.pull(0);
        let (mut caller, stream) = owner.called(port);
        let reason = format!("no\u{202e}\x1b[2J\n{}", "x".repeat(65_000));
        owner.frame(RESET, stream, &[&[0, 2], reason.as_bytes()].concat());
        assert!(caller.at_end());
        let line = kit.proc.err.wait_from(0, PATIENCE, |line| {
            line.contains("caller's stream from")
                .then(|| line.to_owned())
        });
        let line = line.unwrap_or_else(|| panic!("{}", kit.proc.said()));
        assert!(line.len() < 600 && line.contains("xx…"), "{line}");
        assert!(
            line.contains("202e") && !line.chars().any(char::is_control),
            "{line}"
        );
        assert!(!line.contains('\u{202e}'), "{line}");
        if format == "json" {
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert!(line["msg"].as_str().is_some_and(|text| text.contains("no")));
        }
    }
}

/// `hoody` that exposes a web server, and whose standard output nobody reads after the first line
/// about a binding.
fn unread_hoody(kit: &Kit, json: bool) -> (Stuck, BufReader<std::process::ChildStdout>, u16) {
    let web = Upstream::start(|exchange| {
        exchange.answer(200, "", b"hello");
        true
    });
    let target = format!("127.0.0.1:{}", web.port());
    // The server stays for the life of the test program.
    std::mem::forget(web);
    let port = free_port();
    let wanted = port.to_string();
    let mut command = hoody_at(kit, &["expose", &target, "--container-port", &wanted]);
    if json {
        command.arg("--json");
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("our own program");
    let out = child.stdout.take().expect("it is piped");
    narrow(&out);
    let child = Stuck(child);
    let mut out = BufReader::with_capacity(1, out);
    let mut line = String::new();
    while !line.contains(&wanted) {
        line.clear();
        assert!(
            out.read_line(&mut line).expect("a line") > 0,
            "it ended at once"
        );
    }
    (child, out, port)
}

/// More lines than wait for a reader, one for each visitor.
fn visit_many(port: u16) -> usize {
    let path = format!("/{}", "x".repeat(15_000));
    let mut talk = Talk::port(port);
    for _ in 0..250 {
        let reply = talk.get(&path);
        assert_eq!(reply.text(), "hello", "a visitor is served");
    }
    250
}

#[test]
fn visitors_are_served_while_nobody_reads_what_hoody_says() {
    let kit = Kit::start();
    for json in [true, false] {
        let (mut hoody, mut out, port) = unread_hoody(&kit, json);
        let visitors = visit_many(port);
        hoody.terminate();
        hoody.ends_well("the first SIGTERM is enough");
        let mut text = Vec::new();
        out.read_to_end(&mut text).expect("what was said");
        // The end came while the pipe was full, so the last line may be cut.
        assert!(text.len() < visitors * 15_000, "{} bytes", text.len());
    }
}

/// How often the threads of a process were given a processor.
fn turns_of_processor(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let told = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().last()?.parse::<u64>().ok()
    });
    told.sum()
}

/// How many requests these lines tell of, dropped ones counted, and how many of those were dropped.
fn accounted(lines: &[String]) -> (usize, usize) {
    let (mut requests, mut dropped) = (0, 0);
    for line in lines {
        let (name, value) = event(line).expect("JSON");
        requests += usize::from(name == "request");
        let message = value["message"].as_str().unwrap_or_default();
        if let Some((count, _)) = message.split_once(" lines were dropped here") {
            dropped += count.parse::<usize>().expect("a count");
        }
    }
    (requests + dropped, dropped)
}

#[test]
fn hoody_says_how_many_lines_nobody_read() {
    let kit = Kit::start();
    let (mut hoody, out, port) = unread_hoody(&kit, true);
    let visitors = visit_many(port);
    // What happened is said by a thread of its own, which may be behind.
    let id = hoody.0.id();
    at_rest("hoody", std::time::Duration::from_millis(400), || {
        turns_of_processor(id)
    });
    let lines = Lines::default();
    lines.follow(out);
    let (_, dropped) = eventually("every visitor is told of or counted", PATIENCE, || {
        let accounted = accounted(&lines.all());
        (accounted.0 == visitors).then_some(accounted)
    });
    assert!(
        dropped > 0,
        "2 MiB of lines do not hold {visitors} of 15 kB"
    );
    hoody.terminate();
    hoody.ends_well("it ends when it is asked to");
    let closed = |line: &str| event(line).filter(|(name, _)| name == "closed");
    assert!(
        lines.wait_from(0, PATIENCE, closed).is_some(),
        "its last words"
    );
}

#[test]
fn hoody_ends_when_the_reader_of_its_lines_has_gone() {
    let kit = Kit::start();
    let (mut hoody, out, port) = unread_hoody(&kit, true);
    drop(out);
    let mut talk = Talk::port(port);
    talk.get("/");
    hoody.ends_well("nobody reads: that is an end like another");
}

#[test]
fn what_cannot_be_printed_is_no_panic() {
    let full = || {
        File::options()
            .write(true)
            .open("/dev/full")
            .expect("Linux has it")
    };
    let programs: [fn() -> Command; 2] = [|| Command::new(kit_program()), hoody];
    for program in programs {
        for flag in ["--help", "--version"] {
            let output = run(program().arg(flag).stdout(full()));
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{flag}: {said}");
            assert!(said.contains("cannot print"), "{flag}: {said}");
            assert_eq!(said.lines().count(), 1, "{flag}: {said}");
            let output = run(program().arg(flag).stdout(full()).stderr(full()));
            assert_eq!(
                output.status.code(),
                Some(1),
                "{flag} and nowhere to complain"
            );
        }
        let output = run(program().arg("--nonsense").stderr(full()));
        assert_eq!(output.status.code(), Some(2));
    }
    for (program, name) in [
        (kit_program(), "kit"),
        (crate::support::proc::hoody_program(), ""),
    ] {
        for flag in ["--help", "--version"] {
            // A reader that is gone before the first byte, and no standard output at all.
            for redirect in ["| true", ">&-"] {
                let script = format!("\"$0\" {flag} {redirect}; exit ${{PIPESTATUS[0]}}");
                let output = run(Command::new("bash").args(["-c", &script, program]));
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(
                    !said.contains("panicked"),
                    "{name} {flag} {redirect}: {said}"
                );
                assert!(
                    matches!(output.status.code(), Some(0 | 1)),
                    "{name} {flag} {redirect}"
                );
            }
        }
    }
}

#[test]
fn a_kit_without_standard_error_runs() {
    let port = free_port();
    let script = format!("exec \"$0\" --listen 127.0.0.1:{port} --no-auth 2>&-");
    let mut kit = Proc::spawn(
        "kit",
        Command::new("bash").args(["-c", &script, kit_program()]),
    );
    eventually("the kit listens", PATIENCE, || {
        assert!(kit.running(), "{}", kit.said());
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
}

#[test]
fn answers_that_cannot_be_printed_are_failures_that_are_told() {
    let kit = Kit::start();
    let full = || File::options().write(true).open("/dev/full");
    for args in [
        &["health"][..],
        &["health", "-o", "json"],
        &["metrics"],
        &["list"],
        &["list", "--json"],
        &["sessions", "list"],
        &["bindings", "list", "--json"],
    ] {
        let mut command = hoody_at(&kit, args);
        let output = run(command.stdout(full().expect("Linux has it")));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("cannot print"), "{args:?}: {said}");
    }
    let listen = format!("127.0.0.1:{}", kit.port);
    let mut command = Command::new(kit_program());
    command.args(["health", "--listen", &listen]);
    let output = run(command.stdout(full().expect("Linux has it")));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot print"), "{said}");
}
