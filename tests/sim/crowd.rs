//! A crowd: hundreds of slow exchanges at once, and small ones beside them.
//!
//! Nothing goes wrong, so nobody is cut, however slow. Where streams run out, newcomers hear no
//! within [`NO_WITHIN`].
//!
//! A small exchange waits for nobody while its link is free: it is whole within [`SMALL_WITHIN`].
//! Where the slow ones want more than the link carries, it also waits for bytes that stand in front
//! of it, and only for those: each way its lane holds a bounded queue ([`QUEUE`]), in which it waits
//! once, and another time for its turn to join it. How long that is tells the link. Who talks on has
//! sent not long ago, and so waits for its turn up to twice.

use hoody_tunnel::limits::{BULK_PAYLOAD, LANE_QUEUE_SOFT};

use crate::faults;
use crate::net::{MILLI, Owner, SECOND};
use crate::plan::Style;
use crate::run::{Story, drain, finish, prove, wait_until_bound};
use crate::world::{Act, World};

/// How long a small exchange may take beside slow ones, on a link that carries what they want.
pub const SMALL_WITHIN: u64 = 100 * MILLI;
/// Bytes that may stand in front of it in a lane, one way.
const QUEUE: u64 = (LANE_QUEUE_SOFT + BULK_PAYLOAD) as u64;
/// How long a refusal may take.
pub const NO_WITHIN: u64 = 1000 * MILLI;

/// A bug that is planted to see whether it is noticed.
#[derive(Debug, Clone, Copy)]
pub enum Planted {
    /// Whoever wants something small waits as for a lane that is choked.
    Starves,
    /// So does whoever is to hear no.
    SaysNothing,
    /// Slow visitors are cut.
    CutsTheSlow,
    /// The kit holds more than it may.
    Wastes,
}

/// What happens to a crowd although nothing is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The kit is asked to end, as by SIGTERM.
    KitEnds,
    /// So is a client.
    ClientEnds,
    /// The clients' systems have no descriptor left for a while.
    NoDescriptors,
}

/// Runs a crowd; `streams`: how many a session may have.
pub fn crowd(seed: u64, streams: usize, planted: Option<Planted>) -> Story {
    let mut world = World::crowded(seed, streams);
    if matches!(planted, Some(Planted::Wastes)) {
        world.wasteful();
    }
    let start = gather(&mut world);
    if let Some(planted) = planted {
        world.run_for(3000);
        match planted {
            Planted::Starves => faults::choke(&mut world, 3000),
            Planted::SaysNothing => faults::nap(&mut world, 3000),
            Planted::CutsTheSlow => world.cut_somebody(),
            Planted::Wastes => {}
        }
    }
    world.run_until(start + 12 * SECOND);
    drain(&mut world);
    judge(&world, streams);
    prove(&mut world);
    finish(&mut world);
    Story::of(world)
}

/// Runs a crowd that meets with something: afterwards all works again and nothing is left.
pub fn crowd_that_meets(seed: u64, fate: Fate) -> Story {
    let mut world = World::crowded(seed, 1024);
    let start = gather(&mut world);
    // While some still come, or once all are there.
    world.run_for(if fate == Fate::NoDescriptors {
        700
    } else {
        4000
    });
    (world.rough, world.healing) = (fate != Fate::NoDescriptors, true);
    match fate {
        Fate::KitEnds => faults::end_kit(&mut world),
        Fate::ClientEnds => faults::end_client(&mut world, 0),
        Fate::NoDescriptors => faults::exhaust_clients(&mut world, 2000),
    }
    // Time for everybody to come back, with new sessions whose ports are bound again.
    world.run_until(start + 30 * SECOND);
    wait_until_bound(&mut world, 60);
    drain(&mut world);
    let tally = &world.tally;
    if fate == Fate::NoDescriptors {
        let no = tally.slowest_no;
        assert_eq!(tally.cut + tally.broken, 0, "short, and cut: {tally:?}");
        assert!(tally.refused > 0, "nobody was refused");
        assert!(no <= NO_WITHIN, "it took {} ms to say no", no / MILLI);
    } else {
        assert!(tally.cut > 0, "it ended, and nobody noticed");
    }
    prove(&mut world);
    finish(&mut world);
    Story::of(world)
}

/// Has all of them come; says since when.
fn gather(world: &mut World) -> u64 {
    wait_until_bound(world, 30);
    let laptops = world.laptops.len() as u64;
    let slow = 100 + world.dice.below(200);
    let start = world.net.now;
    for index in 0..world.laptops.len() {
        world.at(start, Act::Echo(index, 80));
    }
    for _ in 0..slow {
        let index = world.dice.below(laptops) as usize;
        let when = start + world.dice.below(2 * SECOND);
        world.at(when, Act::Crowd(index, Style::Slow));
    }
    for step in 0..40 {
        let index = world.dice.below(laptops) as usize;
        world.at(start + step * 250 * MILLI, Act::Crowd(index, Style::Small));
    }
    start
}

fn judge(world: &World, streams: usize) {
    let tally = &world.tally;
    assert_eq!(tally.cut + tally.broken, 0, "slow, and cut: {tally:?}");
    let no = tally.slowest_no;
    assert!(no <= NO_WITHIN, "it took {} ms to say no", no / MILLI);
    let mut all = Vec::new();
    for (index, laptop) in world.laptops.iter().enumerate() {
        let queue = world.net.slowest_lane(Owner::Client(index), QUEUE);
        let [most, most_echo] = [4, 4].map(|queues| (SMALL_WITHIN + queues * queue) / MILLI);
        let small = tally.slowest_small.get(&laptop.expose);
        let echo = tally.slowest_echo.get(&laptop.pull);
        let [small, echo] = [small, echo].map(|slowest| slowest.map_or(0, |it| it / MILLI));
        all.push(format!("{small} of {most} and {echo} of {most_echo}"));
        assert!(
            small <= most && echo <= most_echo,
            "beside slow ones it took {}",
            all.join(", ")
        );
    }
    // Shown with `--nocapture`, and where a crowd fails.
    println!(
        "small within {} ms, no within {} ms, refused {}, whole {}, held {} KiB",
        all.join(", "),
        no / MILLI,
        tally.refused,
        tally.whole,
        world.most_held / 1024
    );
    let short = streams < 100;
    assert!(
        short || tally.refused == 0,
        "refused, with room for all: {tally:?}"
    );
}
