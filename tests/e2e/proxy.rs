//! nginx in front, as a TLS proxy that tells names apart by SNI; and a proxy that must be crossed
//! on the way out.

use crate::support::client::{Hoody, hoody};
use crate::support::http::Talk;
use crate::support::kit::{Kit, TOKEN};
use crate::support::ongoing::{go_on_over, goes_on};
use crate::support::proc::{Proc, bash, run};
use crate::support::servers::{Server, certificates, nginx_in};
use crate::support::tcp::TcpServer;
use crate::support::upstream::Upstream;
use crate::support::{Noise, PATIENCE, becomes, free_port};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// nginx with TLS: `localhost` leads to the kit's `/connect`, `app-N.test` to port N.
fn front(kit: &Kit, app: u16) -> Server {
    let dir = certificates(&["localhost", "kit.test", "app-3000.test"]);
    let socket = "proxy_http_version 1.1; proxy_set_header Host $host;\n\
                  proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;\n\
                  proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 1h;";
    let plain = "proxy_http_version 1.1; proxy_set_header Host $host;\n\
                 proxy_set_header X-Forwarded-Proto https; proxy_set_header Connection '';\n\
                 proxy_buffering off; proxy_request_buffering off;";
    let port = kit.port;
    nginx_in(
        dir,
        &format!(
            "ssl_certificate %DIR%/cert.pem; ssl_certificate_key %DIR%/key.pem;\n\
             server {{ listen 127.0.0.1:%PORT% ssl; server_name localhost kit.test;\n\
             location = /api/v1/tunnel/connect {{ proxy_pass http://127.0.0.1:{port}; {socket} }}\n\
             location / {{ proxy_pass http://127.0.0.1:{port}; {plain} }} }}\n\
             server {{ listen 127.0.0.1:%PORT% ssl; server_name app-3000.test;\n\
             location /ws {{ proxy_pass http://127.0.0.1:{app}; {socket} }}\n\
             location / {{ proxy_pass http://127.0.0.1:{app}; {plain} }} }}"
        ),
    )
}

fn dial_args(front: &Server, upstream: u16, port: u16) -> Vec<String> {
    let url = format!("wss://localhost:{}/api/v1/tunnel/connect", front.port);
    let token = front.dir.write("token", TOKEN).display().to_string();
    [
        "tunnel",
        "expose",
        &upstream.to_string(),
        "--container-port",
        &port.to_string(),
        "--url",
        &url,
    ]
    .into_iter()
    .map(str::to_owned)
    .chain(["--token-file".to_owned(), token, "--json".to_owned()])
    .collect()
}

#[test]
fn https_to_expose_and_wss_to_connect_through_nginx() {
    let upstream = Upstream::start(|exchange| {
        let body = exchange.body();
        let proto = exchange.request.all("x-forwarded-proto").join(",");
        exchange.answer(200, &format!("X-Saw-Proto: {proto}\r\n"), &body);
        true
    });
    let kit = Kit::with(&["--allow-host", "*"]);
    let port = free_port();
    let front = front(&kit, port);
    let ca = front.dir.join("ca.pem");
    let mut command = hoody();
    command
        .args(dial_args(&front, upstream.port(), port))
        .arg("--ca")
        .arg(&ca);
    let _hoody = Hoody::from_command(&mut command, 1);
    let file = front.dir.write("body.bin", Noise::bytes(31, 20_000_000));
    let out = bash(
        60,
        &format!(
            "cd {dir}; curl -sSf --max-time 40 --cacert ca.pem -D head \\
               --resolve app-3000.test:{tls}:127.0.0.1 --data-binary @{file} -o back \\
               -H 'Expect:' https://app-3000.test:{tls}/echo && cmp {file} back && cat head",
            dir = front.dir.path().display(),
            tls = front.port,
            file = file.display(),
        ),
    );
    assert!(out.to_lowercase().contains("x-saw-proto: https"), "{out}");
}

#[test]
fn what_runs_goes_on_after_nginx_in_the_middle_was_reloaded_or_started_anew() {
    let upstream = Upstream::start(|exchange| goes_on(exchange).unwrap_or(false));
    let kit = Kit::start();
    let port = free_port();
    let mut front = front(&kit, port);
    let mut command = hoody();
    command
        .args(dial_args(&front, upstream.port(), port))
        .arg("--ca")
        .arg(front.dir.join("ca.pem"));
    let _hoody = Hoody::from_command(&mut command, 1);
    let connect = || TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    go_on_over([connect(), connect()], |came| {
        for signal in [libc::SIGHUP, libc::SIGTERM, libc::SIGHUP, libc::SIGTERM] {
            front.proc.signal(signal);
            if signal != libc::SIGHUP {
                front.proc.wait(PATIENCE);
                // Whatever is sent meanwhile finds nobody.
                std::thread::sleep(Duration::from_millis(300));
                front.nginx_again();
            }
            let before = came.load(Ordering::Relaxed);
            becomes("more comes", true, || {
                came.load(Ordering::Relaxed) > before + 100
            });
        }
    });
    kit.has_sessions(1);
}

