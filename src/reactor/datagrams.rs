//! Sockets of datagrams.
//!
//! What the system does not take at once is lost, and told as such: nothing waits for room, so
//! nothing turns while there is none. What ICMP says of an earlier datagram means nothing to the
//! next one.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::UdpSocket;
use mio::{Interest, Registry};

use crate::limits::{DATAGRAM_SOCKET, DATAGRAMS_A_TURN, MAX_FRAME_PAYLOAD};
use crate::machine::{Event, Machine, SocketAt, SocketKey};

use super::Reactor;
use super::listener::bound;
use super::socket::{canonical, failure, retry, set_option};
use super::token::{self, Class};
use super::{inherited, resolve};

/// One socket of the machine.
pub(super) struct Datagrams {
    pub key: SocketKey,
    link: Link,
    /// An edge said that datagrams wait, and none was found missing since.
    ready: bool,
    /// It is in the queue of sockets to receive from.
    posted: bool,
    /// Somebody else keeps the socket open too.
    pub stays: bool,
}

enum Link {
    /// Whom it is for is being looked up; what was sent meanwhile.
    Resolving(VecDeque<Vec<u8>>),
    /// For whoever comes.
    Bound(UdpSocket),
    /// For one peer.
    Connected(Connected),
}

/// A socket for one peer, of whose name not every address may answer.
struct Connected {
    socket: UdpSocket,
    /// The addresses that were not tried yet.
    others: VecDeque<SocketAddr>,
    /// What was sent last, while nothing has come.
    last: Option<Vec<u8>>,
}

impl Datagrams {
    /// The socket, once there is one.
    pub(super) fn socket(&self) -> Option<&UdpSocket> {
        match &self.link {
            Link::Resolving(_) => None,
            Link::Bound(socket) => Some(socket),
            Link::Connected(connected) => Some(&connected.socket),
        }
    }

    /// Sends at once, or waits for the look-up.
    fn send(&mut self, peer: Option<SocketAddr>, datagram: Vec<u8>) -> io::Result<()> {
        match &mut self.link {
            Link::Resolving(waiting) => {
                waiting.push_back(datagram);
                if waiting.len() > crate::limits::DATAGRAMS_FOR_LOOKUP {
                    waiting.pop_front();
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            }
            Link::Bound(socket) => {
                let peer = peer.ok_or(io::ErrorKind::NotConnected)?;
                let peer = mapped(peer, socket.local_addr()?.is_ipv6());
                twice(|| socket.send_to(&datagram, peer))
            }
            Link::Connected(connected) => {
                let sent = twice(|| connected.socket.send(&datagram));
                if !connected.others.is_empty() {
                    connected.last = Some(datagram);
                }
                sent
            }
        }
    }

    /// The next datagram, if one is there.
    fn receive(&mut self, space: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let socket = self.socket().ok_or(io::ErrorKind::WouldBlock)?;
        let (count, peer) = retry(|| socket.recv_from(space))?;
        if let Link::Connected(connected) = &mut self.link {
            connected.others.clear();
            connected.last = None;
        }
        Ok((count, canonical(peer)))
    }

    /// Nobody is at the address, as ICMP says: tries the next one of the name, if nothing has come.
    fn try_another(&mut self, registry: &Registry) -> io::Result<()> {
        let Link::Connected(connected) = &mut self.link else {
            return Ok(());
        };
        if let Some(addr) = connected.others.pop_front() {
            connected.socket = registered(connect(addr)?, self.key, registry)?;
            if let Some(last) = connected.last.take() {
                let _ = twice(|| connected.socket.send(&last));
            }
        }
        Ok(())
    }
}

/// What ICMP said of an earlier datagram is met by the first call, and is no fault of this one.
fn twice(mut send: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    match retry(&mut send) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => retry(send).map(|_| ()),
        outcome => outcome.map(|_| ()),
    }
}

