//! One run: trouble, healing, proof that it works again, and the drain.

use hoody_tunnel::client::Order;
use hoody_tunnel::machine::Event;

use crate::actor::Tally;
use crate::net::{MILLI, SECOND, Sabotage};
use crate::world::{Act, TROUBLE, Trouble, World};

/// A bug that is planted to see whether it is noticed.
#[derive(Debug, Clone, Copy)]
pub enum Bug {
    Net(Sabotage),
    LostWake,
}

/// What a run came to.
pub struct Story {
    tally: Tally,
    log: Vec<String>,
    now: u64,
}

impl Story {
    pub fn of(world: World) -> Story {
        Story {
            tally: world.tally,
            log: world.log,
            now: world.net.now,
        }
    }

    pub fn show(&self) {
        println!("{}\n{:?}", self.log.join("\n"), self.tally);
    }

    pub fn digest(&self) -> String {
        format!("{} {:?} {:?}", self.now, self.tally, self.log)
    }
}

pub fn run(seed: u64, bug: Option<Bug>) -> Story {
    let trouble = match seed % 4 {
        0 => Trouble::None,
        1 => Trouble::Cuts,
        _ => Trouble::Any,
    };
    let mut world = World::new(seed, trouble);
    match bug {
        Some(Bug::Net(Sabotage::NoCount)) => {}
        Some(Bug::Net(sabotage)) => world.net.sabotage = Some((sabotage, 20)),
        Some(Bug::LostWake) => {
            if let Some(kit) = &mut world.kit {
                kit.lose_every = Some(25);
            }
        }
        None => {}
    }
    if matches!(bug, Some(Bug::Net(Sabotage::NoCount))) {
        // Whom the kit lies to may lose everything, and notices.
        world.excuses.excuse(None, 0, u64::MAX);
        world.kit_lies = true;
    }
    wait_until_bound(&mut world, 10);
    if world.kit_lies {
        world.net.sabotage = Some((Sabotage::NoCount, 0));
    }
    schedule(&mut world);
    world.run_for(TROUBLE / MILLI);
    heal(&mut world);
    drain(&mut world);
    if trouble == Trouble::None {
        let tally = &world.tally;
        let unfit = tally.unfit > 0 && world.config.memory_plan().head_parts > 0;
        let good = tally.cut == 0 && tally.refused == 0 && tally.broken == 0 && !unfit;
        assert!(good, "nothing went wrong, and yet: {tally:?}");
    }
    prove(&mut world);
    finish(&mut world);
    Story::of(world)
}

fn schedule(world: &mut World) {
    let laptops = world.laptops.len() as u64;
    for _ in 0..6 + world.dice.below(20) {
        let when = world.net.now + world.dice.below(TROUBLE);
        let index = world.dice.below(laptops) as usize;
        let act = match world.dice.below(3) {
            0 => Act::Caller(index),
            _ => Act::Visitor(index),
        };
        // Now and then many at once.
        for _ in 0..if world.dice.once_in(10) { 8 } else { 1 } {
            world.at(when, act);
        }
    }
    if world.rough {
        let most = if world.only_cuts { 30 } else { 6 };
        for _ in 0..1 + world.dice.below(most) {
            let when = world.net.now + world.dice.below(TROUBLE);
            world.at(when, Act::Fault);
        }
    }
}

fn all_bound(world: &World) -> bool {
    world.laptops.iter().all(|laptop| {
        let ports = [laptop.expose, laptop.pull];
        laptop.online && ports.iter().all(|port| laptop.bound.contains(port))
    })
}

pub fn wait_until_bound(world: &mut World, seconds: u64) {
    for _ in 0..seconds * 2 {
        world.run_for(500);
        if all_bound(world) {
            return;
        }
    }
    panic!(
        "not everything is bound after {seconds} s\n{}",
        world.describe()
    );
}

/// Nothing goes wrong any more; everything comes back by itself.
fn heal(world: &mut World) {
    world.note("from here on nothing goes wrong".into());
    world.healing = true;
    world.net.cut_no_more();
    if matches!(world.net.sabotage, Some((Sabotage::NoCount, _))) {
        world.net.sabotage = None;
    }
    world.upstreams(true);
    if let Some(kit) = &mut world.kit {
        kit.no_descriptors_until = 0;
    }
    for index in 0..world.laptops.len() {
        if let Some(host) = &mut world.laptops[index].host
            && host.asleep_until > world.net.now
        {
            crate::faults::wake_up(world, index);
        }
    }
    world.run_for(30_000);
    world.net.time_out_vanished();
    // Ghosts hold their ports for the grace, and are retried every few seconds.
    wait_until_bound(world, 120);
}

