//! What the operator and the system tell a process: signals, changes of network.

use hoody_tunnel::reactor::Options;

use crate::child;
use crate::remote::{Notice, Order, Remote, Rig};

#[test]
fn each_signal_is_told_as_a_shutdown() {
    if !child::is_child("world::each_signal_is_told_as_a_shutdown") {
        return;
    }
    // Under nohup it would be ignored, which the reactor rightly leaves so.
    // SAFETY: the default action is valid for any signal.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    let options = Options {
        signals: true,
        ..Options::default()
    };
    let rig = Rig::with(Remote::new(), options);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGINT] {
        // SAFETY: a signal to ourselves, whose handler is installed.
        assert_eq!(unsafe { libc::kill(libc::getpid(), signal) }, 0);
        assert!(matches!(rig.next(), Notice::Shutdown));
    }
    let second = Options {
        signals: true,
        ..Options::default()
    };
    let refused = hoody_tunnel::reactor::Reactor::new(Remote::new(), second);
    assert!(refused.is_err(), "two reactors cannot both catch signals");
}

#[test]
#[cfg(target_os = "linux")]
fn a_new_address_is_told_as_a_disturbance_once() {
    if !child::is_child_with_own_network("world::a_new_address_is_told_as_a_disturbance_once") {
        return;
    }
    let options = Options {
        watch_network: true,
        ..Options::default()
    };
    let rig = Rig::with(Remote::new(), options);
    assert!(rig.is_quiet());
    loopback_up();
    assert!(matches!(rig.next(), Notice::Disturbed));
    assert!(rig.is_quiet(), "a burst of messages is one disturbance");
    rig.order(Order::Stop);
}

/// Brings the loopback interface of this network up, which gives it its addresses.
#[cfg(target_os = "linux")]
fn loopback_up() {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS takes an ifreq, which lives through the call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}
