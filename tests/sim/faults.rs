//! What goes wrong, one thing at a time, at random.

use hoody_tunnel::limits::CLOCK_JUMP;
use hoody_tunnel::machine::Event;

use crate::net::{End, Gone, MILLI, SECOND};
use crate::world::{Act, World};

pub fn strike(world: &mut World) {
    if world.healing {
        return;
    }
    let laptops = world.laptops.len() as u64;
    let index = world.dice.below(laptops) as usize;
    match world.only_cuts || world.dice.once_in(2) {
        true => cut(world, index),
        false => harm(world, index),
    }
}

/// Something happens to the laptop's connections to the kit.
fn cut(world: &mut World, index: usize) {
    let now = world.net.now;
    let away = |world: &mut World, millis: u64| {
        world.excuses.away(index, now, now + millis * MILLI);
    };
    match world.dice.below(14) {
        0 => each_lane(world, index, "reset", |world, end| {
            world.net.cut(end, Gone::Reset)
        }),
        1 => one_lane(world, index, "reset", |world, end| {
            world.net.cut(end, Gone::Reset)
        }),
        2 => {
            away(world, GIVEN_UP_AFTER);
            each_lane(world, index, "vanish", |world, end| world.net.vanish(end));
        }
        3 => {
            away(world, GIVEN_UP_AFTER);
            one_lane(world, index, "vanish", |world, end| world.net.vanish(end));
        }
        4 => {
            let millis = world.dice.below(9000);
            away(world, millis);
            each_lane(world, index, "freeze", move |world, end| {
                world.net.freeze(end, now + millis * MILLI)
            });
        }
        5 => {
            let millis = world.dice.below(9000);
            away(world, millis);
            one_lane(world, index, "freeze", move |world, end| {
                world.net.freeze(end, now + millis * MILLI)
            });
        }
        6 => sleep(world, index),
        7 => {
            away(world, GIVEN_UP_AFTER);
            partition(world, index);
        }
        8 => {
            away(world, GIVEN_UP_AFTER);
            end_on_the_way(world, index);
        }
        9 => {
            world.note("the kit is disturbed".into());
            tell_kit(world, Event::Disturbed);
        }
        10 => {
            world.note(format!("client {index} is disturbed"));
            tell_client(world, index, Event::Disturbed);
        }
        _ => in_a_message(world, index),
    }
}

/// A lane is reset behind the next few bytes of one direction: in the middle of a message, of a
/// resend, or of the words of a new connection.
fn in_a_message(world: &mut World, index: usize) {
    let (side, count) = (world.dice.below(2) as usize, world.dice.size(100_000));
    let what = format!("reset behind {count} bytes from side {side}");
    let hit = |world: &mut World, end: End| world.net.cut_after((end.0, side), count);
    match world.dice.once_in(3) {
        true => each_lane(world, index, &what, hit),
        false => one_lane(world, index, &what, hit),
    }
}

/// Something else goes wrong, which streams need not survive.
fn harm(world: &mut World, index: usize) {
    let now = world.net.now;
    match world.dice.below(15) {
        0 => kill_kit(world),
        1 => kill_client(world, index),
        2 => {
            kill_kit(world);
            kill_client(world, index);
        }
        3 => starve(world, None),
        4 => {
            world.note("local servers are down".into());
            world.excuses.excuse(None, now, now + 4 * SECOND);
            world.upstreams(false);
            world.after(3000, Act::Upstreams(true));
        }
        5 => take_over(world, index),
        6 | 7 => starve(world, Some(index)),
        8 => {
            world.note(format!("client {index} gives a port up"));
            world.excuses.excuse(Some(index), now, now + 30 * SECOND);
            world.unbind(index);
        }
        9 => {
            world.note("an operator kills a session".into());
            world.excuses.excuse(None, now, now + 20 * SECOND);
            world.operator();
        }
        10 => {
            world.note("the kit is asked to end".into());
            world.excuses.excuse(None, now, now + 20 * SECOND);
            tell_kit(world, Event::Shutdown);
        }
        11 => {
            world.note(format!("client {index} is asked to end"));
            world.excuses.excuse(Some(index), now, now + 20 * SECOND);
            tell_client(world, index, Event::Shutdown);
        }
        12 => {
            // What is cut of the kit before does not come back.
            let until = now + world.config.drain.as_nanos() as u64 + 10 * SECOND;
            world.excuses.excuse(None, now, until);
            crate::succession::upgrade(world);
        }
        _ => world.visitors_vanish(),
    }
}

fn tell_kit(world: &mut World, event: Event) {
    if let Some(kit) = &mut world.kit {
        kit.tell(event, &mut world.net);
    }
}

fn tell_client(world: &mut World, index: usize, event: Event) {
    if let Some(host) = &mut world.laptops[index].host {
        host.tell(event, &mut world.net);
    }
}

fn lanes(world: &World, index: usize) -> Vec<End> {
    let Some(host) = &world.laptops[index].host else {
        return Vec::new();
    };
    host.ends()
        .filter(|end| world.net.is_to_kit(*end))
        .collect()
}

fn each_lane(world: &mut World, index: usize, what: &str, hit: impl Fn(&mut World, End)) {
    world.note(format!("all lanes of client {index}: {what}"));
    for end in lanes(world, index) {
        hit(world, end);
    }
}

fn one_lane(world: &mut World, index: usize, what: &str, hit: impl Fn(&mut World, End)) {
    let lanes = lanes(world, index);
    let at = world.dice.below(lanes.len() as u64) as usize;
    if let Some(end) = lanes.get(at) {
        world.note(format!("lane {at} of client {index}: {what}"));
        hit(world, *end);
    }
}

