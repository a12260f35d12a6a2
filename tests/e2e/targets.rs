//! Local servers that are no plain port: Unix sockets, one path of a server, TLS.

use crate::support::client::{Hoody, hoody, hoody_at};
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::proc::{Proc, bash, run};
use crate::support::servers::{nginx, nginx_in, postgres};
use crate::support::{Noise, PATIENCE, TempDir, eventually, free_port};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

/// `expose` or `pull` of a target on a port the kit picks.
fn lead(kit: &Kit, how: &str, target: &str, flags: &[&str]) -> Hoody {
    let mut args = vec![how, target, "--container-port", "0"];
    args.extend(flags);
    Hoody::start(kit, &args, 1)
}

/// What a GET brings, as its status and its text.
fn get(port: u16, path: &str) -> (u16, String) {
    let reply = Talk::port(port).get(path);
    (reply.status, reply.text())
}

#[test]
fn nginx_on_a_unix_socket_is_reached_goes_and_comes_back() {
    let mut nginx = nginx(
        "server { listen 127.0.0.1:%PORT%; listen unix:%DIR%/app.sock; root %DIR%/www;\n\
         location = /host { return 200 \"$http_host $server_addr\"; }\n\
         location /up/ { dav_methods PUT; } }",
    );
    nginx.dir.write("www/data.bin", Noise::bytes(5, 3_000_000));
    std::fs::create_dir_all(nginx.dir.join("www/up")).expect("a folder");
    std::fs::create_dir_all(nginx.dir.join("www/sub")).expect("a folder");
    let kit = Kit::start();
    let socket = nginx.dir.join("app.sock").display().to_string();
    let target = format!("unix:{socket}");
    let hoody = lead(&kit, "expose", &target, &[]);
    let port = hoody.port();
    assert_eq!(get(port, "/host"), (200, format!("localhost {target}")));
    let moved = Talk::port(port).get("/sub");
    let location = moved
        .field("location")
        .expect("nginx redirects to a folder");
    assert_eq!(location, "http://visitor.test/sub/");
    let file = nginx.dir.join("www/data.bin").display().to_string();
    let url = format!("http://127.0.0.1:{port}");
    bash(60, &format!("curl -sSf {url}/data.bin | cmp - {file}"));
    bash(60, &format!("curl -sSf -T {file} {url}/up/data.bin"));
    let put = std::fs::read(nginx.dir.join("www/up/data.bin")).expect("PUT made it");
    assert!(put == std::fs::read(&file).expect("it is there"));

    nginx.proc.signal(libc::SIGTERM);
    nginx.proc.wait(PATIENCE);
    std::fs::remove_file(&socket).unwrap_or_default();
    let (status, text) = get(port, "/host");
    assert_eq!(status, 502);
    assert!(
        text.contains(&target) && text.contains("there is no such socket"),
        "{text}"
    );
    std::fs::create_dir(&socket).expect("a folder in its place");
    let (status, text) = get(port, "/host");
    assert_eq!(status, 502);
    assert!(text.contains("it is a file, but no socket"), "{text}");
    std::fs::remove_dir(&socket).expect("it is there");
    bash(5, &format!("mkfifo {socket}"));
    let (status, text) = get(port, "/host");
    assert_eq!(status, 502);
    assert!(text.contains("it is a file, but no socket"), "{text}");
    std::fs::remove_file(&socket).expect("it is there");
    drop(UnixListener::bind(&socket).expect("a socket"));
    let (status, text) = get(port, "/host");
    assert_eq!(status, 502);
    assert!(text.contains("no server listens on this socket"), "{text}");
    std::fs::remove_file(&socket).expect("it is there");
    nginx.nginx_again();
    assert_eq!(get(port, "/host"), (200, format!("localhost {target}")));
}

#[test]
fn psql_reaches_postgres_by_its_unix_socket() {
    let postgres = postgres();
    let kit = Kit::start();
    let socket = format!(".s.PGSQL.{}", postgres.port);
    let socket = postgres.dir.join(socket).display().to_string();
    let hoody = lead(&kit, "pull", &format!("unix:{socket}"), &[]);
    let port = hoody.port();
    let psql = format!("psql -h 127.0.0.1 -p {port} -U postgres -qtAc");
    let sum = bash(
        60,
        &format!("{psql} 'select sum(i) from generate_series(1, 300000) i'"),
    );
    assert_eq!(sum.trim(), "45000150000");
    let addr = bash(60, &format!("{psql} \"select inet_server_addr() is null\""));
    assert_eq!(addr.trim(), "t", "it came by the socket");
}

