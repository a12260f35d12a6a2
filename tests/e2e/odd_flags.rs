//! Flags, files and variables that nobody in their right mind would give: an error in one sentence,
//! never a panic, and never a secret on a page.

use crate::support::client::{Hoody, hoody, hoody_at};
use crate::support::http::Talk;
use crate::support::kit::{Kit, TOKEN};
use crate::support::proc::{Proc, kit_program, run};
use crate::support::{PATIENCE, TempDir, eventually, free_port};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

/// `program` with `args`, ended when it does not end by itself.
fn within(program: &str, args: &[OsString]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("20").arg(program).args(args);
    for name in ["HOODY_TUNNEL_URL", "HOODY_TUNNEL_TOKEN", "HOODY_TUNNEL_LOG"] {
        command.env_remove(name);
    }
    command
}

#[track_caller]
fn assert_refused(what: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    let shown: String = said.chars().take(300).collect();
    assert!(
        matches!(output.status.code(), Some(1 | 2)),
        "{what}: {:?} {shown}",
        output.status
    );
    assert!(
        !said.contains("panicked") && !said.trim().is_empty(),
        "{what}: {shown}"
    );
    assert!(
        !said.contains('\u{1b}') && !said.contains('\u{202e}'),
        "{what}: {shown}"
    );
}

fn words(args: &[&str]) -> Vec<OsString> {
    args.iter().map(OsString::from).collect()
}

/// Files that hold no token and no certificate.
fn odd_files(dir: &TempDir) -> Vec<(&'static str, OsString)> {
    dir.write("huge", vec![b'x'; 4 << 20]);
    dir.write("binary", [0xff, 0xfe, 0, 1]);
    dir.write("empty", "");
    dir.write("blank", " \n");
    dir.write("lines", "two\nlines\n");
    let pipe = dir.join("pipe");
    assert!(run(Command::new("mkfifo").arg(&pipe)).status.success());
    let mut files: Vec<(&str, OsString)> = [
        "huge", "binary", "empty", "blank", "lines", "pipe", "missing",
    ]
    .map(|name| (name, dir.join(name).into()))
    .into();
    files.push(("a directory", dir.path().into()));
    files.push(("zeroes without end", "/dev/zero".into()));
    files.push(("no name", "".into()));
    files.push(("no text", OsString::from_vec(b"/tmp/\xff\x1b[2J".to_vec())));
    files
}

#[test]
fn no_file_makes_a_program_panic_or_wait_for_ever() {
    let (kit, dir) = (Kit::start(), TempDir::new());
    for (what, file) in odd_files(&dir) {
        let mut args = words(&[
            "tunnel",
            "expose",
            "3000",
            "--url",
            &kit.url(),
            "--token-file",
        ]);
        args.push(file.clone());
        let output = run(&mut within(hoody().get_program().to_str().unwrap(), &args));
        assert_refused(&format!("hoody --token-file {what}"), &output);
        // A token of several words is one that no client can send, but no error of the kit's.
        if !["blank", "lines"].contains(&what) {
            let listen = format!("127.0.0.1:{}", free_port());
            let mut args = words(&["--listen", &listen, "--token-file"]);
            args.push(file.clone());
            assert_refused(
                &format!("kit --token-file {what}"),
                &run(&mut within(kit_program(), &args)),
            );
        }
        let mut args = words(&[
            "tunnel",
            "expose",
            "3000",
            "--url",
            "wss://127.0.0.1:1",
            "--ca",
        ]);
        args.push(file);
        args.extend(words(&["--retry-for", "1ms"]));
        let output = run(&mut within(hoody().get_program().to_str().unwrap(), &args));
        assert_refused(&format!("hoody --ca {what}"), &output);
    }
}

