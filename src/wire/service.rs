//! What can be bound: kinds and modes in the pairs that there are.

use super::control::{Bind, BindMode, BindingKind};

/// What a binding is: a kind and a mode, in the pairs that there are and no other (PROTOCOL §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// HTTP from the world to the laptop.
    HttpExpose,
    /// Raw connections from the world to the laptop.
    TcpExpose,
    /// Raw connections from the container to the laptop.
    TcpPull,
    /// Datagrams from the world to the laptop.
    UdpExpose,
    /// Datagrams from the container to the laptop.
    UdpPull,
}

impl Service {
    /// All of them.
    pub const ALL: [Service; 5] = [
        Service::HttpExpose,
        Service::TcpExpose,
        Service::TcpPull,
        Service::UdpExpose,
        Service::UdpPull,
    ];

    /// What a BIND asks for, if there is such a thing.
    pub fn of(kind: BindingKind, mode: BindMode) -> Option<Service> {
        let mut all = Service::ALL.into_iter();
        all.find(|it| (it.kind(), it.mode()) == (kind, mode))
    }

    /// The same of a whole BIND.
    pub fn asked(bind: &Bind) -> Option<Service> {
        Service::of(bind.kind, bind.mode)
    }

    /// What it carries.
    pub fn kind(self) -> BindingKind {
        match self {
            Service::HttpExpose => BindingKind::Http,
            Service::TcpExpose | Service::TcpPull => BindingKind::Tcp,
            Service::UdpExpose | Service::UdpPull => BindingKind::Udp,
        }
    }

    /// Which way it goes.
    pub fn mode(self) -> BindMode {
        match self {
            Service::HttpExpose | Service::TcpExpose | Service::UdpExpose => BindMode::Expose,
            Service::TcpPull | Service::UdpPull => BindMode::Pull,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_a_service_or_nothing() {
        let kinds = [
            BindingKind::Http,
            BindingKind::Tcp,
            BindingKind::Udp,
            BindingKind::Unknown,
        ];
        let modes = [BindMode::Expose, BindMode::Pull, BindMode::Unknown];
        let pairs = kinds
            .into_iter()
            .flat_map(|kind| modes.map(|mode| (kind, mode)));
        let found: Vec<_> = pairs
            .filter_map(|(kind, mode)| Service::of(kind, mode))
            .collect();
        assert_eq!(found, Service::ALL);
    }
}
