//! Local servers that are told who is calling, by HAProxy's PROXY protocol.

use crate::support::client::{Hoody, hoody_at};
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::proc::run;
use crate::support::servers::{nginx, nginx_in};
use crate::support::{PATIENCE, TempDir, free_port};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

/// `expose` or `pull` of a target on a port the kit picks, with a version of the protocol.
fn lead(kit: &Kit, how: &str, target: &str, version: &str, flags: &[&str]) -> Hoody {
    let mut args = vec![how, target, "--container-port", "0"];
    args.extend(["--proxy-protocol", version]);
    args.extend(flags);
    Hoody::start(kit, &args, 1)
}

/// What a connection from `from` brings to its end, when it has said `first`.
fn call(stream: &mut TcpStream, first: &str) -> String {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(first.as_bytes()).expect("it is taken");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

#[test]
fn nginx_behind_a_pull_knows_the_real_caller_also_where_it_speaks_first() {
    let [stream, web] = [(); 2].map(|()| free_port());
    let nginx = nginx(&format!(
        "server {{ listen 127.0.0.1:%PORT%; }}\n\
         server {{ listen 127.0.0.1:{web} proxy_protocol; location / {{ return 200\n\
         \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
         $proxy_protocol_server_port\"; }} }} }}\n\
         stream {{ server {{ listen 127.0.0.1:{stream} proxy_protocol;\n\
         return \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr \
         $proxy_protocol_server_port\"; }}\n"
    ));
    let kit = Kit::start();
    for version in ["1", "2"] {
        let hoody = lead(&kit, "pull", &stream.to_string(), version, &[]);
        let port = hoody.port();
        let mut caller = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let from = caller.local_addr().expect("an address").port();
        let said = call(&mut caller, "");
        assert_eq!(said, format!("127.0.0.1 {from} 127.0.0.1 {port}"));

        let target = format!("127.0.0.1:{web}");
        let hoody = lead(&kit, "pull", &target, version, &["--host", "::1"]);
        let port = hoody.port();
        let mut caller = TcpStream::connect(("::1", port)).expect("a connection");
        let from = caller.local_addr().expect("an address").port();
        let said = call(&mut caller, "GET / HTTP/1.0\r\n\r\n");
        let (_, said) = said.split_once("\r\n\r\n").expect("a head");
        assert_eq!(said, format!("::1 {from} ::1 {port}"));
    }
    drop(nginx);
}

#[test]
fn nginx_behind_what_is_exposed_knows_each_visitor_also_under_tls() {
    let dir = TempDir::new();
    let folder = dir.path().display().to_string();
    crate::support::proc::bash(
        60,
        &format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \\\n\
             -keyout {folder}/key.pem -out {folder}/cert.pem -subj /CN=x -days 9 2>&1"
        ),
    );
    let secure = free_port();
    let say = "location / { return 200 \
               \"$proxy_protocol_addr $proxy_protocol_port $connection_requests\"; }";
    let nginx = nginx_in(
        dir,
        &format!(
            "server {{ listen 127.0.0.1:%PORT% proxy_protocol; {say} }}\n\
             server {{ listen 127.0.0.1:{secure} ssl proxy_protocol; {say}\n\
             ssl_certificate %DIR%/cert.pem; ssl_certificate_key %DIR%/key.pem; }}"
        ),
    );
    let kit = Kit::start();
    for target in [
        format!("127.0.0.1:{}", nginx.port),
        format!("https://127.0.0.1:{secure}"),
    ] {
        for version in ["1", "2"] {
            let hoody = lead(&kit, "expose", &target, version, &[]);
            let mut talks = [(); 3].map(|()| Talk::port(hoody.port()));
            for round in 1..=3 {
                for talk in &mut talks {
                    let from = talk.stream.local_addr().expect("an address").port();
                    let text = talk.get("/").text();
                    assert_eq!(text, format!("127.0.0.1 {from} {round}"));
                }
            }
            // A trusted proxy names the visitor, but not its port.
            let mut talk = Talk::port(hoody.port());
            talk.say(
                "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 2001:db8::9, 203.0.113.9\r\n\r\n",
            );
            let text = talk.reply(false).text();
            assert_eq!(text, "203.0.113.9  1", "nginx shows no port 0: {target}");
        }
    }
}

#[test]
fn a_server_that_expects_no_greeting_or_closes_at_once_is_no_riddle() {
    let nginx = nginx("server { listen 127.0.0.1:%PORT%; location / { return 200 ok; } }");
    let kit = Kit::start();
    let target = nginx.port.to_string();
    let hoody = lead(&kit, "expose", &target, "1", &[]);
    let reply = Talk::port(hoody.port()).get("/");
    assert_eq!(reply.status, 400, "it takes the line for a request");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (stream, _) = listener.accept().expect("a connection");
            stream.shutdown(Shutdown::Both).expect("it stands");
        }
    });
    let target = format!("127.0.0.1:{port}");
    let exposed = lead(&kit, "expose", &target, "2", &[]);
    let reply = Talk::port(exposed.port()).get("/");
    assert_eq!(reply.status, 502);
    let text = reply.text();
    assert!(text.contains("Does it expect the PROXY protocol"), "{text}");
    let pulled = lead(&kit, "pull", &target, "2", &[]);
    let mut caller = TcpStream::connect(("127.0.0.1", pulled.port())).expect("a connection");
    caller.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let came = caller.read(&mut [0; 9]);
    assert!(!matches!(came, Ok(1..)), "{came:?}");
    server.join().expect("both came");
}

#[test]
fn versions_and_tunnels_that_make_no_sense_are_refused_at_the_start() {
    let kit = Kit::start();
    for (args, sentence) in [
        (
            &["pull", "22", "--proxy-protocol", "3"][..],
            "versions 1 and 2",
        ),
        (
            &["expose", "3000", "--proxy-protocol", "v2"],
            "versions 1 and 2",
        ),
        (
            &["up", "--expose", "3000", "--proxy-protocol", "1"],
            "there is no --pull",
        ),
    ] {
        let output = run(&mut hoody_at(&kit, args));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(sentence), "{said}");
    }
    let closed = free_port().to_string();
    let pair = format!("{closed}=0");
    let up = [
        "up",
        "--pull",
        &pair,
        "--expose",
        &pair,
        "--proxy-protocol",
        "1",
    ];
    assert_eq!(Hoody::start(&kit, &up, 2).ready.len(), 2);
}
