//! Listening, accepting, dialling, bytes both ways, timers, orders, shutdown.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hoody_tunnel::machine::{CloseHow, Command, DialTarget, Ended, Listener};
use hoody_tunnel::table::Key;

use crate::remote::{Notice, Order, Rig};
use crate::shared::free_port;

#[test]
fn bytes_travel_both_ways_on_an_accepted_connection() {
    let rig = Rig::new();
    let (_, addr) = rig.listen("127.0.0.1:0");
    let (mut peer, key) = rig.accept_from(addr);
    peer.write_all(b"hello").unwrap();
    assert_eq!(rig.data(key, 5), b"hello");
    rig.order(Order::Send(key, b"world".to_vec()));
    let mut reply = [0; 5];
    peer.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"world");
    drop(peer);
    assert!(matches!(rig.next(), Notice::Fin(fin) if fin == key));
}

#[test]
fn bytes_travel_both_ways_on_a_dialled_connection() {
    let rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let key = rig.dial(DialTarget::Addr(addr));
    assert!(matches!(rig.next(), Notice::Connected(conn, peer) if (conn, peer) == (key, addr)));
    let (mut peer, _) = listener.accept().unwrap();
    rig.order(Order::Send(key, vec![7; 3_000_000]));
    let mut sent = vec![0; 3_000_000];
    peer.read_exact(&mut sent).unwrap();
    assert!(sent.iter().all(|byte| *byte == 7));
    peer.write_all(&vec![9; 1_000_000]).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.data_to_fin(key), vec![9; 1_000_000]);
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"220 hi").unwrap();
    });
    let key = rig.connect(DialTarget::Addr(addr));
    assert_eq!(rig.data_to_fin(key), b"220 hi");
    server.join().unwrap();
}

#[test]
fn a_refused_dial_names_the_address() {
    let rig = Rig::new();
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let key = rig.dial(DialTarget::Addr(addr));
    let Ended::Failed(why) = rig.ended(key) else {
        panic!("a refused dial is no reset");
    };
    assert_eq!(why.kind, std::io::ErrorKind::ConnectionRefused);
    assert_eq!(why.text, format!("{addr}: Connection refused"));
}

#[test]
fn localhost_reaches_a_server_on_either_family() {
    let rig = Rig::new();
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(bind) else {
            continue;
        };
        let port = listener.local_addr().unwrap().port();
        let key = rig.connect(DialTarget::Name("localhost".into(), port));
        rig.order(Order::Close(key, CloseHow::Clean));
    }
    let port = free_port();
    let key = rig.dial(DialTarget::Name("localhost".into(), port));
    let Ended::Failed(why) = rig.ended(key) else {
        panic!("a refused dial is no reset");
    };
    let both = ["127.0.0.1:", "[::1]:"];
    assert!(both.iter().all(|addr| why.text.contains(addr)), "{why:?}");
}

#[test]
fn a_machine_may_see_what_a_name_has_before_it_dials() {
    let rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let found = |host| {
        rig.order(Order::Resolve(host, at.port()));
        let Notice::Dialing(key) = rig.next() else {
            panic!("not looked up");
        };
        match rig.next() {
            Notice::Resolved(conn, found) if conn == key => (key, found),
            other => panic!("{other:?}"),
        }
    };
    // Old forms of a number are names that the system reads as addresses.
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f000001",
        "2130706433",
    ] {
        let (key, found) = found(host);
        assert!(found.iter().all(|it| it.is_local), "{host}: {found:?}");
        assert!(found.iter().any(|it| it.addr == at), "{host}: {found:?}");
        let addrs = vec![at];
        rig.order(Order::DialFound(key, addrs));
        assert!(matches!(rig.next(), Notice::Connected(conn, peer) if conn == key && peer == at));
        rig.order(Order::Close(key, CloseHow::Clean));
    }
    let (key, elsewhere) = found("192.0.2.1");
    assert!(!elsewhere[0].is_local);
    rig.order(Order::Close(key, CloseHow::Reset));
    rig.order(Order::Resolve("no-such-host.invalid", 80));
    let Notice::Dialing(key) = rig.next() else {
        panic!("not looked up");
    };
    assert!(matches!(rig.ended(key), Ended::Failed(why) if !why.text.is_empty()));
}

