//! TLS as a client: against rustls as a server, where a test can misbehave, and against OpenSSL.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use hoody_tunnel::machine::{CloseHow, ConnKey, DialTarget, Ended};
use hoody_tunnel::reactor::{Options, connector};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::remote::{Notice, Order, Remote, Rig};
use crate::shared::{PATIENCE, eventually, free_port};

type ServerStream = StreamOwned<ServerConnection, TcpStream>;

/// A directory with `ca.pem`, and `server.pem` and `server.key` for `app.test`, signed by it.
struct Authority(PathBuf);

impl Authority {
    fn new(name: &str) -> Authority {
        let path = std::env::temp_dir().join(format!("hoody-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let authority = Authority(path);
        fs::write(authority.file("san"), "subjectAltName=DNS:app.test\n").unwrap();
        authority.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
             -subj /CN=ca-{name} -keyout ca.key -out ca.pem",
        ));
        authority.openssl(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
             -subj /CN=app.test -keyout server.key -out server.csr",
        );
        authority.openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
             -extfile san -out server.pem",
        );
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn openssl(&self, line: &str) {
        let output = Command::new("openssl")
            .args(line.split_ascii_whitespace())
            .current_dir(&self.0)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// A reactor that trusts this authority.
    fn rig(&self) -> Rig {
        let options = Options {
            tls: Some(connector(Some(fs::read(self.file("ca.pem")).unwrap())).unwrap()),
            ..Options::default()
        };
        Rig::with(Remote::new(), options)
    }

    /// A server that speaks TLS to one connection and hands it to `serve`.
    fn serve(
        &self,
        serve: impl FnOnce(ServerStream) + Send + 'static,
    ) -> (DialTarget, thread::JoinHandle<()>) {
        let certs = CertificateDer::pem_file_iter(self.file("server.pem"))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let key = PrivateKeyDer::from_pem_file(self.file("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certs, key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = DialTarget::Addr(listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let session = ServerConnection::new(Arc::new(config)).unwrap();
            serve(StreamOwned::new(session, stream));
        });
        (target, thread)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A TLS connection of the machine to `target`.
fn secured(rig: &Rig, target: DialTarget) -> ConnKey {
    let key = rig.connect(target);
    rig.order(Order::Tls(key, "app.test"));
    match rig.next() {
        Notice::Secured(secured) if secured == key => key,
        other => panic!("not secured: {other:?}"),
    }
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n * 31 % 251) as u8).collect()
}

#[test]
fn megabytes_travel_both_ways_and_the_goodbye_is_a_fin() {
    let authority = Authority::new("both");
    let (target, server) = authority.serve(|mut stream| {
        let mut got = vec![0; 5_000_000];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, pattern(5_000_000));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        stream.write_all(&pattern(4_000_000)).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        // The machine's half-close says goodbye, too.
        assert_eq!(stream.read(&mut got).unwrap(), 0);
    });
    let rig = authority.rig();
    let key = secured(&rig, target);
    rig.order(Order::Send(key, pattern(5_000_000)));
    assert_eq!(rig.data_to_fin(key), pattern(4_000_000));
    rig.order(Order::Finish(key));
    server.join().unwrap();
}

#[test]
fn small_space_gets_all_plaintext_though_the_socket_is_quiet() {
    let authority = Authority::new("small");
    let (target, server) = authority.serve(|mut stream| {
        stream.write_all(&pattern(16_000)).unwrap();
        // Nothing more comes until the machine has answered: no edge will help it.
        stream.read_exact(&mut [0; 2]).unwrap();
    });
    let mut machine = Remote::new();
    machine.space = 100;
    let options = Options {
        tls: Some(connector(Some(fs::read(authority.file("ca.pem")).unwrap())).unwrap()),
        ..Options::default()
    };
    let rig = Rig::with(machine, options);
    let key = secured(&rig, target);
    assert_eq!(rig.data(key, 16_000), pattern(16_000));
    rig.order(Order::Send(key, b"ok".to_vec()));
    server.join().unwrap();
}

