//! What sessions, bindings and ports are called, for all parts alike.

use crate::table::Key;
use crate::wire::control::BindMode;
use crate::wire::service::Service;

/// Marks keys that name sessions.
#[derive(Debug)]
pub(super) enum SessionMark {}
/// The kit's name for a session, which never leaves it.
pub(super) type SessionKey = Key<SessionMark>;

/// Marks keys that name bindings.
#[derive(Debug)]
pub(super) enum BindingMark {}
/// The kit's name for a binding.
pub(super) type BindingKey = Key<BindingMark>;

/// Whose port numbers are meant: both have all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(super) fn of(service: Service) -> Protocol {
        match service {
            Service::HttpExpose | Service::TcpExpose | Service::TcpPull => Protocol::Tcp,
            Service::UdpExpose | Service::UdpPull => Protocol::Udp,
        }
    }
}

/// Which way a binding goes. Of one way all ports are one space, whatever they carry: HTTP and raw
/// TCP of the same number exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// From the world to the laptop.
    Expose,
    /// From the container to the laptop.
    Pull,
}

impl Mode {
    pub(super) fn of(service: Service) -> Mode {
        match service.mode() {
            BindMode::Pull => Mode::Pull,
            BindMode::Expose | BindMode::Unknown => Mode::Expose,
        }
    }
}
