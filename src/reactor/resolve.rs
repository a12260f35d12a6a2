//! Names to addresses, without ever blocking the loop.
//!
//! `getaddrinfo` blocks, for half a minute when the network is away, so it runs on a short-lived
//! thread of its own; a few at most, the others wait their turn. Nothing is remembered: after a
//! change of network yesterday's address is the wrong one.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::thread;

use crate::limits::RESOLVER_THREADS;
use crate::machine::{ConnKey, SocketKey};

/// Who asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    Conn(ConnKey),
    Socket(SocketKey),
}

/// The answer for one of them.
pub(super) type Answer = (Asker, io::Result<Vec<SocketAddr>>);

/// Runs the look-ups.
#[derive(Default)]
pub(super) struct Resolver {
    running: usize,
    waiting: VecDeque<Question>,
}

type Question = (Asker, String, u16);

impl Resolver {
    /// Looks `name` up; `tell` is called on another thread, once.
    pub(super) fn ask(&mut self, question: Question, tell: impl FnOnce(Answer) + Send + 'static) {
        if self.running >= RESOLVER_THREADS {
            self.waiting.push_back(question);
            return;
        }
        self.running += 1;
        let key = question.0;
        let body = move || {
            let (key, name, port) = question;
            tell((key, look_up(&name, port)));
        };
        let spawned = thread::Builder::new().name("resolve".into()).spawn(body);
        if let Err(error) = spawned {
            // `tell` went with the closure; the dial's own deadline ends that connection.
            log::warn!("cannot start a resolver thread for {key:?}: {error}");
            self.running -= 1;
        }
    }

    /// An answer arrived; gives the question that may be asked now.
    pub(super) fn answered(&mut self, mut alive: impl FnMut(Asker) -> bool) -> Option<Question> {
        self.running -= 1;
        while let Some(question) = self.waiting.pop_front() {
            if alive(question.0) {
                return Some(question);
            }
        }
        None
    }
}

/// The addresses that need no look-up: of an IP literal, and of `localhost`, where a server may
/// listen on either family.
pub(super) fn known(name: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let bare = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Some(vec![SocketAddr::new(ip, port)]);
    }
    let plain = bare.strip_suffix('.').unwrap_or(bare);
    plain.eq_ignore_ascii_case("localhost").then(|| {
        vec![
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port),
        ]
    })
}

/// Whether an address is one of this machine's, or may be: only such can be listened on.
pub(super) fn is_local(ip: IpAddr) -> bool {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        // Without a descriptor, say, nobody can tell.
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

fn look_up(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addrs: Vec<SocketAddr> = (name, port).to_socket_addrs()?.collect();
    if addrs.is_empty() {
        let text = format!("{name} has no address");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(interleaved(addrs))
}

/// The families in turn, beginning with the one that the system put first (RFC 8305 section 4), so
/// that a broken IPv6 costs one attempt and not all.
fn interleaved(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first_is_v6) = addrs.first().map(SocketAddr::is_ipv6) else {
        return addrs;
    };
    let count = addrs.len();
    let (first, second): (Vec<_>, Vec<_>) = addrs
        .into_iter()
        .partition(|addr| addr.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::with_capacity(count);
    while mixed.len() < count {
        mixed.extend(first.next());
        mixed.extend(second.next());
    }
    mixed.dedup();
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_beginning_with_the_systems_favourite() {
        let addrs = ["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"];
        let addrs = addrs.map(|addr| addr.parse().unwrap()).to_vec();
        let mixed: Vec<_> = interleaved(addrs)
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        let wanted = ["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"];
        assert_eq!(mixed, wanted);
    }

    #[test]
    fn what_this_machine_has_is_told_from_what_others_have() {
        for ours in ["127.0.0.1", "127.9.9.9", "0.0.0.0"] {
            assert!(is_local(ours.parse().unwrap()), "{ours}");
        }
        // A range for documentation, which nobody has.
        for theirs in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_local(theirs.parse().unwrap()), "{theirs}");
        }
    }

    #[test]
    fn literals_and_localhost_need_no_look_up() {
        assert_eq!(known("127.0.0.1", 8).unwrap().len(), 1);
        assert_eq!(known("[::1]", 8).unwrap()[0].to_string(), "[::1]:8");
        assert_eq!(known("LocalHost.", 8).unwrap().len(), 2);
        assert_eq!(known("example.org", 8), None);
    }
}
