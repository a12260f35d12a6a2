//! What clients tell, and what their users do about it.

use hoody_tunnel::client::{Notice, SessionEvent};

use crate::net::SECOND;
use crate::world::{Act, World};

/// Something that a client tells the program around it.
pub fn read_notice(world: &mut World, index: usize, notice: Notice) {
    match notice {
        Notice::Bound {
            reference,
            outcome: Err(why),
        } => {
            let laptop = &mut world.laptops[index];
            let port = laptop.references.remove(&reference);
            let closing = laptop.closing || laptop.ended.is_some();
            world.note(format!("client {index}: bind of {port:?} refused: {why}"));
            if let (Some(port), false) = (port, closing) {
                world.after(2000, Act::Bind(index, port));
            }
        }
        Notice::Events(events) => {
            for event in events {
                read_event(world, index, event);
            }
        }
        Notice::Heir(heir) => crate::succession::inherit(world, index, *heir),
        Notice::Session(id) => {
            world.laptops[index].session = Some(id.as_str().to_owned());
        }
        _ => {}
    }
}

fn read_event(world: &mut World, index: usize, event: SessionEvent) {
    let laptop = &mut world.laptops[index];
    match event {
        SessionEvent::Bound { binding, .. } => {
            laptop.bound.insert(binding.container_port);
        }
        SessionEvent::Online { .. } | SessionEvent::Resumed { .. } => {
            laptop.online = true;
            world.note(format!("client {index} is online"));
        }
        SessionEvent::Lost { why, .. } => {
            laptop.online = false;
            world.note(format!("client {index} lost the kit: {why}"));
        }
        SessionEvent::NotBound { binding, why } => {
            let port = binding.container_port;
            laptop.bound.remove(&port);
            let mine = port == laptop.expose || port == laptop.pull;
            world.note(format!("client {index} is refused port {port}: {why}"));
            // The client tries by itself, but never takes from somebody what it has lost.
            if mine {
                world.after(5000, Act::Retake(index, port));
            }
        }
        SessionEvent::TakenOver { binding, .. } => {
            let port = binding.container_port;
            laptop.bound.remove(&port);
            let mine = port == laptop.expose || port == laptop.pull;
            world.note(format!("client {index} lost port {port}"));
            if mine {
                world.after(1500, Act::Bind(index, port));
            }
        }
        SessionEvent::StreamClosed(record) if record.cut.is_some() => {
            world.note(format!("client {index}: {record:?}"));
        }
        SessionEvent::Request(record) if record.cut.is_some() => {
            world.note(format!("client {index}: {record:?}"));
        }
        SessionEvent::Closed { error } => {
            world.note(format!("client {index} closed: {error:?}"));
            world.laptops[index].ended = Some(error);
        }
        _ => {}
    }
}

/// A client's run is over.
pub fn client_stopped(world: &mut World, index: usize) {
    let laptop = &mut world.laptops[index];
    assert!(laptop.ended.is_some(), "it stopped without a word");
    if let Some(host) = &laptop.host {
        assert_eq!(
            host.descriptors(),
            0,
            "client {index} stopped with connections"
        );
    }
    laptop.host = None;
    laptop.online = false;
    laptop.bound.clear();
    if !laptop.closing {
        let may = world.rough && !world.only_cuts || world.kit_lies;
        assert!(may, "client {index} ended: {:?}", laptop.ended);
        let from = world.net.now;
        world.excuses.excuse(Some(index), from, from + 12 * SECOND);
        world.after(1000, Act::StartClient(index));
    }
}
