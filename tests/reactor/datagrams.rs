//! Sockets of datagrams.

use std::net::{SocketAddr, UdpSocket};

use hoody_tunnel::limits::MAX_DATAGRAM;
use hoody_tunnel::machine::{Command, DialTarget, Socket, SocketAt, SocketKey};
use hoody_tunnel::table::Table;

use crate::remote::{Notice, Order, Rig};
use crate::shared::PATIENCE;

fn key() -> SocketKey {
    Table::<Socket, ()>::new(1)
        .insert(())
        .expect("room for one")
}

fn open(rig: &Rig, at: SocketAt) -> (SocketKey, SocketAddr) {
    let socket = key();
    rig.order(Order::Raw(vec![Command::OpenSocket { socket, at }]));
    match rig.next() {
        Notice::Socket(opened, Ok(addr)) if opened == socket => (socket, addr),
        other => panic!("{other:?}"),
    }
}

fn send(rig: &Rig, socket: SocketKey, peer: Option<SocketAddr>, datagram: &[u8]) {
    rig.order(Order::Raw(vec![Command::Send {
        socket,
        peer,
        datagram: datagram.to_vec(),
    }]));
}

fn got(rig: &Rig, socket: SocketKey) -> (SocketAddr, Vec<u8>) {
    match rig.next() {
        Notice::Datagram(on, peer, datagram) if on == socket => (peer, datagram),
        other => panic!("{other:?}"),
    }
}

fn peer(addr: &str) -> UdpSocket {
    let socket = UdpSocket::bind(addr).expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

#[test]
fn datagrams_of_every_size_stay_whole_both_ways() {
    let rig = Rig::new();
    for at in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        let (socket, addr) = open(&rig, SocketAt::Bound(at.parse().unwrap()));
        // Of both families, whoever comes by IPv4 is known by that address.
        let from = if at == "[::1]:0" {
            "[::1]:0"
        } else {
            "127.0.0.1:0"
        };
        let peer = peer(from);
        let home = peer.local_addr().unwrap();
        let to = SocketAddr::new(home.ip(), addr.port());
        for size in [0, 1, 1200, 1472, 9000, MAX_DATAGRAM] {
            let sent = vec![size as u8; size];
            peer.send_to(&sent, to).unwrap();
            assert_eq!(
                got(&rig, socket),
                (home, sent.clone()),
                "{size} bytes to {at}"
            );
            send(&rig, socket, Some(home), &sent);
            let mut space = vec![0; MAX_DATAGRAM + 1];
            let count = peer.recv(&mut space).unwrap();
            assert_eq!(space[..count], sent, "{size} bytes from {at}");
        }
        rig.order(Order::Raw(vec![Command::CloseSocket { socket }]));
    }
}

#[test]
fn a_socket_for_one_peer_hears_only_that_one() {
    let rig = Rig::new();
    let (server, stranger) = (peer("127.0.0.1:0"), peer("127.0.0.1:0"));
    let home = server.local_addr().unwrap();
    let (socket, addr) = open(&rig, SocketAt::For(DialTarget::Addr(home)));
    assert_eq!(addr, home);
    send(&rig, socket, None, b"question");
    let mut space = [0; 64];
    let (count, from) = server.recv_from(&mut space).unwrap();
    assert_eq!(&space[..count], b"question");
    stranger.send_to(b"lies", from).unwrap();
    server.send_to(b"answer", from).unwrap();
    assert_eq!(got(&rig, socket), (home, b"answer".to_vec()));
}

#[test]
fn nobody_at_the_port_costs_nothing_and_a_name_is_tried_at_each_address() {
    let rig = Rig::new();
    let Ok(server) = UdpSocket::bind("[::1]:0") else {
        return;
    };
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = server.local_addr().unwrap().port();
    // Nobody is there by IPv4, of which the host is told by ICMP.
    let at = SocketAt::For(DialTarget::Name("localhost".into(), port));
    let (socket, addr) = open(&rig, at);
    assert!(addr.is_ipv4());
    send(&rig, socket, None, b"who is there");
    let mut space = [0; 64];
    let (count, from) = server.recv_from(&mut space).unwrap();
    assert_eq!(&space[..count], b"who is there");
    server.send_to(b"I am", from).unwrap();
    assert_eq!(got(&rig, socket).1, b"I am");
    drop(server);
    for _ in 0..10 {
        send(&rig, socket, None, b"and now");
    }
    // The socket outlives what ICMP says of it.
    let server = UdpSocket::bind(("::1", port)).unwrap();
    server.send_to(b"back", from).unwrap();
    assert_eq!(got(&rig, socket).1, b"back");
}

#[test]
fn a_port_that_is_taken_or_an_address_that_is_not_ours_is_told() {
    let rig = Rig::new();
    let taken = peer("127.0.0.1:0");
    for at in [taken.local_addr().unwrap(), "192.0.2.1:9".parse().unwrap()] {
        let (socket, at) = (key(), SocketAt::Bound(at));
        rig.order(Order::Raw(vec![Command::OpenSocket { socket, at }]));
        assert!(matches!(rig.next(), Notice::Socket(other, Err(_)) if other == socket));
    }
}

#[test]
fn what_the_system_does_not_take_is_told_and_nothing_turns() {
    let rig = Rig::new();
    let (socket, _) = open(&rig, SocketAt::Bound("127.0.0.1:0".parse().unwrap()));
    // Longer than a datagram can be.
    let peer = Some("127.0.0.1:9".parse().unwrap());
    send(&rig, socket, peer, &vec![0; MAX_DATAGRAM + 1]);
    assert!(matches!(rig.next(), Notice::Unsent(other) if other == socket));
}
