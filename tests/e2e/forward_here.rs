//! Services of the container at ports of this machine, as `hoody` opens them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::support::client::{Hoody, hoody, hoody_at};
use crate::support::cutter::{Cut, Cutter};
use crate::support::kit::{Kit, KitPlan};
use crate::support::proc::{bash, run};
use crate::support::servers::{redis, sshd};
use crate::support::tcp::TcpServer;
use crate::support::{Noise, PATIENCE, free_port};

/// The port of this machine that leads to the first target.
fn port(hoody: &Hoody) -> u16 {
    let said = hoody.wait_event(0, "forwarding", PATIENCE);
    let port = said["localPort"].as_u64().expect("a port");
    u16::try_from(port).expect("ports have 16 bits")
}

/// A server that sends back what it gets, up to the end.
fn echo() -> TcpServer {
    TcpServer::start(|mut stream| {
        let mut back = stream.try_clone().expect("descriptors are left");
        let _ = std::io::copy(&mut stream, &mut back);
        let _ = back.shutdown(Shutdown::Write);
    })
}

/// What comes back of `bytes` from the port, up to the end.
fn there_and_back(port: u16, bytes: Vec<u8>) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut writer = stream.try_clone().expect("descriptors are left");
    let sender = thread::spawn(move || {
        writer.write_all(&bytes).expect("it is taken");
        writer.shutdown(Shutdown::Write).expect("it is open");
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("all comes back");
    sender.join().expect("it was sent");
    back
}

#[test]
fn redis_of_the_container_is_had_here_and_the_next_port_where_its_own_is_taken() {
    let (kit, server) = (Kit::start(), redis());
    // Kit and laptop share this machine, so the target's own port is the server's.
    let hoody = Hoody::start(&kit, &["forward", &server.port.to_string()], 0);
    let port = port(&hoody);
    assert_ne!(port, server.port);
    let cli = format!("redis-cli -h 127.0.0.1 -p {port}");
    let said = bash(60, &format!("{cli} set a b && {cli} get a"));
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["OK", "b"]);
    bash(
        60,
        &format!("redis-benchmark -h 127.0.0.1 -p {port} -n 2000 -c 50 -q -t get"),
    );
    assert_eq!(kit.json("tunnels")["totalBindings"], 0);
}

#[test]
fn what_is_not_there_or_not_allowed_breaks_the_connection_and_is_told() {
    let kit = Kit::with(&["--allow-forward", "127.0.0.1:1"]);
    for (target, want) in [("127.0.0.1:1", "refused:"), ("127.0.0.1:2", "forward")] {
        let hoody = Hoody::start(&kit, &["forward", target, "--local-port", "0"], 0);
        let mut stream = TcpStream::connect(("127.0.0.1", port(&hoody))).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert!(stream.read(&mut [0; 1]).is_err(), "a FIN for a RESET");
        let told = hoody.wait_event(0, "connection", PATIENCE);
        let why = told["error"].as_str().expect("a reason");
        assert!(why.contains(want), "{target}: {why}");
    }
}

#[test]
fn a_kit_that_forwards_nothing_is_said_at_once() {
    let kit = Kit::with(&["--allow-forward", "off"]);
    let output = run(&mut hoody_at(
        &kit,
        &["forward", "5432", "--local-port", "0"],
    ));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--allow-forward"), "{said}");
    let far = ["forward", "5432", "--local-host", "0.0.0.0"];
    let output = run(&mut hoody_at(&kit, &far));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--allow-from"), "{said}");
}

#[test]
fn every_byte_comes_back_over_a_connection_that_is_cut_again_and_again() {
    let (kit, server) = (Kit::start(), echo());
    let cutter = Cutter::before(&kit);
    let target = format!("127.0.0.1:{}", server.port);
    let hoody = cutter.hoody(&kit, &["forward", &target, "--local-port", "0"], 0);
    let port = port(&hoody);
    let bytes = Noise::bytes(13, 8 << 20);
    let sent = bytes.clone();
    let work = thread::spawn(move || there_and_back(port, sent));
    let mut cuts = 0;
    while !work.is_finished() {
        thread::sleep(Duration::from_millis(60));
        let how = if cuts % 2 == 0 { Cut::Reset } else { Cut::Fin };
        cuts += cutter.cut(how, None);
    }
    assert!(
        work.join().expect("all came") == bytes,
        "other bytes came back"
    );
    assert!(cuts > 0, "nothing was cut");
}

#[test]
fn callers_of_a_port_that_was_open_find_it_again_after_the_kit_was_away() {
    let (port_of_kit, server) = (free_port(), echo());
    let start = || {
        let plan = KitPlan::new().port(port_of_kit).no_token();
        plan.flags(&["--allow-forward", "loopback"]).start()
    };
    let kit = start();
    let target = format!("127.0.0.1:{}", server.port);
    let hoody = Hoody::start(&kit, &["forward", &target, "--local-port", "0"], 0);
    let port = port(&hoody);
    assert_eq!(there_and_back(port, b"before".to_vec()), b"before");
    let mark = hoody.mark();
    drop(kit);
    hoody.wait_state(mark, "lost", PATIENCE);
    let _kit = start();
    hoody.wait_state(mark, "online", PATIENCE);
    assert_eq!(there_and_back(port, b"after".to_vec()), b"after");
}

#[test]
fn ssh_reaches_the_container_by_its_proxy_command() {
    let (server, kit) = (sshd(), Kit::start());
    let dir = server.dir.path().display().to_string();
    Noise::file(&server.dir.join("file.bin"), 22, 8_000_000);
    let token = kit.token_file().expect("a token").display().to_string();
    let proxy = format!(
        "{} tunnel forward --stdio --url {} --token-file {token} localhost:{}",
        hoody().get_program().to_string_lossy(),
        kit.url(),
        server.port
    );
    let options = format!(
        "-i {dir}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -o LogLevel=ERROR -o 'ProxyCommand={proxy}'"
    );
    let out = bash(
        60,
        &format!(
            "ssh {options} root@container 'cat | sha256sum' < {dir}/file.bin
             sha256sum < {dir}/file.bin
             scp -q {options} {dir}/file.bin root@container:{dir}/up.bin
             cmp {dir}/file.bin {dir}/up.bin && echo same
             ssh {options} root@container 'exit 7' || echo \"exit $?\""
        ),
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[2..], ["same", "exit 7"]);
}

#[test]
fn standard_input_and_output_end_each_alone_and_a_refusal_is_said() {
    let (server, kit) = (echo(), Kit::start());
    let target = format!("127.0.0.1:{}", server.port);
    let mut command = hoody_at(&kit, &["forward", "--stdio", &target]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let bytes = Noise::bytes(5, 1 << 20);
    let (mut stdin, sent) = (child.stdin.take().expect("piped"), bytes.clone());
    let sender = thread::spawn(move || stdin.write_all(&sent).expect("it is taken"));
    let output = child.wait_with_output().expect("it ends");
    sender.join().expect("it was sent");
    assert!(output.status.success() && output.stdout == bytes);

    let output = run(&mut hoody_at(&kit, &["forward", "--stdio", "127.0.0.1:1"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("refused"), "{said}");
}