#[test]
fn a_name_that_does_not_resolve_ends_the_dial() {
    let rig = Rig::new();
    // RFC 6761: names under `invalid` never resolve.
    let key = rig.dial(DialTarget::Name("no-such-host.invalid".into(), 80));
    assert!(matches!(rig.ended(key), Ended::Failed(why) if !why.text.is_empty()));
}

#[test]
fn many_names_at_once_are_all_answered() {
    let rig = Rig::new();
    for n in 0..12 {
        let name = format!("no-{n}.invalid");
        rig.order(Order::Dial(DialTarget::Name(name, 80)));
    }
    let mut ended = 0;
    while ended < 12 {
        match rig.next() {
            Notice::Dialing(_) => {}
            Notice::Ended(..) => ended += 1,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_port_in_use_is_told_and_an_unlistened_one_is_free() {
    let rig = Rig::new();
    let (key, addr) = rig.listen(&format!("127.0.0.1:{}", free_port()));
    rig.order(Order::Listen(addr));
    let Notice::Listening(_, Err(why)) = rig.next() else {
        panic!("the port was free");
    };
    assert_eq!(why.kind, std::io::ErrorKind::AddrInUse);
    rig.order(Order::Unlisten(key));
    rig.order(Order::Listen(addr));
    assert!(matches!(rig.next(), Notice::Listening(_, Ok(again)) if again == addr));
}

#[test]
fn listen_and_unlisten_in_one_drain_leave_nothing_behind() {
    let rig = Rig::new();
    let listener = Key::<Listener>::unpack(1 << 32 | 3);
    let addr = "127.0.0.1:0".parse().unwrap();
    rig.order(Order::Raw(vec![
        Command::Listen { listener, addr },
        Command::Unlisten { listener },
    ]));
    assert!(rig.is_quiet());
}

#[test]
fn dial_and_close_in_one_drain_tell_nothing() {
    let rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let conn = Key::unpack(1 << 32 | 9);
    let target = DialTarget::Addr(listener.local_addr().unwrap());
    rig.order(Order::Raw(vec![
        Command::Dial { conn, target },
        Command::Wake { conn },
        Command::Close {
            conn,
            how: CloseHow::Clean,
        },
    ]));
    assert!(rig.is_quiet());
}

#[test]
fn a_paused_listener_keeps_connections_waiting() {
    let rig = Rig::new();
    let (listener, addr) = rig.listen("127.0.0.1:0");
    rig.order(Order::Accept(listener, false));
    let _first = TcpStream::connect(addr).unwrap();
    let _second = TcpStream::connect(addr).unwrap();
    assert!(rig.is_quiet());
    rig.order(Order::Accept(listener, true));
    assert!(matches!(rig.next(), Notice::Accepted(..)));
    assert!(matches!(rig.next(), Notice::Accepted(..)));
}

#[test]
fn a_listener_on_all_addresses_takes_both_families() {
    let rig = Rig::new();
    rig.order(Order::Listen("[::]:0".parse().unwrap()));
    let Notice::Listening(_, Ok(addr)) = rig.next() else {
        return; // This system has no IPv6.
    };
    let _v4 = TcpStream::connect(("127.0.0.1", addr.port())).unwrap();
    assert!(matches!(rig.next(), Notice::Accepted(_, peer) if peer.is_ipv4()));
    let _v6 = TcpStream::connect(("::1", addr.port())).unwrap();
    assert!(matches!(rig.next(), Notice::Accepted(_, peer) if peer.is_ipv6()));
}

#[test]
fn a_deadline_comes_when_it_is_due() {
    let rig = Rig::new();
    let start = Instant::now();
    rig.order(Order::Timer(Duration::from_millis(50)));
    assert!(matches!(rig.next(), Notice::Timeout));
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn shutdown_through_the_handle_is_told() {
    let rig = Rig::new();
    rig.handle.shutdown().unwrap();
    rig.handle.clone().shutdown().unwrap();
    assert!(matches!(rig.next(), Notice::Shutdown));
    assert!(matches!(rig.next(), Notice::Shutdown));
}