#[test]
fn one_path_of_nginx_is_exposed_and_nothing_else() {
    let nginx = nginx(
        "server { listen 127.0.0.1:%PORT%; root %DIR%/www;\n\
         location = /shop/uri { return 200 \"$request_uri $http_referer\"; }\n\
         location = /shop/away { return 302 http://localhost:%PORT%/login; }\n\
         location = /shop/cookie { add_header Set-Cookie \"a=b; Path=/shop/cart\"; return 204; }\n\
         location /shop/ { dav_methods PUT DELETE MOVE; } }",
    );
    nginx.dir.write("www/secret.txt", "not yours");
    std::fs::create_dir_all(nginx.dir.join("www/shop/sub")).expect("a folder");
    nginx.dir.write("www/shop/index.html", "the shop");
    let kit = Kit::start();
    let target = format!("http://localhost:{}/shop", nginx.port);
    let hoody = lead(&kit, "expose", &target, &[]);
    let port = hoody.port();
    assert_eq!(get(port, "/"), (200, "the shop".into()));
    let mut talk = Talk::port(port);
    talk.say(format!(
        "GET /uri?a=/../b HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\
         Referer: http://127.0.0.1:{port}/x\r\n\r\n"
    ));
    let local = format!("http://localhost:{}/shop/x", nginx.port);
    assert_eq!(
        talk.reply(false).text(),
        format!("/shop/uri?a=/../b {local}")
    );
    let moved = Talk::port(port).get("/sub");
    let location = moved.field("location");
    assert_eq!(location.as_deref(), Some("http://visitor.test/sub/"));
    let away = Talk::port(port).get("/away");
    let outside = format!("http://localhost:{}/login", nginx.port);
    assert_eq!(
        away.field("location"),
        Some(outside),
        "it is not reachable here"
    );
    let cookie = Talk::port(port).get("/cookie");
    assert_eq!(cookie.field("set-cookie"), Some("a=b; Path=/cart".into()));

    for path in [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/.%2e/secret.txt",
        "//..//..//secret.txt",
        "/..\\secret.txt",
        "/..;a/secret.txt",
    ] {
        let (status, text) = get(port, path);
        assert_eq!(status, 400, "{path}");
        assert!(text.contains("only one path"), "{path}: {text}");
    }
    for path in [
        "/secret.txt",
        "//secret.txt",
        "/%2e/secret.txt",
        "/%252e%252e/secret.txt",
    ] {
        let (status, text) = get(port, path);
        assert_eq!(status, 404, "{path}: {text}");
    }
    let move_to = |destination: &str| {
        let url = format!("http://127.0.0.1:{port}");
        let make = format!("curl -sSf -X PUT -d moved {url}/one.txt && curl -s -o /dev/null");
        let destination = destination.replace("URL", &url);
        let code = bash(
            20,
            &format!(
                "{make} -w '%{{http_code}}' -X MOVE -H 'Destination: {destination}' {url}/one.txt"
            ),
        );
        code.trim().to_owned()
    };
    assert_eq!(move_to("URL/two.txt"), "204");
    let moved = std::fs::read(nginx.dir.join("www/shop/two.txt"));
    assert_eq!(moved.ok().as_deref(), Some(b"moved".as_slice()));
    assert_eq!(move_to("URL/../out.txt"), "400");
    assert!(!nginx.dir.join("www/out.txt").exists());
}