/// An IPv4 peer as a socket that takes both families names it.
fn mapped(peer: SocketAddr, by_v6: bool) -> SocketAddr {
    match peer.ip() {
        IpAddr::V4(ip) if by_v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), peer.port()),
        _ => peer,
    }
}

fn registered(mut socket: UdpSocket, key: SocketKey, registry: &Registry) -> io::Result<UdpSocket> {
    let token = token::of(Class::Socket, key, 0);
    registry.register(&mut socket, token, Interest::READABLE)?;
    Ok(socket)
}

/// Has the system hold more than it does by itself, as far as it likes.
pub(super) fn prepare(socket: &UdpSocket) {
    for name in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
        let _ = set_option(socket, libc::SOL_SOCKET, name, &DATAGRAM_SOCKET);
    }
    #[cfg(target_os = "linux")]
    for name in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        let _ = set_option(socket, libc::SOL_SOCKET, name, &DATAGRAM_SOCKET);
    }
}

/// Opens one for whoever comes.
fn open(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bound(addr, libc::SOCK_DGRAM)?;
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket));
    prepare(&socket);
    Ok(socket)
}

/// Opens one for this peer.
fn connect(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match peer.is_ipv6() {
        true => std::net::Ipv6Addr::UNSPECIFIED.into(),
        false => std::net::Ipv4Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    prepare(&socket);
    socket.connect(peer)?;
    Ok(socket)
}

/// Of one of several addresses, the first that the system has a way to.
fn connect_any(mut addrs: VecDeque<SocketAddr>) -> io::Result<(Connected, SocketAddr)> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    while let Some(addr) = addrs.pop_front() {
        match connect(addr) {
            Ok(socket) => {
                let connected = Connected {
                    socket,
                    others: addrs,
                    last: None,
                };
                return Ok((connected, addr));
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

impl<M: Machine> Reactor<M> {
    pub(super) fn open_socket(&mut self, key: SocketKey, at: SocketAt) {
        let opened = match at {
            SocketAt::Bound(addr) => self.bind_socket(key, addr),
            SocketAt::For(crate::machine::DialTarget::Addr(addr)) => {
                return self.socket_for(key, Ok(vec![addr]));
            }
            SocketAt::For(crate::machine::DialTarget::Name(name, port)) => {
                if let Some(addrs) = resolve::known(&name, port) {
                    return self.socket_for(key, Ok(addrs));
                }
                self.keep_socket(key, Link::Resolving(VecDeque::new()), false);
                return self.resolve((resolve::Asker::Socket(key), name, port));
            }
            SocketAt::For(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        self.tell_opened(key, opened);
    }

    fn tell_opened(&mut self, socket: SocketKey, opened: io::Result<SocketAddr>) {
        let outcome = opened.map_err(|error| failure(&error));
        self.news.push_back(Event::Socket { socket, outcome });
    }

    fn bind_socket(&mut self, key: SocketKey, addr: SocketAddr) -> io::Result<SocketAddr> {
        let (socket, stays) = match inherited::take_datagrams(&mut self.inherited, addr) {
            Some((socket, stays)) => (socket?, stays),
            None => (open(addr)?, false),
        };
        let socket = registered(socket, key, self.poll.registry())?;
        let addr = socket.local_addr()?;
        self.keep_socket(key, Link::Bound(socket), stays);
        Ok(addr)
    }

    /// Whom a socket is for is known.
    pub(super) fn socket_for(&mut self, key: SocketKey, addrs: io::Result<Vec<SocketAddr>>) {
        let waiting = match self.sockets.remove(key).map(|it| it.link) {
            Some(Link::Resolving(waiting)) => waiting,
            _ => VecDeque::new(),
        };
        let opened = addrs.and_then(|addrs| connect_any(addrs.into()));
        let opened = opened.and_then(|(connected, addr)| {
            let socket = registered(connected.socket, key, self.poll.registry())?;
            let link = Link::Connected(Connected {
                socket,
                ..connected
            });
            self.keep_socket(key, link, false);
            Ok(addr)
        });
        let stands = opened.is_ok();
        self.tell_opened(key, opened);
        for datagram in waiting.into_iter().filter(|_| stands) {
            self.send(key, None, datagram);
        }
    }

    fn keep_socket(&mut self, key: SocketKey, link: Link, stays: bool) {
        self.sockets.insert(Datagrams {
            key,
            link,
            ready: false,
            posted: false,
            stays,
        });
    }

    pub(super) fn close_socket(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.remove(key) else {
            return;
        };
        // Another descriptor of the same socket may stay open, and would keep it registered.
        if let Link::Bound(mut socket) = socket.link {
            let _ = self.poll.registry().deregister(&mut socket);
        }
    }

    pub(super) fn send(&mut self, key: SocketKey, peer: Option<SocketAddr>, datagram: Vec<u8>) {
        if let Some(socket) = self.sockets.get_mut(key)
            && socket.send(peer, datagram).is_err()
        {
            self.news.push_back(Event::Unsent { socket: key });
        }
    }

    /// An edge says that datagrams wait.
    pub(super) fn socket_stirred(&mut self, token: mio::Token) {
        if let Some(socket) = self.sockets.by_token(token) {
            socket.ready = true;
            if !std::mem::replace(&mut socket.posted, true) {
                self.receiving.push_back(socket.key);
            }
        }
    }

    /// Takes what has come, some of each socket.
    pub(super) fn receive(&mut self) {
        if self.receiving.is_empty() {
            return;
        }
        let mut space = std::mem::take(&mut self.datagram_space);
        space.resize(MAX_FRAME_PAYLOAD, 0);
        for _ in 0..self.receiving.len() {
            let Some(key) = self.receiving.pop_front() else {
                break;
            };
            if let Some(socket) = self.sockets.get_mut(key) {
                socket.posted = false;
            }
            for _ in 0..DATAGRAMS_A_TURN {
                if !self.receive_one(key, &mut space) {
                    break;
                }
            }
            if let Some(socket) = self.sockets.get_mut(key)
                && socket.ready
                && !std::mem::replace(&mut socket.posted, true)
            {
                self.receiving.push_back(key);
            }
        }
        self.datagram_space = space;
    }

    /// Takes one datagram; whether to go on.
    fn receive_one(&mut self, key: SocketKey, space: &mut [u8]) -> bool {
        let Some(socket) = self.sockets.get_mut(key).filter(|it| it.ready) else {
            return false;
        };
        match socket.receive(space) {
            Ok((count, peer)) => {
                let datagram = &space[..count];
                self.machine.datagram(key, peer, datagram, self.now);
                self.settle();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.ready = false,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if let Err(error) = socket.try_another(self.poll.registry()) {
                    self.sockets.remove(key);
                    self.tell_opened(key, Err(error));
                    self.settle();
                }
            }
            // What ICMP said. Others may wait.
            Err(_) => {}
        }
        true
    }
}

/// The sockets, at the index that the machine's key has.
#[derive(Default)]
pub(super) struct Sockets(Vec<Option<Datagrams>>);

impl Sockets {
    fn get_mut(&mut self, key: SocketKey) -> Option<&mut Datagrams> {
        let slot = self.0.get_mut(key.index())?.as_mut();
        slot.filter(|socket| socket.key == key)
    }

    fn by_token(&mut self, token: mio::Token) -> Option<&mut Datagrams> {
        let slot = self.0.get_mut(token::index(token))?.as_mut();
        slot.filter(|socket| token::names(token, socket.key))
    }

    fn insert(&mut self, socket: Datagrams) {
        let index = socket.key.index();
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(socket);
    }

    fn remove(&mut self, key: SocketKey) -> Option<Datagrams> {
        self.get_mut(key)?;
        self.0[key.index()].take()
    }

    /// Whether the machine's name for one is that of one which is there.
    pub(super) fn has(&mut self, key: SocketKey) -> bool {
        self.get_mut(key).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Datagrams> {
        self.0.iter().flatten()
    }
}
