//! What people type: flags, exit codes, lines.

use crate::support::client::{Hoody, event, hoody, hoody_at};
use crate::support::http::Talk;
use crate::support::kit::{Kit, TOKEN};
use crate::support::proc::{Proc, kit_program, run};
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, TempDir, eventually, free_port};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn web() -> Upstream {
    Upstream::start(|exchange| {
        let body = exchange.body();
        exchange.answer(200, "", if body.is_empty() { b"hello" } else { &body });
        true
    })
}

#[test]
fn wrong_usage_exits_with_2_before_any_socket() {
    for args in [
        &["tunnel", "expose"][..],
        &["tunnel", "expose", "not a target"],
        &["tunnel", "expose", "99999"],
        &["tunnel", "expose", "0"],
        &["tunnel", "expose", "3000", "--container-port", "x"],
        &["tunnel", "expose", "3000", "--container-port", "70000"],
        &["tunnel", "expose", "3000", "--no-such-flag"],
        &["tunnel", "expose", "3000", "--url", "ftp://host"],
        &["tunnel", "expose", "3000", "--url", "nonsense"],
        &["tunnel", "nothing"],
        &["tunnel", "up"],
        &["nothing"],
        &[],
    ] {
        let output = run(Command::new("timeout")
            .arg("60")
            .arg(hoody().get_program())
            .args(args));
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
        assert!(!text(&output).is_empty(), "{args:?} says what is wrong");
    }
    for args in [
        &["--help"][..],
        &["--version"],
        &["tunnel", "--help"],
        &["tunnel", "expose", "--help"],
    ] {
        let output = run(hoody().args(args));
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(
            !output.stdout.is_empty(),
            "{args:?} is answered on standard output"
        );
    }
}

#[test]
fn the_kit_refuses_what_it_cannot_do() {
    let kit = |args: &[&str]| {
        let mut command = Command::new("timeout");
        command
            .arg("60")
            .arg(kit_program())
            .args(args)
            .env_remove("HOODY_TUNNEL_TOKEN");
        run(&mut command)
    };
    let output = kit(&["--listen", "0.0.0.0:0"]);
    assert!(
        matches!(output.status.code(), Some(1 | 2)),
        "no token on all addresses: {output:?}"
    );
    let said = text(&output);
    for way in ["--no-auth", "--token-file", "127.0.0.1"] {
        assert!(
            said.contains(way),
            "the message tells the way out {way}: {said}"
        );
    }
    for args in [
        &["--max-sessions", "0"][..],
        &["--max-sessions", "x"],
        &["--stream-initial-window", "1000"],
        &["--hello-timeout", "5 parsecs"],
        &["--max-streams-per-session", "99999999999"],
        &["--log-format", "xml"],
        &["--listen", "nowhere"],
        &["--token-file", "/does/not/exist"],
        &["--no-such-flag"],
    ] {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut all = args.to_vec();
        if !args.contains(&"--listen") {
            all.extend(["--listen", &listen]);
        }
        let output = kit(&all);
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "{args:?}: {output:?}"
        );
        assert!(!output.stderr.is_empty(), "{args:?} says what is wrong");
        assert!(
            !text(&output).contains("panicked"),
            "{args:?}: {}",
            text(&output)
        );
    }
    let running = Kit::start();
    let output = kit(&["--listen", &format!("127.0.0.1:{}", running.port)]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "the port is in use: {output:?}"
    );
    assert_eq!(
        text(&output).trim().lines().count(),
        1,
        "one clear line: {}",
        text(&output)
    );
    assert_eq!(kit(&["--version"]).status.code(), Some(0));
}

