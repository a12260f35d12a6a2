//! A kit that is succeeded by another one (PROTOCOL §6): both listen on the same sockets for a
//! while, and the one before serves what it has begun; so do the machines of a laptop.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use hoody_tunnel::client::{Client, Heir, Notice};
use hoody_tunnel::kit::handover::Handover;
use hoody_tunnel::kit::{Kit, KitNotice, KitOrder};
use hoody_tunnel::machine::Event;

use crate::dice::Dice;
use crate::host::Host;
use crate::net::{Net, Owner};
use crate::world::{Act, World};

/// Kits besides the one that is there.
#[derive(Default)]
pub struct Succession {
    /// Those that have a successor and are not through.
    pub before: Vec<Host<Kit>>,
    /// A program that is being started, and will know this.
    starting: Option<(Handover, BTreeSet<SocketAddr>)>,
    /// The successor has not said yet that it listens.
    is_new: bool,
}

impl Succession {
    /// The kit is gone: nobody begins where it stood.
    pub fn abandon(&mut self, net: &mut Net) {
        self.is_new = false;
        let sockets = self.starting.take().map(|(_, sockets)| sockets);
        for addr in sockets.into_iter().flatten() {
            net.close_listener(addr);
        }
    }

    pub fn next_timeout(&self) -> Option<u64> {
        self.before.iter().filter_map(Host::next_timeout).min()
    }
}

/// Somebody wants a new version.
pub fn upgrade(world: &mut World) {
    if world.succession.starting.is_some() || world.succession.is_new {
        return;
    }
    if let Some(kit) = &mut world.kit {
        world.log.push("an upgrade begins".into());
        kit.tell(Event::Upgrade, &mut world.net);
    }
}

/// What a kit says: it wants a successor, or is one that listens.
pub fn read_notices(world: &mut World) {
    let notices: Vec<KitNotice> = match &mut world.kit {
        Some(kit) => kit.notices.drain(..).collect(),
        None => return,
    };
    for notice in notices {
        match notice {
            KitNotice::HandOver(handover) => {
                let kit = world.kit.as_mut().expect("it has just spoken");
                let sockets = kit.share(&mut world.net);
                world.succession.starting = Some((handover, sockets));
                // A program needs a moment to begin, in which all goes on.
                let millis = world.dice.below(400);
                world.after(millis, Act::Succeed);
            }
            KitNotice::Listening(_) if std::mem::take(&mut world.succession.is_new) => {
                world.note("a successor stands".into());
                let kit = world.kit.as_mut().expect("it has just spoken");
                kit.leave_rest(&mut world.net);
                for kit in &mut world.succession.before {
                    kit.order(KitOrder::Succeeded, &mut world.net);
                }
            }
            _ => {}
        }
    }
    let before = &mut world.succession.before;
    for kit in before.iter().filter(|kit| kit.stopped) {
        assert_eq!(kit.machine.leftovers(), [0; 4], "after a drain");
        assert_eq!(kit.descriptors(), 0, "a kit was through with descriptors");
    }
    before.retain(|kit| !kit.stopped);
}

/// The program that was started runs.
pub fn succeed(world: &mut World) {
    let Some((handover, sockets)) = world.succession.starting.take() else {
        return;
    };
    let now = hoody_tunnel::clock::Instant::from_nanos(world.net.now);
    let kit = Kit::successor(world.config.clone(), world.dice.entropy(), now, handover);
    let dice = Dice::new(world.dice.number());
    let kit = Host::inheriting(kit, Owner::Kit, dice, sockets, &mut world.net);
    world.succession.is_new = true;
    world.succession.before.extend(world.kit.replace(kit));
}

/// A laptop's machine is busy with the kit before: another one goes to its successor.
pub fn inherit(world: &mut World, index: usize, heir: Heir) {
    let now = hoody_tunnel::clock::Instant::from_nanos(world.net.now);
    let client = Client::heir(heir, world.dice.entropy(), now);
    let dice = Dice::new(world.dice.number());
    let host = Host::new(client, Owner::Client(index), dice, &mut world.net);
    let laptop = &mut world.laptops[index];
    laptop.leaving.extend(laptop.host.replace(host));
}

/// What a laptop's machines before have to say, which is little.
pub fn pass_on(world: &mut World, index: usize) {
    let laptop = &mut world.laptops[index];
    let mut orders = Vec::new();
    for host in &mut laptop.leaving {
        let passed = host.notices.drain(..).filter_map(|notice| match notice {
            Notice::Passed(order) => Some(order),
            other => {
                eprintln!("{} leaving says {other:?}", world.net.now / 1_000_000);
                None
            }
        });
        orders.extend(passed);
        if host.stopped {
            assert_eq!(
                host.descriptors(),
                0,
                "a machine was through with connections"
            );
        }
    }
    laptop.leaving.retain(|host| !host.stopped);
    for order in orders {
        if let Some(host) = &mut laptop.host {
            host.order(order, &mut world.net);
        }
    }
}