/// Everybody who came in the time of trouble gets to an end.
pub fn drain(world: &mut World) {
    for _ in 0..60 {
        if world.actors_left() == 0 {
            return;
        }
        world.run_for(10_000);
    }
    panic!("somebody waits for ever\n{}", world.describe());
}

/// After all that, every port works.
pub fn prove(world: &mut World) {
    let before = world.tally.clone();
    for index in 0..world.laptops.len() {
        world.visitor(index);
        world.caller(index);
    }
    drain(world);
    let after = &world.tally;
    let spoilt =
        after.cut + after.refused + after.broken - before.cut - before.refused - before.broken;
    let notes = &after.notes[before.notes.len()..];
    assert_eq!(
        spoilt,
        0,
        "healed, and yet: {notes:?}\n{}",
        world.describe()
    );
    let carries = world.config.memory_plan().head_parts > 0;
    let unfit = after.unfit - before.unfit;
    assert!(
        unfit == 0 || !carries,
        "healed, and {unfit} heads do not fit"
    );
    // Local connections that are kept for later, and visitors' goodbyes, take a while.
    world.run_for(20_000);
    let most_lanes = world.config.memory_plan().lanes;
    let lanes: usize = world
        .laptops
        .iter()
        .map(|laptop| most_lanes.min(laptop.connections as usize))
        .sum();
    let leftovers = |world: &World| world.kit.as_ref().expect("a kit").machine.leftovers();
    // Idle lanes go back to a way that is well again, one after the other.
    for _ in 0..60 {
        if leftovers(world)[2] == lanes && world.retains_nothing() {
            break;
        }
        world.run_for(1000);
    }
    let [sessions, streams, conns, _] = leftovers(world);
    assert_eq!(streams, 0, "streams are left\n{}", world.describe());
    assert_eq!(
        conns,
        lanes,
        "connections but idle lanes\n{}",
        world.describe()
    );
    assert!(sessions >= world.laptops.len());
    balance(world);
}

/// Both ends agree on every byte of credit, and neither keeps what the other has. A lie that could be
/// true is not noticed, and the counts are off from then on.
fn balance(world: &World) {
    if world.kit_lies {
        return;
    }
    let kit = world.kit.as_ref().expect("a kit");
    for (index, laptop) in world.laptops.iter().enumerate() {
        let id = laptop.session.as_deref().expect("a session");
        let ours = kit.machine.account(id).expect("an attached session");
        let host = laptop.host.as_ref().expect("a client");
        let theirs = host.machine.account().expect("an attached session");
        let what = format!("client {index}: kit {ours:?}, client {theirs:?}");
        assert_eq!((ours.retained, theirs.retained), (0, 0), "{what}");
        assert_eq!(ours.may_send, theirs.may_be_sent, "{what}");
        assert_eq!(theirs.may_send, ours.may_be_sent, "{what}");
        for account in [ours, theirs] {
            let window = account.may_be_sent + account.withheld;
            assert!(account.withheld <= window / 4, "{what}");
        }
    }
}

/// Everybody leaves, and nothing is left.
pub fn finish(world: &mut World) {
    for laptop in &mut world.laptops {
        laptop.closing = true;
        if let Some(host) = &mut laptop.host {
            host.order(Order::Close { at_once: false }, &mut world.net);
        }
    }
    world.run_for(8_000);
    for (index, laptop) in world.laptops.iter().enumerate() {
        assert!(
            laptop.host.is_none(),
            "client {index} did not stop\n{}",
            world.describe()
        );
        assert_eq!(laptop.ended, Some(None), "client {index} ended badly");
    }
    // What an earlier process of a laptop left behind lasts for the grace.
    let grace = world.config.takeover_grace.as_millis() as u64;
    world.run_for(grace + 20_000);
    let Some(kit) = &mut world.kit else {
        panic!("the kit is gone");
    };
    let left = kit.machine.leftovers();
    assert_eq!(left, [0; 4], "sessions, streams, conns, timers");
    assert_eq!(
        kit.descriptors(),
        1,
        "descriptors but the kit's own listener"
    );
    world.finishing = true;
    kit.tell(Event::Shutdown, &mut world.net);
    world.run_for(10_000);
    let kit = world.kit.as_ref().expect("a kit");
    assert!(kit.stopped, "the kit does not stop");
    assert_eq!(kit.machine.leftovers(), [0; 4], "after the shutdown");
    assert_eq!(kit.descriptors(), 0);
    assert_eq!(world.net.count(), 0, "{}", world.net.describe_all());
    assert!(world.net.now < 7200 * SECOND);
}
