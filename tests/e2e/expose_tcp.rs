//! Raw TCP on an EXPOSE port, between programs that people use.

use crate::support::client::{Hoody, hoody_at};
use crate::support::kit::Kit;
use crate::support::proc::{Proc, bash};
use crate::support::servers::{certificates, sshd};
use crate::support::tcp::TcpServer;
use crate::support::{Noise, PATIENCE, eventually};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

fn exposed(kit: &Kit, target: u16) -> Hoody {
    let target = format!("127.0.0.1:{target}");
    let args = ["expose", "--tcp", &target, "--container-port", "0"];
    Hoody::start(kit, &args, 1)
}

/// A server that answers each line with it behind its own name.
fn named(name: &'static str) -> TcpServer {
    TcpServer::start(move |mut stream| {
        let mut block = [0; 4096];
        while let Ok(count) = stream.read(&mut block) {
            let said = [name.as_bytes(), &block[..count]].concat();
            if count == 0 || stream.write_all(&said).is_err() {
                return;
            }
        }
    })
}

fn says(port: u16, line: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let sent = stream.write_all(line.as_bytes());
    sent.and_then(|()| stream.shutdown(std::net::Shutdown::Write))
        .expect("it takes a line");
    let mut all = String::new();
    let _ = stream.read_to_string(&mut all);
    all
}

#[test]
fn ssh_and_scp_pass() {
    let server = sshd();
    let kit = Kit::with(&["--public-tcp-pattern", "tcp://127.0.0.1:{port}"]);
    let hoody = exposed(&kit, server.port);
    let (port, dir) = (hoody.port(), server.dir.path().display().to_string());
    let url = format!("tcp://127.0.0.1:{port}");
    assert_eq!(hoody.ready[0]["publicUrl"], *url);
    assert_eq!(hoody.ready[0]["kind"], "tcp");
    Noise::file(&server.dir.join("file.bin"), 21, 5_000_000);
    let options = format!(
        "-i {dir}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    );
    let out = bash(
        120,
        &format!(
            "ssh {options} -p {port} root@127.0.0.1 'cat | sha256sum' < {dir}/file.bin
             sha256sum < {dir}/file.bin
             scp -q {options} -P {port} root@127.0.0.1:{dir}/file.bin {dir}/down.bin
             cmp {dir}/file.bin {dir}/down.bin
             ssh {options} -p {port} root@127.0.0.1 'exit 7' || echo \"exit $?\""
        ),
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[2]), (lines[1], "exit 7"));
    assert_eq!(
        kit.metric(
            "hoody_tunnel_bindings_active",
            r#"kind="tcp",mode="expose""#
        ),
        1.0
    );
}

#[test]
fn tls_passes_through_to_the_servers_own_certificate() {
    let kit = Kit::start();
    let certificates = certificates(&["own.example"]);
    let dir = certificates.path().display().to_string();
    let port = crate::support::free_port();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-quiet", "-www", "-alpn", "http/1.1", "-accept"]);
    server.arg(format!("127.0.0.1:{port}"));
    server.args([
        "-cert",
        &format!("{dir}/cert.pem"),
        "-key",
        &format!("{dir}/key.pem"),
    ]);
    let _server = Proc::spawn("s_server", &mut server);
    eventually("it listens", PATIENCE, || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
    });
    let hoody = exposed(&kit, port);
    let out = bash(
        30,
        &format!(
            "curl -sS --cacert {dir}/ca.pem --connect-to own.example:443:127.0.0.1:{} \
             https://own.example/",
            hoody.port()
        ),
    );
    assert!(out.contains("Ciphers"), "{out}");
}

#[test]
fn one_port_goes_from_raw_tcp_to_another_server_and_who_has_it_is_told() {
    let (first, second) = (named("first "), named("second "));
    let kit = Kit::start();
    let before = exposed(&kit, first.port);
    let port = before.port();
    assert_eq!(says(port, "hello"), "first hello");
    let mut held = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("open");
    held.set_read_timeout(Some(PATIENCE)).expect("a socket");
    held.write_all(b"x").expect("it takes a byte");
    held.read_exact(&mut [0; 7]).expect("it is served");
    let (target, at) = (format!("127.0.0.1:{}", second.port), port.to_string());
    let args = [
        "expose",
        "--tcp",
        &target,
        "--container-port",
        &at,
        "--takeover",
    ];
    let _after = Hoody::start(&kit, &args, 1);
    assert_eq!(says(port, "hello"), "second hello");
    let reset = held
        .read(&mut [0; 1])
        .expect_err("the stream of before is reset");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    before.wait_state(0, "taken over", PATIENCE);
}

#[test]
fn a_kit_whose_operator_says_no_is_told_with_what_to_do() {
    let kit = Kit::with(&["--no-tcp-expose"]);
    let mut hoody = Proc::spawn("hoody", &mut hoody_at(&kit, &["expose", "--tcp", "22"]));
    assert_eq!(hoody.wait(PATIENCE).code(), Some(1));
    let said = hoody.said();
    assert!(
        said.contains("--no-tcp-expose") && said.contains("Upgrade"),
        "{said}"
    );
}

#[test]
fn a_laptop_tells_what_is_where_in_one_table() {
    let (raw, http) = (named("raw "), named("HTTP/1.1 200 OK\r\n\r\n"));
    let kit = Kit::start();
    let (raw_at, http_at) = (
        format!("127.0.0.1:{}=0", raw.port),
        format!("{}=0", http.port),
    );
    let args = [
        "up",
        "--expose-tcp",
        &raw_at,
        "--expose",
        &http_at,
        "--pull",
        &raw_at,
    ];
    let hoody = Proc::spawn("hoody", &mut hoody_at(&kit, &args));
    let row = |what: &str, address: &str| {
        let found = hoody.out.wait_from(0, PATIENCE, |line| {
            (line.starts_with(what) && line.contains(address)).then(|| line.to_owned())
        });
        found.unwrap_or_else(|| panic!("no row of {what}\n{}", hoody.said()))
    };
    row("DIRECTION", "CONNECT TO");
    let (tcp, pull) = (
        row("expose", "tcp://127.0.0.1:"),
        row("pull", " in 127.0.0.1"),
    );
    row("expose", "http://127.0.0.1:");
    // What is told can be pasted.
    let port = |row: &str| {
        let at = row.split("127.0.0.1:").nth(1).expect("an address");
        let digits = at.split(|c: char| !c.is_ascii_digit()).next();
        digits
            .and_then(|it| it.parse::<u16>().ok())
            .expect("a port")
    };
    assert_eq!(says(port(&tcp), "hi"), "raw hi");
    assert_eq!(says(port(&pull), "hi"), "raw hi");
}