/// A CA, and certificates of its own making: good, expired, and for another name.
fn certificates(dir: &TempDir) {
    let folder = dir.path().display();
    bash(
        60,
        &format!(
            "cd {folder}; key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'\n\
             openssl req -x509 $key -keyout ca.key -out ca.pem -subj /CN=ca -days 9 2>&1\n\
             make() {{ openssl req $key -keyout $1.key -out $1.csr -subj /CN=$1 2>&1 &&\n\
             printf \"subjectAltName=$2\" > $1.ext &&\n\
             openssl x509 -req -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial \\\n\
             -extfile $1.ext -out $1.pem $3 2>&1; }}\n\
             make good DNS:localhost,IP:127.0.0.1 '-days 9' &&\n\
             make other DNS:other.test '-days 9' &&\n\
             make old DNS:localhost '-days -1'"
        ),
    );
}

#[test]
fn nginx_with_tls_is_reached_and_a_wrong_certificate_has_its_name() {
    let dir = TempDir::new();
    certificates(&dir);
    let [good, other, old, plain] = [(); 4].map(|()| free_port());
    let server = |name: &str, port: u16| {
        format!(
            "server {{ listen 127.0.0.1:{port} ssl; root %DIR%/www;\n\
             ssl_certificate %DIR%/{name}.pem; ssl_certificate_key %DIR%/{name}.key;\n\
             location = /who {{ return 200 \"$http_host $ssl_server_name $connection_requests\"; }}\n\
             location /sub/ {{ dav_methods PUT; }} }}\n"
        )
    };
    let plain_server = format!("server {{ listen 127.0.0.1:{plain}; }}\n");
    let main = "server { listen 127.0.0.1:%PORT%; }\n";
    let servers = [
        server("good", good),
        server("other", other),
        server("old", old),
    ];
    let nginx = nginx_in(dir, &(servers.concat() + &plain_server + main));
    std::fs::create_dir_all(nginx.dir.join("www/sub")).expect("a folder");
    nginx.dir.write("www/data.bin", Noise::bytes(5, 3_000_000));
    let kit = Kit::start();
    let at = |port: u16| format!("https://localhost:{port}");
    let trusting = lead(&kit, "expose", &at(good), &[]);
    let said = trusting.proc.said();
    assert!(said.contains("is not checked"), "it is said aloud: {said}");
    let mut talk = Talk::port(trusting.port());
    for count in 1..=2 {
        let text = talk.get("/who").text();
        assert_eq!(
            text,
            format!("localhost:{good} localhost {count}"),
            "one connection"
        );
    }
    let location = talk.get("/sub").field("location");
    assert_eq!(location.as_deref(), Some("http://visitor.test/sub/"));
    let file = nginx.dir.join("www/data.bin").display().to_string();
    let url = format!("http://127.0.0.1:{}", trusting.port());
    bash(60, &format!("curl -sSf {url}/data.bin | cmp - {file}"));
    bash(60, &format!("curl -sSf -T {file} {url}/sub/data.bin"));
    let put = std::fs::read(nginx.dir.join("www/sub/data.bin")).expect("PUT made it");
    assert!(put == std::fs::read(&file).expect("it is there"));

    let ca = nginx.dir.join("ca.pem").display().to_string();
    let checked = ["--upstream-ca", ca.as_str()];
    for (port, flags, wanted) in [
        (good, &checked[..], None),
        (other, &checked[..], Some("certificate")),
        (old, &checked[..], Some("xpired")),
        (old, &[][..], None),
        (other, &["--upstream-insecure"][..], None),
        (
            plain,
            &[][..],
            Some("does not speak TLS: expose it with http://"),
        ),
    ] {
        let hoody = lead(&kit, "expose", &at(port), flags);
        let (status, text) = get(hoody.port(), "/who");
        match wanted {
            None => assert_eq!(status, 200, "{flags:?} {text}"),
            Some(wanted) => {
                assert_eq!(status, 502, "{text}");
                assert!(text.contains(wanted), "{flags:?} {text}");
            }
        }
    }
    for args in [
        ["pull", at(good).as_str(), "--label", "x"],
        ["expose", "3000", "--upstream-ca", ca.as_str()],
        ["expose", "3000", "--label=x", "--upstream-insecure"],
        [
            "expose",
            at(good).as_str(),
            "--upstream-ca",
            "/does/not/exist",
        ],
    ] {
        let output = run(&mut hoody_at(&kit, &args));
        assert!(!output.status.success(), "{args:?}");
    }
}