#[test]
fn a_paused_tls_conn_goes_on_where_it_stopped() {
    let authority = Authority::new("pause");
    let (target, server) = authority.serve(|mut stream| {
        stream.read_exact(&mut [0; 2]).unwrap();
        stream.write_all(&pattern(3_000_000)).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let rig = authority.rig();
    let key = secured(&rig, target);
    rig.order(Order::Pause(key, true));
    rig.order(Order::Send(key, b"go".to_vec()));
    assert!(rig.is_quiet());
    rig.order(Order::Pause(key, false));
    assert_eq!(rig.data_to_fin(key), pattern(3_000_000));
    server.join().unwrap();
}

#[test]
fn an_end_without_goodbye_is_no_fin() {
    let authority = Authority::new("cut");
    let (target, server) = authority.serve(|mut stream| {
        stream.write_all(b"part of an ans").unwrap();
        stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let rig = authority.rig();
    let key = secured(&rig, target);
    assert_eq!(rig.data(key, 14), b"part of an ans");
    let Ended::Failed(why) = rig.ended(key) else {
        panic!("not a failure");
    };
    assert_eq!(why.kind, std::io::ErrorKind::UnexpectedEof);
    server.join().unwrap();
}

#[test]
fn a_closed_conn_still_gets_its_last_bytes_out() {
    let authority = Authority::new("depart");
    let (sender, begun) = std::sync::mpsc::channel();
    let (target, server) = authority.serve(move |mut stream| {
        stream.read_exact(&mut [0; 10]).unwrap();
        sender.send(()).unwrap();
        thread::sleep(std::time::Duration::from_millis(300));
        let mut got = Vec::new();
        // Without the goodbye at its end this would be an error.
        stream.read_to_end(&mut got).unwrap();
        assert!(got.iter().all(|byte| *byte == 1));
    });
    let rig = authority.rig();
    let key = secured(&rig, target);
    // More than any socket buffer takes, so that ciphertext is stuck when the close comes.
    rig.order(Order::Send(key, vec![1; 16_000_000]));
    begun.recv().unwrap();
    assert!(rig.is_quiet());
    rig.order(Order::Close(key, CloseHow::Clean));
    drop(rig);
    server.join().unwrap();
}

#[test]
fn a_wrong_name_and_an_unknown_authority_are_refused() {
    let authority = Authority::new("name");
    let stranger = Authority::new("stranger");
    for (rig, name, words) in [
        (authority.rig(), "other.test", "not valid for name"),
        (stranger.rig(), "app.test", "UnknownIssuer"),
    ] {
        let (target, server) = authority.serve(|mut stream| {
            assert!(stream.read(&mut [0; 1]).is_err());
        });
        let key = rig.connect(target);
        rig.order(Order::Tls(key, name));
        let Ended::Failed(why) = rig.ended(key) else {
            panic!("not a failure");
        };
        assert!(why.text.contains(words), "{why:?}");
        server.join().unwrap();
    }
}

#[test]
fn a_peer_that_speaks_no_tls_is_refused() {
    let authority = Authority::new("plain");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = DialTarget::Addr(listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 100]).unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        // Reads its FIN, so that nothing unread turns our close into a reset.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let rig = authority.rig();
    let key = rig.connect(target);
    rig.order(Order::Tls(key, "app.test"));
    assert!(matches!(rig.ended(key), Ended::Failed(_)));
    server.join().unwrap();
}

#[test]
fn a_ca_file_without_certificate_is_refused_at_the_start() {
    let error = connector(Some(b"nothing here".to_vec())).err().unwrap();
    assert_eq!(error.to_string(), "no certificate in the CA file");
}

#[test]
fn openssl_is_understood() {
    let authority = Authority::new("openssl");
    let port = free_port();
    for version in ["-tls1_2", "-tls1_3"] {
        let server = s_server(&authority.0, port, version);
        let rig = authority.rig();
        let target = DialTarget::Addr(([127, 0, 0, 1], port).into());
        // OpenSSL needs a moment to listen.
        let key = eventually("OpenSSL listens", PATIENCE, || {
            let key = rig.dial(target.clone());
            matches!(rig.next(), Notice::Connected(..)).then_some(key)
        });
        rig.order(Order::Tls(key, "app.test"));
        assert!(matches!(rig.next(), Notice::Secured(_)));
        rig.order(Order::Send(key, b"stressed\n".to_vec()));
        assert_eq!(rig.data(key, 9), b"desserts\n");
        rig.order(Order::Close(key, CloseHow::Clean));
        drop(rig);
        drop(server);
    }
}

/// Bytes a second over TLS. Run it with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, for a quiet machine"]
fn bulk_over_tls() {
    const SIZE: usize = 512 << 20;
    let authority = Authority::new("bulk");
    let (target, server) = authority.serve(|mut stream| {
        let mut bytes = vec![1; 65_536];
        let start = std::time::Instant::now();
        for _ in 0..SIZE / bytes.len() {
            stream.read_exact(&mut bytes).unwrap();
        }
        let rate = SIZE as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!("{rate:.2} GB/s sent over TLS");
        for _ in 0..SIZE / bytes.len() {
            stream.write_all(&bytes).unwrap();
        }
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let rig = authority.rig();
    let key = secured(&rig, target);
    rig.order(Order::Send(key, vec![1; SIZE]));
    let Notice::Data(..) = rig.next() else {
        panic!("no data");
    };
    let start = std::time::Instant::now();
    let mut total = 0;
    while let Notice::Data(_, bytes) = rig.next() {
        total += bytes.len();
    }
    let rate = total as f64 / start.elapsed().as_secs_f64() / 1e9;
    println!("{rate:.2} GB/s received over TLS");
    server.join().unwrap();
}

/// `openssl s_server` that sends each line back reversed.
fn s_server(authority: &Path, port: u16, version: &str) -> Killed {
    let child = Command::new("openssl")
        .args(["s_server", "-rev", "-quiet", version, "-alpn", "http/1.1"])
        .args(["-cert", "server.pem", "-key", "server.key"])
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .current_dir(authority)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Killed(child)
}

/// A child that does not outlive its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
