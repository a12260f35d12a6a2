//! A crowd: hundreds of slow exchanges at once, and small ones beside them.
//!
//! Nothing goes wrong, so nobody is cut, however slow. The link is good, so a small exchange waits
//! for nobody: it is whole within [`SMALL_WITHIN`]. Where streams run out, newcomers hear no within
//! [`NO_WITHIN`].

use crate::faults;
use crate::net::{MILLI, SECOND};
use crate::plan::Style;
use crate::run::{Story, drain, finish, prove, wait_until_bound};
use crate::world::{Act, World};

/// How long a small exchange may take beside slow ones.
pub const SMALL_WITHIN: u64 = 500 * MILLI;
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

/// Runs a crowd; `streams`: how many a session may have.
pub fn crowd(seed: u64, streams: usize, planted: Option<Planted>) -> Story {
    let mut world = World::crowded(seed, streams);
    if matches!(planted, Some(Planted::Wastes)) {
        world.wasteful();
    }
    wait_until_bound(&mut world, 30);
    let laptops = world.laptops.len() as u64;
    let slow = 100 + world.dice.below(200);
    let start = world.net.now;
    for _ in 0..slow {
        let index = world.dice.below(laptops) as usize;
        let when = start + world.dice.below(2 * SECOND);
        world.at(when, Act::Crowd(index, Style::Slow));
    }
    for step in 0..40 {
        let index = world.dice.below(laptops) as usize;
        world.at(start + step * 250 * MILLI, Act::Crowd(index, Style::Small));
    }
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

fn judge(world: &World, streams: usize) {
    let tally = &world.tally;
    assert_eq!(tally.cut + tally.broken, 0, "slow, and cut: {tally:?}");
    let (small, no) = (tally.slowest_small, tally.slowest_no);
    assert!(no <= NO_WITHIN, "it took {} ms to say no", no / MILLI);
    assert!(
        small <= SMALL_WITHIN,
        "a small exchange took {} ms beside slow ones",
        small / MILLI
    );
    // Shown with `--nocapture`, and where a crowd fails.
    println!(
        "small within {} ms, no within {} ms, refused {}, whole {}, held {} KiB",
        small / MILLI,
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