#[test]
fn a_server_that_says_nothing_or_an_alert_of_tls_is_told_from_one_that_is_gone() {
    let kit = Kit::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut first = [0; 64];
        let _ = stream.read(&mut first).expect("a request");
        // What OpenSSL says to plain HTTP: an unexpected message, fatal.
        stream
            .write_all(&[0x15, 3, 3, 0, 2, 2, 10])
            .expect("an alert");
        listener
    });
    let plain = lead(&kit, "expose", &format!("127.0.0.1:{port}"), &[]);
    let (status, text) = get(plain.port(), "/");
    assert_eq!(status, 502);
    assert!(
        text.contains("speaks TLS: expose it with https://"),
        "{text}"
    );
    // Nobody takes connections from here on: TLS is not answered.
    let _silent = server.join().expect("it served");
    let secure = lead(&kit, "expose", &format!("https://127.0.0.1:{port}"), &[]);
    let (status, text) = get(secure.port(), "/");
    assert_eq!(status, 502);
    assert!(text.contains("TLS: no answer"), "{text}");
}

/// A server with TLS that reads a head, says `answer`, and resets with the body unread.
fn refuses_unread(dir: &TempDir, answer: &'static [u8]) -> u16 {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    use std::io::{Read, Write};
    let cert = CertificateDer::from_pem_file(dir.join("good.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(dir.join("good.key")).expect("a key");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .expect("they belong together");
    let config = std::sync::Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_nodelay(true).expect("a TCP socket");
            let session = rustls::ServerConnection::new(config.clone()).expect("a session");
            let mut tls = rustls::StreamOwned::new(session, stream);
            let mut head = Vec::new();
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                let mut more = [0; 512];
                let count = tls.read(&mut more).expect("a head");
                head.extend_from_slice(&more[..count]);
            }
            tls.write_all(answer).expect("it is taken");
            tls.flush().expect("it is taken");
            // What was not read makes the close a reset.
        }
    });
    port
}

#[test]
fn what_a_server_with_tls_said_before_it_reset_an_upload_reaches_the_visitor() {
    let dir = TempDir::new();
    certificates(&dir);
    let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig";
    let port = refuses_unread(&dir, answer);
    let kit = Kit::start();
    let hoody = lead(&kit, "expose", &format!("https://localhost:{port}"), &[]);
    let body = Noise::bytes(6, 3_000_000);
    for _ in 0..20 {
        let mut talk = Talk::port(hoody.port());
        talk.say("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n");
        talk.say_into_the_void(&body);
        let reply = talk.reply(false);
        assert_eq!((reply.status, reply.text().as_str()), (413, "big"));
    }
}

#[test]
fn the_wrong_scheme_of_a_kit_ends_the_client_at_once_with_a_sentence() {
    let kit = Kit::start();
    let wss = kit.url().replace("ws://", "wss://");
    let mut command = hoody();
    command.args(["tunnel", "expose", "3000", "--url", &wss]);
    let output = run(&mut command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("begins with ws://"), "{said}");
}