#[test]
fn no_length_and_no_number_makes_a_program_panic() {
    let kit = Kit::start();
    let long = "x".repeat(70_000);
    let url = |rest: &str| format!("ws://{rest}");
    let wide = format!("A: {long}");
    let many: [&[&str]; 25] = [
        &["expose", "3000", "--label", &long],
        &["expose", "3000", "--host-header", &long],
        &["expose", "3000", "--header", &wide],
        &["expose", "3000", "--header", "no colon"],
        &["expose", "3000", "--header", ": no name"],
        &["expose", "3000", "--header", "Host: a"],
        &["expose", "3000", "--header", "Connection: close"],
        &["expose", "3000", "--header", "A: b\r\nC: d"],
        &["pull", "3000", "--label", &long],
        &["pull", "3000", "--host", &long],
        &["serve", "/tmp", "--label", &long],
        &["serve", &long],
        &["expose", &long],
        &["expose", "3000", "--keepalive", "99999999999999999999h"],
        &["expose", "3000", "--retry-for", "99999999999999999999"],
        &["expose", "3000", "--replay-buffer", "10GiB"],
        &["expose", "3000", "--max-head", "1GiB"],
        &["serve", "/tmp", "--max-fields", "1001"],
        &["up", "--expose", "3000=4000", "--expose", "3001=4000"],
        &[
            "up",
            "--pull",
            "3000",
            "--pull",
            "3001=3000",
            "--container",
            "far",
        ],
        &["expose", "3000", "--connections", "0"],
        &["expose", "3000", "--connections", "4294967295"],
        &["expose", "3000", "--container-port", "-1"],
        &["sessions", "kill", &long],
        &["sessions", "kill", "S-\u{202e}\u{1b}[2J"],
    ];
    for args in many {
        let mut command = Command::new("timeout");
        command.arg("20").arg(hoody().get_program());
        command.args(hoody_at(&kit, args).get_args());
        let output = run(&mut command);
        let what: String = args.join(" ").chars().take(60).collect();
        assert_refused(&what, &output);
        if args[0] != "sessions" {
            // Nothing was started for what could not work.
            assert_eq!(output.status.code(), Some(2), "{what}");
            assert!(output.stdout.is_empty(), "{what}: {output:?}");
        }
    }
    for url in [
        url(&long),
        url(&format!("127.0.0.1:{}/{long}", kit.port)),
        url(&format!("127.0.0.1:{}/?{long}", kit.port)),
        url("[::1"),
        url("127.0.0.1:99999"),
        url("127.0.0.1:0"),
        url(""),
        url("\u{202e}\u{1b}[2J/"),
        String::new(),
    ] {
        let args = [
            "tunnel",
            "expose",
            "3000",
            "--retry-for",
            "1ms",
            "--url",
            &url,
        ];
        let output = run(&mut within(
            hoody().get_program().to_str().unwrap(),
            &words(&args),
        ));
        let shown: String = url.chars().take(40).collect();
        // Without a URL a kit of its own is started: that is no error.
        if !url.is_empty() {
            assert_refused(&format!("--url {shown}"), &output);
        }
        let args = ["tunnel", "health", "--container", &url];
        let output = run(&mut within(
            hoody().get_program().to_str().unwrap(),
            &words(&args),
        ));
        assert_refused(&format!("--container {shown}"), &output);
    }
    for args in [
        &["--max-sessions", "18446744073709551615"][..],
        &["--max-bindings-per-session", "18446744073709551615"],
        &["--max-streams-per-session", "18446744073709551615"],
        &["--max-connections-per-session", "18446744073709551615"],
        &["--max-pre-auth-connections", "18446744073709551615"],
        &["--fd-budget", "18446744073709551615"],
        &["--fd-budget", "0"],
        &["--stall-budget", "99999999999999999999G"],
        &["--hello-timeout", "99999999999999999999h"],
        &["--takeover-grace", "18446744073709551615h"],
        &["--public-url-pattern", &long],
        &["--public-url-pattern", "http://\u{202e}{port}"],
        &["--listen", &long],
        &["--expose-host", &long],
        &[&long],
    ] {
        let mut all = words(&["--listen", &format!("127.0.0.1:{}", free_port())]);
        if args[0] == "--listen" {
            all.clear();
        }
        all.extend(words(args));
        let what: String = args.join(" ").chars().take(60).collect();
        assert_refused(
            &format!("kit {what}"),
            &run(&mut within(kit_program(), &all)),
        );
    }
}

#[test]
fn what_is_not_utf_8_is_an_error_and_no_panic() {
    let odd = OsString::from_vec(b"\xff\xfe".to_vec());
    for program in [kit_program(), hoody().get_program().to_str().unwrap()] {
        assert_refused(
            program,
            &run(&mut within(program, std::slice::from_ref(&odd))),
        );
    }
    let listen = format!("127.0.0.1:{}", free_port());
    for name in [
        "HOODY_TUNNEL_TOKEN",
        "HOODY_TUNNEL_PUBLIC_URL_PATTERN",
        "HOODY_TUNNEL_LISTEN",
    ] {
        let args = match name {
            "HOODY_TUNNEL_LISTEN" => Vec::new(),
            _ => words(&["--listen", &listen]),
        };
        let output = run(within(kit_program(), &args).env(name, &odd));
        assert_refused(name, &output);
    }
    // Least of all a tunnel to somewhere else, or without the token.
    let expose = words(&["tunnel", "expose", "3000", "--retry-for", "1ms"]);
    for name in ["HOODY_TUNNEL_URL", "HOODY_TUNNEL_TOKEN"] {
        let program = hoody().get_program().to_owned();
        let mut command = within(program.to_str().unwrap(), &expose);
        command
            .env("HOODY_TUNNEL_URL", "ws://127.0.0.1:1")
            .env(name, &odd);
        let output = run(&mut command);
        assert_refused(name, &output);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(name),
            "{output:?}"
        );
    }
}