/// The laptop sleeps; its network may forget it meanwhile.
fn sleep(world: &mut World, index: usize) {
    let millis = world.dice.below(30_000);
    let forgets = world.dice.once_in(2);
    world.note(format!(
        "client {index} sleeps for {millis} ms, forgotten: {forgets}"
    ));
    if forgets {
        each_lane(world, index, "vanish", |world, end| world.net.vanish(end));
    }
    let until = world.net.now + millis * MILLI;
    world.excuses.away(index, world.net.now, until);
    if let Some(host) = &mut world.laptops[index].host {
        host.sleep(world.net.now, until);
        world.at(until, Act::WakeUp(index));
    }
}

pub fn wake_up(world: &mut World, index: usize) {
    let now = world.net.now;
    let host = world.laptops[index].host.as_mut();
    // Its host notices that it overslept; less, where its clocks show it.
    let overslept = host.is_some_and(|host| now > host.asleep_since + CLOCK_JUMP.as_nanos() as u64);
    if world.dice.once_in(2) || overslept {
        tell_client(world, index, Event::Disturbed);
    }
    if let Some(host) = &mut world.laptops[index].host {
        host.asleep_until = 0;
        host.post_all();
    }
}

fn kill_kit(world: &mut World) {
    if let Some(mut kit) = world.kit.take() {
        let silently = world.dice.once_in(3);
        world.note(format!("the kit is killed, silently: {silently}"));
        kit.kill(silently, &mut world.net);
        for mut before in std::mem::take(&mut world.succession.before) {
            before.kill(silently, &mut world.net);
        }
        world.succession.abandon(&mut world.net);
    }
    let millis = world.dice.below(8000);
    let until = world.net.now + millis * MILLI + 25 * SECOND;
    world.excuses.excuse(None, world.net.now, until);
    world.after(millis, Act::StartKit);
}

fn kill_client(world: &mut World, index: usize) {
    if let Some(mut host) = world.laptops[index].host.take() {
        let silently = world.dice.once_in(3);
        world.note(format!("client {index} is killed, silently: {silently}"));
        host.kill(silently, &mut world.net);
        world.laptops[index].leaving.clear();
        world.laptops[index].online = false;
        world.laptops[index].bound.clear();
    }
    let millis = world.dice.below(8000);
    let until = world.net.now + millis * MILLI + 15 * SECOND;
    world.excuses.excuse(Some(index), world.net.now, until);
    world.after(millis, Act::StartClient(index));
}

/// Bytes pass in one direction only.
fn partition(world: &mut World, index: usize) {
    let until = world.net.now + world.dice.below(20_000) * MILLI;
    let side = world.dice.below(2) as usize;
    each_lane(world, index, "one-way partition", move |world, end| {
        world.net.partition((end.0, side), until)
    });
}

/// A middlebox ends one direction of a lane in mid-stream, or both.
fn end_on_the_way(world: &mut World, index: usize) {
    let which = world.dice.below(3) as usize;
    one_lane(world, index, "FIN by the network", move |world, end| {
        for side in [0, 1] {
            if which != 1 - side {
                world.net.end_on_the_way((end.0, side));
            }
        }
    });
}

/// The kit's system has no descriptors for a while, or that of a client.
fn starve(world: &mut World, client: Option<usize>) {
    let millis = world.dice.below(3000);
    starve_for(world, client, millis);
}

fn starve_for(world: &mut World, client: Option<usize>, millis: u64) {
    world.note(format!("no descriptors for {millis} ms: {client:?}"));
    let until = world.net.now + millis * MILLI;
    match (client, &mut world.kit) {
        (Some(index), _) => {
            world
                .excuses
                // It tries more again only after a while.
                .excuse(Some(index), world.net.now, until + 5 * SECOND);
            if let Some(host) = &mut world.laptops[index].host {
                host.no_descriptors_until = until;
            }
        }
        (None, Some(kit)) => {
            kit.no_descriptors_until = until;
            for index in 0..world.laptops.len() {
                world.excuses.away(index, world.net.now, until);
            }
        }
        (None, None) => {}
    }
    world.at(until, Act::Descriptors);
}

/// Planted: nothing comes through any lane for a while.
pub fn choke(world: &mut World, millis: u64) {
    let until = world.net.now + millis * MILLI;
    for index in 0..world.laptops.len() {
        each_lane(world, index, "choked", |world, end| {
            world.net.freeze(end, until)
        });
    }
}

/// Planted: the kit answers nobody for a while.
pub fn nap(world: &mut World, millis: u64) {
    let until = world.net.now + millis * MILLI;
    if let Some(kit) = &mut world.kit {
        kit.asleep_until = until;
    }
}

/// Another laptop wants the port.
fn take_over(world: &mut World, index: usize) {
    let victim = world.dice.below(world.laptops.len() as u64) as usize;
    let port = world.laptops[victim].expose;
    let forever = u64::MAX;
    world.excuses.excuse(Some(victim), world.net.now, forever);
    world.note(format!("client {index} takes port {port} over"));
    world.bind(index, port, true);
}

/// How long a connection that is silent for ever is waited for, in milliseconds.
const GIVEN_UP_AFTER: u64 = 6000;

/// SIGTERM for the kit.
pub fn end_kit(world: &mut World) {
    tell_kit(world, Event::Shutdown);
}

/// SIGTERM for a client.
pub fn end_client(world: &mut World, index: usize) {
    tell_client(world, index, Event::Shutdown);
}

/// No client's system has a descriptor left for a while.
pub fn exhaust_clients(world: &mut World, millis: u64) {
    for index in 0..world.laptops.len() {
        starve_for(world, Some(index), millis);
    }
}
