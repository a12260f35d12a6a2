//! What somebody wishes to have: ports of the container, and ports of this machine.

use hoody_tunnel::client::{BindOptions, ForwardOptions, Target};

use crate::state::Asked;

/// One binding that is wanted.
pub struct Wish {
    /// What it is among the wishes of other runs.
    pub name: String,
    /// What is reached, for people.
    pub target: String,
    /// The port on the kit to ask for.
    pub port: u16,
    /// Whether any other port will do when that one cannot be had.
    pub any_port: bool,
    /// Whether it costs another session its port.
    pub takes_over: bool,
    /// The loopback address of the container that it listens on, where one was asked for.
    pub on: Option<String>,
    /// Makes the bind for a port.
    pub make: Box<dyn Fn(u16) -> BindOptions + Send + Sync>,
}

impl Wish {
    /// What a next run knows it by.
    pub fn asked(&self) -> Asked {
        Asked {
            name: self.name.clone(),
            port: if self.any_port { 0 } else { self.port },
        }
    }

    /// The bind to try first, where a run before had this port, perhaps in another session.
    pub fn first(&self, before: Option<u16>, replaces: Option<String>) -> BindOptions {
        let may_differ = self.any_port || self.port == 0;
        let options = match before.filter(|_| may_differ) {
            // Whoever has it by now has it with good reason.
            Some(port) => (self.make)(port).any_port(true).takeover(false),
            None => (self.make)(self.port),
        };
        match replaces {
            Some(session) => options.replaces(session),
            None => options,
        }
    }
}

/// All that is wanted.
pub struct Wishes {
    /// Ports of the container.
    pub binds: Vec<Wish>,
    /// Ports of this machine.
    pub forwards: Vec<ForwardOptions>,
}

impl Wishes {
    /// One port of the container.
    pub fn bind(wish: Wish) -> Wishes {
        Wishes {
            binds: vec![wish],
            forwards: Vec::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.binds.len() + self.forwards.len()
    }
}

/// A port of this machine, this very one or what is free.
pub fn forwarded(target: &Target, port: Option<u16>) -> ForwardOptions {
    let options = ForwardOptions::to(target.clone());
    match port {
        Some(port) => options.local_port(port),
        None => options,
    }
}
