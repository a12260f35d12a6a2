//! PULL between programs that people use: PostgreSQL, Redis, OpenSSH.

use crate::support::client::Hoody;
use crate::support::kit::Kit;
use crate::support::proc::bash;
use crate::support::servers::{postgres, redis, sshd};
use crate::support::tcp::TcpServer;
use crate::support::{Noise, PATIENCE, at_rest, eventually};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn pgbench_and_a_copy_of_200_megabytes_pass() {
    let server = postgres();
    let kit = Kit::start();
    let hoody = Hoody::pull(&kit, server.port);
    let psql = format!("-h 127.0.0.1 -p {} -U postgres", hoody.port());
    bash(180, &format!("pgbench {psql} -q -i -s 1 postgres 2>&1"));
    let report = bash(180, &format!("pgbench {psql} -c 8 -j 2 -T 4 postgres 2>&1"));
    assert!(
        report.contains("number of failed transactions: 0"),
        "{report}"
    );
    let tps = report
        .lines()
        .find(|line| line.starts_with("tps"))
        .unwrap_or("no tps");
    println!("pgbench through PULL: {tps}");
    let rows = "select lpad(i::text, 100, md5(i::text)) from generate_series(1, 2000000) i";
    let check = format!("psql {psql} -qtAc");
    let copied = bash(
        360,
        &format!(
            "{check} 'create table big (line text)' postgres
             psql {psql} -qc \"copy ({rows}) to stdout\" postgres > {dir}/out.txt
             psql {psql} -qc '\\copy big from {dir}/out.txt' postgres
             psql {psql} -qc 'copy big to stdout' postgres | sha256sum
             sha256sum < {dir}/out.txt; stat -c %s {dir}/out.txt",
            dir = server.dir.path().display()
        ),
    );
    let lines: Vec<&str> = copied.lines().collect();
    assert_eq!(lines[0], lines[1], "what came out is what went in");
    assert!(
        lines[2]
            .parse::<u64>()
            .is_ok_and(|size| size >= 200_000_000),
        "{copied}"
    );
}

#[test]
fn redis_benchmark_with_pipelines_passes() {
    let server = redis();
    let kit = Kit::start();
    let hoody = Hoody::pull(&kit, server.port);
    let port = hoody.port();
    let report = bash(
        180,
        &format!(
            "redis-benchmark -h 127.0.0.1 -p {port} -P 16 -n 200000 -t set,get,lrange_100 --csv"
        ),
    );
    println!("redis-benchmark -P 16 through PULL:\n{report}");
    assert_eq!(
        report
            .lines()
            .filter(|line| line.contains("LRANGE_100"))
            .count(),
        1,
        "{report}"
    );
    let reply = bash(
        90,
        &format!(
            "redis-cli -h 127.0.0.1 -p {port} set key value
             redis-cli -h 127.0.0.1 -p {port} get key"
        ),
    );
    assert_eq!(reply.trim(), "OK\nvalue");
}

#[test]
fn ssh_and_scp_pass() {
    let server = sshd();
    let kit = Kit::start();
    let hoody = Hoody::pull(&kit, server.port);
    let dir = server.dir.path().display().to_string();
    Noise::file(&server.dir.join("file.bin"), 21, 50_000_000);
    let options = format!(
        "-i {dir}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    );
    let port = hoody.port();
    let out = bash(
        270,
        &format!(
            "ssh {options} -p {port} root@127.0.0.1 'echo hi; exit 0'
             ssh {options} -p {port} root@127.0.0.1 'cat | sha256sum' < {dir}/file.bin
             sha256sum < {dir}/file.bin
             scp -q {options} -P {port} {dir}/file.bin root@127.0.0.1:{dir}/up.bin
             scp -q {options} -P {port} root@127.0.0.1:{dir}/up.bin {dir}/down.bin
             cmp {dir}/file.bin {dir}/down.bin
             ssh {options} -p {port} root@127.0.0.1 'exit 7' || echo \"exit $?\""
        ),
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "hi");
    assert_eq!(lines[1], lines[2]);
    assert_eq!(lines[3], "exit 7");
}

#[test]
fn many_callers_at_once_get_their_own_bytes() {
    let server = TcpServer::start(|mut stream| {
        let mut block = vec![0; 65_536];
        while let Ok(count) = stream.read(&mut block) {
            if count == 0 || stream.write_all(&block[..count]).is_err() {
                return;
            }
        }
    });
    let kit = Kit::start();
    let hoody = Hoody::pull(&kit, server.port);
    let port = hoody.port();
    let threads: Vec<_> = (0..50u64)
        .map(|seed| {
            std::thread::spawn(move || {
                let data = Noise::bytes(seed, 400_000);
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("open");
                stream
                    .set_read_timeout(Some(PATIENCE))
                    .expect("a TCP socket");
                let mut writer = stream.try_clone().expect("a second handle");
                let sent = data.clone();
                let writing = std::thread::spawn(move || {
                    writer.write_all(&sent).expect("sent");
                    writer
                        .shutdown(std::net::Shutdown::Write)
                        .expect("finished");
                });
                let mut back = Vec::new();
                stream.read_to_end(&mut back).expect("read");
                writing.join().expect("written");
                assert!(back == data, "caller {seed} got other bytes");
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("each caller gets its bytes");
    }
    kit.settles("hoody_tunnel_streams_active", 0);
}

#[test]
fn a_caller_that_stops_reading_stops_only_itself() {
    let poured = Arc::new(AtomicUsize::new(0));
    let count = poured.clone();
    let server = TcpServer::start(move |mut stream| {
        let mut kind = [0];
        if stream.read_exact(&mut kind).is_err() {
            return;
        }
        let block = vec![1; 65_536];
        if kind[0] == b'p' {
            let _ = stream.write_all(b"pong");
            return;
        }
        while stream.write_all(&block).is_ok() {
            count.fetch_add(block.len(), Ordering::Relaxed);
        }
    });
    let kit = Kit::start();
    let hoody = Hoody::pull(&kit, server.port);
    let open = |kind: &[u8]| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, hoody.port())).expect("open");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a TCP socket");
        stream.write_all(kind).expect("sent");
        stream
    };
    let before = kit.proc.rss_kib();
    let stalled: Vec<TcpStream> = (0..40).map(|_| open(b"b")).collect();
    let still = Duration::from_secs(1);
    at_rest("what is poured", still, || poured.load(Ordering::Relaxed));
    for _ in 0..10 {
        let mut text = String::new();
        open(b"p").read_to_string(&mut text).expect("a pong");
        assert_eq!(text, "pong");
    }
    let grown = kit.proc.rss_kib().saturating_sub(before);
    assert!(
        grown < 64 * 1024,
        "forty stalled callers cost the kit {grown} KiB"
    );
    drop(stalled);
    kit.settles("hoody_tunnel_streams_active", 0);
    eventually("a stalled session serves on", PATIENCE, || {
        let mut text = String::new();
        open(b"p")
            .read_to_string(&mut text)
            .ok()
            .filter(|_| text == "pong")
    });
}

#[test]
fn a_target_that_is_down_closes_the_caller() {
    let kit = Kit::start();
    let hoody = Hoody::pull(&kit, crate::support::free_port());
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, hoody.port())).expect("open");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a TCP socket");
    let got = stream.read(&mut [0; 10]);
    let reset = got
        .as_ref()
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
    assert!(
        reset || got.is_ok_and(|count| count == 0),
        "it ends at once"
    );
}