#[test]
fn a_token_may_come_from_a_pipe_that_gives_it_once() {
    let kit = Kit::start();
    let script = format!(
        "exec \"$0\" tunnel expose 3000 --container-port 0 --url {} --json \
         --token-file <(sleep 0.2; echo {TOKEN})",
        kit.url()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(hoody().get_program());
    let hoody = Hoody::from_command(&mut command, 1);
    assert!(hoody.proc.err.all().is_empty(), "{}", hoody.proc.said());
    let port = free_port();
    let script = format!("exec \"$0\" --listen 127.0.0.1:{port} --token-file <(echo {TOKEN})");
    let kit = Proc::spawn(
        "kit",
        Command::new("bash").args(["-c", &script, kit_program()]),
    );
    let told = |line: &str| line.contains("listening on").then_some(());
    kit.err
        .wait_from(0, PATIENCE, told)
        .unwrap_or_else(|| panic!("{}", kit.said()));
}

#[test]
fn a_level_that_does_not_exist_is_told() {
    let port = free_port();
    let mut command = Command::new(kit_program());
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--no-auth"]);
    command
        .env("HOODY_TUNNEL_LOG", "loud")
        .env_remove("HOODY_TUNNEL_TOKEN");
    let kit = Proc::spawn("kit", &mut command);
    let told = |line: &str| {
        line.contains("HOODY_TUNNEL_LOG=loud is none of")
            .then_some(())
    };
    kit.err
        .wait_from(0, PATIENCE, told)
        .unwrap_or_else(|| panic!("{}", kit.said()));
}

#[test]
fn the_token_is_on_no_page_of_the_directory_that_holds_it() {
    let (kit, site) = (Kit::start(), TempDir::new());
    let token = site.write("token", format!("{TOKEN}\n"));
    let ca = site.join("ca.pem");
    let made = run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-subj", "/CN=kit", "-keyout", "/dev/null", "-out"])
        .arg(&ca));
    assert!(made.status.success(), "{made:?}");
    std::fs::hard_link(&token, site.join("copy")).unwrap();
    symlink("token", site.join("link")).unwrap();
    site.write(".env", "hidden");
    symlink(".env", site.join("env")).unwrap();
    site.write("page.txt", "page");
    let mut command = hoody();
    command.args(["tunnel", "serve"]).arg(site.path());
    command
        .args(["--url", &kit.url(), "--json", "--token-file"])
        .arg(&token);
    command.arg("--ca").arg(&ca);
    let hoody = Hoody::from_command(&mut command, 1);
    let mut talk = Talk::port(hoody.port());
    assert_eq!(talk.get("/page.txt").text(), "page");
    for path in ["/token", "/copy", "/link", "/ca.pem", "/env", "/.env"] {
        let reply = talk.get(path);
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
    }
    let listing = talk.get("/").text();
    assert!(listing.contains("page.txt"), "{listing}");
    for name in ["token", "copy", "link", "ca.pem", "env"] {
        assert!(!listing.contains(name), "{name} is listed: {listing}");
    }
}

/// What a program says about a token file of this content and mode at its start.
fn said_at_start(mut command: Command, file: &Path, content: &str, mode: u32) -> Proc {
    std::fs::write(file, content).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    command.arg("--token-file").arg(file);
    Proc::spawn("program", &mut command)
}

#[test]
fn a_short_token_and_an_open_file_are_warned_of() {
    let (dir, port) = (TempDir::new(), free_port());
    let file = dir.join("token");
    let kit = || {
        let mut command = Command::new(kit_program());
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command
    };
    let client = || {
        let mut command = hoody();
        let url = format!("ws://127.0.0.1:{port}");
        command.args([
            "tunnel",
            "expose",
            "3000",
            "--container-port",
            "0",
            "--url",
            &url,
        ]);
        command
    };
    let listening = |kit: &Proc| {
        let found = kit.err.wait_from(0, PATIENCE, |line| {
            line.contains("listening on").then_some(())
        });
        found.unwrap_or_else(|| panic!("{}", kit.said()));
        kit.err.all()
    };
    let long = "0123456789abcdef";
    for (content, mode, warning) in [
        (long, 0o600, None),
        ("short", 0o600, Some("can be guessed")),
        (long, 0o644, Some("chmod 600")),
        (long, 0o620, Some("chmod 600")),
    ] {
        let kit = said_at_start(kit(), &file, content, mode);
        let lines = listening(&kit);
        let warns = |lines: &[String], part| lines.iter().any(|line| line.contains(part));
        assert_eq!(warns(&lines, "WARN"), warning.is_some(), "{lines:?}");
        let hoody = said_at_start(client(), &file, content, mode);
        let first = |line: &str| line.contains("http://127.0.0.1:").then_some(());
        hoody
            .out
            .wait_from(0, PATIENCE, first)
            .unwrap_or_else(|| panic!("{}", hoody.said()));
        let told = hoody.err.all();
        assert_eq!(warns(&told, "warning"), warning.is_some(), "{told:?}");
        if let Some(part) = warning {
            assert!(
                warns(&lines, part) && warns(&told, part),
                "{lines:?} {told:?}"
            );
        }
        assert!(
            !warns(&lines, content) && !warns(&told, content),
            "the token itself"
        );
        drop((kit, hoody));
        eventually("the port is free again", PATIENCE, || {
            std::net::TcpListener::bind(("127.0.0.1", port)).ok()
        });
    }
}