#[test]
fn a_certificate_that_is_not_trusted_ends_it() {
    let kit = Kit::start();
    let front = front(&kit, free_port());
    let stranger = certificates(&["localhost"]);
    for (what, ca) in [
        ("the system's roots", None),
        ("another CA", Some(stranger.join("ca.pem"))),
    ] {
        let mut command = hoody();
        command.args(dial_args(&front, 1, 0));
        if let Some(ca) = ca {
            command.arg("--ca").arg(ca);
        }
        let mut client = Proc::spawn("hoody", command.args(["--retry-for", "2s"]));
        let status = client.wait(PATIENCE);
        assert_eq!(status.code(), Some(1), "{what}: {}", client.said());
        assert!(
            client.said().to_lowercase().contains("certificate"),
            "{}",
            client.said()
        );
    }
    assert_eq!(kit.json("sessions")["total"], 0);
}

#[test]
fn a_wrong_name_in_the_certificate_ends_it() {
    let kit = Kit::start();
    let dir = certificates(&["other.test"]);
    let ca = dir.join("ca.pem");
    let front = nginx_in(
        dir,
        "server { listen 127.0.0.1:%PORT% ssl; ssl_certificate %DIR%/cert.pem;\n\
         ssl_certificate_key %DIR%/key.pem; }",
    );
    let mut command = hoody();
    command
        .args(dial_args(&front, 1, 0))
        .arg("--ca")
        .arg(ca)
        .args(["--retry-for", "2s"]);
    let mut client = Proc::spawn("hoody", &mut command);
    assert_eq!(client.wait(PATIENCE).code(), Some(1), "{}", client.said());
    assert_eq!(kit.json("sessions")["total"], 0);
}

/// A proxy that wants `CONNECT` with Basic credentials, and notes what it was asked.
fn connect_proxy(asked: Arc<Mutex<Vec<String>>>) -> TcpServer {
    TcpServer::start(move |stream| {
        let mut talk = Talk::over(stream);
        let Some(head) = talk.head() else { return };
        let head = String::from_utf8_lossy(&head).into_owned();
        asked.lock().expect("no panic").push(head.clone());
        // "me:p@ss" in Base64.
        if !head
            .to_lowercase()
            .contains("proxy-authorization: basic bwu6cebzcw==")
        {
            let no = "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
            talk.say_into_the_void(no);
            return;
        }
        let to = head
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .replace("kit.test", "127.0.0.1");
        let Ok(far) = TcpStream::connect(to) else {
            return;
        };
        talk.say_into_the_void("HTTP/1.1 200 Fine\r\n\r\n");
        let (mut near, mut out) = (talk.stream, far);
        let (mut near_in, mut far_in) = (
            near.try_clone().expect("a handle"),
            out.try_clone().expect("a handle"),
        );
        let back = std::thread::spawn(move || copy(&mut far_in, &mut near));
        copy(&mut near_in, &mut out);
        let _ = back.join();
    })
}

fn copy(from: &mut TcpStream, to: &mut TcpStream) {
    let _ = from.set_read_timeout(None);
    let mut block = vec![0; 65_536];
    while let Ok(count) = from.read(&mut block) {
        if count == 0 || to.write_all(&block[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// `expose` at a name that only the proxy can resolve: on loopback no proxy is asked.
fn beyond(front: &Server, upstream: u16, proxy: &str, no_proxy: &str) -> Command {
    let mut command = hoody();
    let args = dial_args(front, upstream, 0);
    command.args(
        args.iter()
            .map(|arg| arg.replace("wss://localhost", "wss://kit.test")),
    );
    command.arg("--ca").arg(front.dir.join("ca.pem"));
    command.env("HTTPS_PROXY", proxy).env("NO_PROXY", no_proxy);
    command
}

#[test]
fn a_proxy_on_the_way_out_is_crossed_with_connect() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(200, "", b"crossed");
        true
    });
    let kit = Kit::with(&["--allow-host", "*"]);
    let front = front(&kit, free_port());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let proxy = connect_proxy(asked.clone());
    // A password may hold any character.
    let with = |user: &str| format!("http://{user}127.0.0.1:{}", proxy.port);
    let mut command = beyond(&front, upstream.port(), &with("me:p%40ss@"), "example.org");
    let client = Hoody::from_command(&mut command, 1);
    assert_eq!(Talk::port(client.port()).get("/").text(), "crossed");
    let seen = asked.lock().expect("no panic").clone();
    assert!(
        seen[0].starts_with(&format!("CONNECT kit.test:{} HTTP/1.1", front.port)),
        "{seen:?}"
    );
    let count = seen.len();
    let mut command = beyond(
        &front,
        upstream.port(),
        &with("me:p%40ss@"),
        "other.test,.test",
    );
    let output = run(command.args(["--retry-for", "1s"]));
    assert_eq!(output.status.code(), Some(1), "nobody else knows that name");
    assert_eq!(
        asked.lock().expect("no panic").len(),
        count,
        "NO_PROXY goes around it"
    );
    let mut command = beyond(&front, upstream.port(), &with("me:wrong@"), "");
    let output = run(command.args(["--retry-for", "2s"]));
    assert_eq!(output.status.code(), Some(1));
    let said = [output.stdout, output.stderr].concat();
    assert!(
        String::from_utf8_lossy(&said).contains("407"),
        "{}",
        String::from_utf8_lossy(&said)
    );
}