#[test]
fn the_kits_environment_means_what_its_flags_mean() {
    let start = |port: u16, auth: &str| {
        let mut command = Command::new(kit_program());
        command.args(["--listen", &format!("0.0.0.0:{port}")]);
        command.env_remove("HOODY_TUNNEL_TOKEN");
        match auth {
            "token" => command.env("HOODY_TUNNEL_TOKEN", TOKEN),
            _ => command.arg("--no-auth"),
        };
        command.env("HOODY_TUNNEL_PUBLIC_URL_PATTERN", "https://p{port}.example");
        let kit = Proc::spawn("kit", &mut command);
        eventually("the kit listens", PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        kit
    };
    let status = |port: u16| {
        let mut talk = Talk::port(port);
        talk.say("GET /api/v1/tunnel/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        talk.reply(false).status
    };
    let port = free_port();
    let kit = start(port, "token");
    assert_eq!(
        status(port),
        401,
        "the token of the environment is asked for"
    );
    let upstream = web();
    let mut command = hoody();
    command.args([
        "tunnel",
        "expose",
        &upstream.port().to_string(),
        "--container-port",
        "0",
    ]);
    command.args(["--json", "--url", &format!("ws://127.0.0.1:{port}")]);
    let client = Hoody::from_command(command.env("HOODY_TUNNEL_TOKEN", TOKEN), 1);
    assert_eq!(
        client.ready[0]["publicUrl"],
        format!("https://p{}.example", client.port())
    );
    drop((client, kit));
    let port = free_port();
    let _open = start(port, "--no-auth");
    assert_eq!(status(port), 200);
}

#[test]
fn json_lines_tell_ready_request_and_closed() {
    let upstream = web();
    let kit = Kit::with(&["--public-url-pattern", "https://p{port}.example"]);
    let mut hoody = Hoody::expose(&kit, upstream.port());
    let ready = &hoody.ready[0];
    assert!(ready["bindId"].as_u64().is_some_and(|id| id > 0), "{ready}");
    assert_eq!(
        ready["publicUrl"],
        format!("https://p{}.example", hoody.port())
    );
    let mark = hoody.mark();
    Talk::port(hoody.port()).get("/path?q=1");
    let request = hoody.wait_event(mark, "request", PATIENCE);
    assert_eq!(
        (&request["method"], &request["status"]),
        (&"GET".into(), &200.into())
    );
    assert!(
        request["path"]
            .as_str()
            .is_some_and(|path| path.starts_with("/path")),
        "{request}"
    );
    hoody.proc.signal(libc::SIGINT);
    assert_eq!(hoody.proc.wait(PATIENCE).code(), Some(0), "asked to stop");
    hoody.wait_event(mark, "closed", PATIENCE);
    for line in hoody.proc.out.all() {
        assert!(event(&line).is_some(), "not an event: {line}");
    }
}

#[test]
fn people_see_the_address_and_a_line_a_request() {
    let upstream = web();
    let kit = Kit::start();
    let port = free_port();
    let target = upstream.port().to_string();
    let args = ["expose", &target, "--container-port", &port.to_string()];
    let mut client = Proc::spawn("hoody", &mut hoody_at(&kit, &args));
    let found = client.out.wait_from(0, PATIENCE, |line| {
        line.contains(&port.to_string()).then_some(())
    });
    assert!(found.is_some(), "the address is shown\n{}", client.said());
    eventually("it answers", PATIENCE, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    Talk::port(port).get("/seen");
    let line = client.out.wait_from(0, PATIENCE, |line| {
        line.contains("/seen").then(|| line.to_owned())
    });
    let line = line.unwrap_or_else(|| panic!("no line for the request\n{}", client.said()));
    assert!(line.contains("GET") && line.contains("200"), "{line}");
    assert!(
        !line.contains('\u{1b}'),
        "plain when it is no terminal: {line:?}"
    );
    client.signal(libc::SIGTERM);
    assert_eq!(client.wait(PATIENCE).code(), Some(0));
    let quiet_port = free_port().to_string();
    let quiet_args = [
        "expose",
        &target,
        "--container-port",
        &quiet_port,
        "--quiet",
    ];
    let mut quiet = Proc::spawn("hoody", &mut hoody_at(&kit, &quiet_args));
    eventually("it answers", PATIENCE, || {
        std::net::TcpStream::connect(("127.0.0.1", quiet_port.parse().unwrap_or(0))).ok()
    });
    Talk::port(quiet_port.parse().expect("a port")).get("/unseen");
    quiet.signal(libc::SIGTERM);
    assert_eq!(quiet.wait(PATIENCE).code(), Some(0));
    assert!(!quiet.said().contains("/unseen"), "{}", quiet.said());
}

#[test]
fn refusals_end_it_at_once_with_1_and_the_reason() {
    let kit = Kit::start();
    let other = Kit::start();
    let dir = TempDir::new();
    let wrong = dir.write("wrong", "not-the-token").display().to_string();
    let mut command = hoody();
    command.args([
        "tunnel",
        "expose",
        "3000",
        "--url",
        &kit.url(),
        "--token-file",
        &wrong,
    ]);
    let output = run(Command::new("timeout")
        .arg("60")
        .arg(command.get_program())
        .args(command.get_args()));
    assert_eq!(
        output.status.code(),
        Some(1),
        "a wrong token: {}",
        text(&output)
    );
    assert!(
        text(&output).to_lowercase().contains("token"),
        "{}",
        text(&output)
    );
    let args = ["expose", "3000", "--container-port", "443"];
    let output = run(&mut hoody_at(&other, &args));
    assert_eq!(
        output.status.code(),
        Some(1),
        "a refused bind: {}",
        text(&output)
    );
    assert!(
        text(&output).contains("PRIVILEGED_PORT"),
        "{}",
        text(&output)
    );
    let nobody = format!("ws://127.0.0.1:{}/api/v1/tunnel/connect", free_port());
    let mut command = hoody();
    command.args([
        "tunnel",
        "expose",
        "3000",
        "--url",
        &nobody,
        "--retry-for",
        "1s",
    ]);
    let output = run(&mut command);
    assert_eq!(
        output.status.code(),
        Some(1),
        "nobody there: {}",
        text(&output)
    );
}

#[test]
fn the_token_and_the_url_come_from_the_environment_too() {
    let upstream = web();
    let kit = Kit::start();
    let mut command = hoody();
    command
        .env("HOODY_TUNNEL_URL", kit.url())
        .env("HOODY_TUNNEL_TOKEN", TOKEN);
    command.args(["tunnel", "expose", &upstream.port().to_string()]);
    command.args(["--container-port", "0", "--json"]);
    let hoody = Hoody::from_command(&mut command, 1);
    assert_eq!(Talk::port(hoody.port()).get("/").text(), "hello");
}

#[test]
fn every_way_to_write_a_target_works() {
    let upstream = web();
    let kit = Kit::start();
    let port = upstream.port();
    for target in [
        format!("{port}"),
        format!(":{port}"),
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
    ] {
        let hoody = Hoody::start(&kit, &["expose", &target, "--container-port", "0"], 1);
        assert_eq!(
            Talk::port(hoody.port()).get("/").text(),
            "hello",
            "{target}"
        );
    }
    let six = Upstream::on((std::net::Ipv6Addr::LOCALHOST, 0).into(), |exchange| {
        exchange.answer(200, "", b"six");
        true
    });
    let target = format!("[::1]:{}", six.port());
    let hoody = Hoody::start(&kit, &["expose", &target, "--container-port", "0"], 1);
    assert_eq!(Talk::port(hoody.port()).get("/").text(), "six");
    let mut command = crate::support::client::hoody();
    command.args([
        "tunnel",
        "expose",
        &port.to_string(),
        "--container-port",
        "0",
        "--json",
    ]);
    command
        .args(["--container", &format!("127.0.0.1:{}", kit.port)])
        .env("HOODY_TUNNEL_TOKEN", TOKEN);
    let hoody = Hoody::from_command(&mut command, 1);
    assert_eq!(
        Talk::port(hoody.port()).get("/").text(),
        "hello",
        "--container builds the URL"
    );
}

/// A web server that has an answer when it is told to.
fn held() -> (Sender<()>, Upstream) {
    let (finish, told) = channel();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |exchange| {
        let told = told.lock().expect("one request at a time");
        told.recv_timeout(PATIENCE).expect("the test says when");
        exchange.answer(200, "", b"finished");
        true
    });
    (finish, upstream)
}

#[test]
fn ctrl_c_waits_for_requests_and_a_second_one_does_not() {
    let (finish, upstream) = held();
    let kit = Kit::start();
    for times in [1, 2] {
        let mut hoody = Hoody::expose(&kit, upstream.port());
        let mut talk = Talk::port(hoody.port());
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.next();
        let mark = hoody.mark();
        hoody.proc.signal(libc::SIGINT);
        hoody.wait_event(mark, "notice", PATIENCE);
        if times == 1 {
            finish.send(()).expect("the upstream waits");
            assert_eq!(talk.reply(false).text(), "finished");
        } else {
            hoody.proc.signal(libc::SIGINT);
            let reply = talk.try_reply(false);
            finish.send(()).expect("the upstream waits");
            assert!(
                reply.is_none_or(|reply| reply.status == 502),
                "it did not wait"
            );
        }
        assert_eq!(hoody.proc.wait(PATIENCE).code(), Some(0));
        kit.has_sessions(0);
    }
}

#[test]
fn a_kit_that_is_asked_to_stop_lets_requests_finish() {
    let (finish, upstream) = held();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut kit = Kit::start();
        let hoody = Hoody::expose(&kit, upstream.port());
        let mut talk = Talk::port(hoody.port());
        talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.next();
        kit.proc.signal(signal);
        eventually("nobody else is served", PATIENCE, || {
            let late = Talk::port(hoody.port()).get("/late");
            (late.status == 503).then_some(())
        });
        finish.send(()).expect("the upstream waits");
        assert_eq!(talk.reply(false).text(), "finished");
        assert_eq!(kit.proc.wait(PATIENCE).code(), Some(0));
    }
}

#[test]
fn a_full_disk_under_its_output_is_a_failure_that_is_told() {
    let (kit, web) = (Kit::start(), web());
    let target = web.port().to_string();
    let full = std::fs::File::create("/dev/full").expect("/dev/full opens");
    let mut command = hoody_at(&kit, &["expose", &target, "--container-port", "0"]);
    let child = command.stdout(full).stderr(std::process::Stdio::piped());
    let output = child
        .spawn()
        .and_then(|child| child.wait_with_output())
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("cannot print"), "{}", text(&output));
}