/// Programs that end a plain connection without a byte where they speak TLS: how each is started
/// at a port, with the files of a certificate.
fn silent_tls_servers(dir: &TempDir) -> Vec<(&'static str, u16, Proc)> {
    let [openssl, node, python] = [(); 3].map(|()| free_port());
    let folder = dir.path().display();
    let node_text = format!(
        "const fs = require('fs'); require('https').createServer({{\n\
         key: fs.readFileSync('{folder}/good.key'), cert: fs.readFileSync('{folder}/good.pem') }},\n\
         (_, answer) => answer.end('hello')).listen({node}, '127.0.0.1')"
    );
    let python_text = format!(
        "import ssl, http.server as h\n\
         c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
         c.load_cert_chain('{folder}/good.pem', '{folder}/good.key')\n\
         s = h.ThreadingHTTPServer(('127.0.0.1', {python}), h.SimpleHTTPRequestHandler)\n\
         s.socket = c.wrap_socket(s.socket, server_side=True)\n\
         s.serve_forever()"
    );
    let mut s_server = Command::new("openssl");
    s_server.args(["s_server", "-quiet", "-accept"]);
    s_server.arg(format!("127.0.0.1:{openssl}"));
    s_server.args(["-cert", &format!("{folder}/good.pem")]);
    s_server.args(["-key", &format!("{folder}/good.key")]);
    s_server.stdin(Stdio::null());
    let mut node_server = Command::new("node");
    node_server.args(["-e", &node_text]);
    let mut python_server = Command::new("python3");
    python_server.args(["-c", &python_text]);
    let servers = [
        ("openssl", openssl, s_server),
        ("node", node, node_server),
        ("python", python, python_server),
    ];
    let start = |(name, port, mut command): (&'static str, u16, Command)| {
        let mut proc = Proc::spawn(name, &mut command);
        eventually(&format!("{name} listens"), PATIENCE, || {
            assert!(proc.running(), "{name} ended at once: {}", proc.said());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        (name, port, proc)
    };
    servers.into_iter().map(start).collect()
}

#[test]
fn real_tls_servers_behind_a_plain_target_or_a_plain_url_are_told_to_be_that() {
    let dir = TempDir::new();
    certificates(&dir);
    let secure = free_port();
    let nginx = nginx_in(
        dir,
        &format!(
            "server {{ listen 127.0.0.1:%PORT%; }}\n\
             server {{ listen 127.0.0.1:{secure} ssl; ssl_certificate %DIR%/good.pem;\n\
             ssl_certificate_key %DIR%/good.key; }}"
        ),
    );
    let kit = Kit::start();
    let silent = silent_tls_servers(&nginx.dir);
    for (name, port, _) in &silent {
        let plain = lead(&kit, "expose", &format!("127.0.0.1:{port}"), &[]);
        let (status, text) = get(plain.port(), "/");
        assert_eq!(status, 502, "{name}");
        assert!(
            text.contains("speaks TLS, expose https://"),
            "{name}: {text}"
        );
    }
    let ports = silent.iter().map(|(name, port, _)| (*name, *port));
    for (name, port) in ports.chain([("nginx", secure)]) {
        for args in [&["tunnel", "expose", "3000"][..], &["tunnel", "health"]] {
            if name == "nginx" && args.len() == 2 {
                // It says so itself, in words that are passed on.
                continue;
            }
            let mut command = hoody();
            command
                .args(args)
                .args(["--url", &format!("ws://127.0.0.1:{port}")]);
            let begun = std::time::Instant::now();
            let output = run(&mut command);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{name} {args:?}: {said}");
            assert!(
                said.contains("URL begins with wss://"),
                "{name} {args:?}: {said}"
            );
            assert!(begun.elapsed() < PATIENCE, "{name} {args:?}");
        }
    }
}

/// A WebSocket server on Node's https that echoes messages, and the close code.
const NODE_ECHO: &str = r#"
const fs = require('fs'), crypto = require('crypto');
const [dir, port] = process.argv.slice(1);
const options = { key: fs.readFileSync(`${dir}/good.key`), cert: fs.readFileSync(`${dir}/good.pem`) };
const frame = (first, data) => {
  const head = data.length < 126 ? Buffer.from([first, data.length])
    : data.length < 65536 ? Buffer.from([first, 126, data.length >> 8, data.length & 255])
    : Buffer.concat([Buffer.from([first, 127, 0, 0, 0, 0]), Buffer.alloc(4)]);
  if (data.length >= 65536) head.writeUInt32BE(data.length, 6);
  return Buffer.concat([head, data]);
};
require('https').createServer(options).on('upgrade', (request, socket, rest) => {
  const magic = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
  const key = request.headers['sec-websocket-key'];
  const accept = crypto.createHash('sha1').update(key + magic).digest('base64');
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
    `Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
  let bytes = rest;
  const read = () => {
    while (bytes.length >= 6) {
      let length = bytes[1] & 127, at = 2;
      if (length === 126) { length = bytes.readUInt16BE(2); at = 4; }
      if (length === 127) { if (bytes.length < 14) return; length = bytes.readUInt32BE(6); at = 10; }
      if (bytes.length < at + 4 + length) return;
      const mask = bytes.subarray(at, at + 4);
      const data = Buffer.from(bytes.subarray(at + 4, at + 4 + length));
      for (let i = 0; i < length; i++) data[i] ^= mask[i & 3];
      socket.write(frame(bytes[0], data));
      if ((bytes[0] & 15) === 8) socket.end();
      bytes = bytes.subarray(at + 4 + length);
    }
  };
  socket.on('data', (data) => { bytes = Buffer.concat([bytes, data]); read(); });
  socket.on('error', () => {});
  read();
}).listen(Number(port), '127.0.0.1');
"#;

#[test]
fn a_websocket_reaches_nodes_https_with_large_messages_and_its_close_code() {
    let dir = TempDir::new();
    certificates(&dir);
    let port = free_port();
    let mut command = Command::new("node");
    command
        .args(["-e", NODE_ECHO])
        .arg(dir.path())
        .arg(port.to_string());
    let mut node = Proc::spawn("node", &mut command);
    eventually("node listens", PATIENCE, || {
        assert!(node.running(), "node ended at once: {}", node.said());
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let kit = Kit::start();
    let target = format!("https://localhost:{port}");
    let ca = dir.join("ca.pem").display().to_string();
    let hoody = lead(&kit, "expose", &target, &["--upstream-ca", &ca]);
    let mut talk = Talk::port(hoody.port());
    talk.say(
        "GET /echo HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let head = talk.head().expect("an answer");
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    let message = Noise::bytes(9, 1 << 20);
    for _ in 0..3 {
        // Masked with zeros, which changes nothing.
        let mut frame = vec![0x82, 0xff];
        frame.extend((message.len() as u64).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(&message);
        let mut stream = talk.stream.try_clone().expect("a handle");
        let writer = std::thread::spawn(move || {
            use std::io::Write;
            stream.write_all(&frame).expect("it is taken");
        });
        let mut wanted = vec![0x82, 127];
        wanted.extend((message.len() as u64).to_be_bytes());
        wanted.extend(&message);
        assert!(talk.take(wanted.len()) == wanted, "the echo differs");
        writer.join().expect("all was sent");
    }
    talk.say([0x88, 0x86, 0, 0, 0, 0, 0x0f, 0xa1, b'd', b'o', b'n', b'e']);
    assert_eq!(talk.take(8), [0x88, 6, 0x0f, 0xa1, b'd', b'o', b'n', b'e']);
    assert!(talk.at_end(), "and then the connection ends");
}

#[test]
fn odd_targets_are_refused_at_the_start_with_a_sentence() {
    let kit = Kit::start();
    let long = format!("unix:/{}", "x".repeat(200));
    for (how, target, sentence) in [
        (
            "expose",
            "http://me:hunter2@localhost:3000",
            "no user and no password",
        ),
        ("expose", "http://localhost:3000/a?b", "no ? and no #"),
        (
            "expose",
            "http://localhost:3000/a/../b",
            "no part of it is empty, . or ..",
        ),
        ("expose", "unix:app.sock", "begins with a slash"),
        ("expose", long.as_str(), "at most"),
        ("expose", "ftp://localhost", "is not a target"),
        ("pull", "http://localhost:3000/a", "its target has no path"),
    ] {
        let output = run(&mut hoody_at(&kit, &[how, target]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{target}");
        assert!(said.contains(sentence), "{target}: {said}");
    }
}

#[test]
fn a_server_that_is_not_there_yet_is_found_when_it_is() {
    let dir = TempDir::new();
    let kit = Kit::start();
    let socket = dir.join("late.sock");
    let hoody = lead(&kit, "expose", &format!("unix:{}", socket.display()), &[]);
    assert_eq!(get(hoody.port(), "/").0, 502);
    let listener = UnixListener::bind(&socket).expect("a socket");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        use std::io::{Read, Write};
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut octet = [0];
            stream.read_exact(&mut octet).expect("a request");
            head.push(octet[0]);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
            .expect("an answer");
        String::from_utf8(head).expect("a head of text")
    });
    let reply = eventually("it answers", PATIENCE, || {
        let (status, text) = get(hoody.port(), "/a");
        (status == 200).then_some(text)
    });
    assert_eq!(reply, "late");
    let head = server.join().expect("it served");
    assert!(
        head.to_lowercase().contains("\r\nhost: localhost\r\n"),
        "{head}"
    );
}
