//! A TCP server whose connections are served by a closure, a thread each.

use super::becomes;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Accepts until it is dropped.
pub struct TcpServer {
    /// Where it listens.
    pub port: u16,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
}

impl TcpServer {
    /// Serves each connection with `serve` on a thread of its own.
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> TcpServer {
        TcpServer::on((Ipv4Addr::LOCALHOST, 0).into(), serve)
    }

    /// The same at a given address.
    #[track_caller]
    pub fn on(at: SocketAddr, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> TcpServer {
        let listener = TcpListener::bind(at).expect("a free address to listen on");
        let address = listener.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stopped, count, serve) = (stop.clone(), accepted.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
        TcpServer {
            port: address.port(),
            address,
            stop,
            accepted,
        }
    }

    /// How many connections it has accepted so far. The system takes a connection before we do:
    /// who has connected may not be counted yet.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits until it has accepted `count` connections.
    #[track_caller]
    pub fn accepts(&self, count: usize) {
        becomes("the connections accepted", count, || self.accepted());
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            ip => ip,
        };
        // The acceptor sleeps in accept(2); one more connection wakes it up to see the flag.
        let _ = TcpStream::connect_timeout(&(ip, self.port).into(), Duration::from_secs(1));
    }
}

/// Makes the next close of this socket a reset.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the pointer and the size are those of a live `linger` on our stack.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "SO_LINGER on a live socket");
}

/// Drops the connection with a reset.
pub fn reset(stream: TcpStream) {
    reset_on_close(&stream);
    drop(stream);
}

/// Connects to a port of loopback from another address of it.
#[track_caller]
pub fn connect_from(from: Ipv4Addr, port: u16) -> TcpStream {
    let at = |address: Ipv4Addr, port: u16| libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        sin_zero: [0; 8],
    };
    let (from, to) = (at(from, 0), at(Ipv4Addr::LOCALHOST, port));
    let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: socket(2) takes numbers; the new descriptor is nobody else's.
    let stream = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0, "a socket");
        TcpStream::from_raw_fd(socket)
    };
    let socket = stream.as_raw_fd();
    // SAFETY: both addresses live on our stack through the calls, and have this size.
    let outcome = unsafe {
        libc::bind(socket, (&raw const from).cast(), size)
            | libc::connect(socket, (&raw const to).cast(), size)
    };
    assert_eq!(outcome, 0, "somebody listens there");
    stream
}
