//! Corners that a random cutter misses (PROTOCOL §9): a new connection that is lost at each byte of
//! the first words on it, while streams wait for it; words that come late; two clients on one id.

use std::time::Duration;

use crate::net::{Gone, MILLI, Misfortune, Owner};
use crate::plan::Style;
use crate::run::{drain, finish, prove, wait_until_bound};
use crate::succession;
use crate::world::{Act, Trouble, World};

/// A world with one laptop of so many connections, where only connections are lost.
fn world(seed: u64, connections: u32) -> World {
    let mut world = World::new(seed, Trouble::Cuts);
    world.keep_one_laptop(connections);
    world.healing = true;
    world.net.good_links = true;
    wait_until_bound(&mut world, 10);
    world
}

/// All of the laptop's connections are reset while somebody is served.
fn lose_all(world: &mut World) {
    world.visitor(0);
    world.caller(0);
    world.run_for(3);
    for end in world.net.ends_of(Owner::Client(0)) {
        if world.net.is_to_kit(end) {
            world.net.cut(end, Gone::Reset);
        }
    }
}

/// Nobody who was served was cut, and everything works. Callers who come while the laptop is away
/// are sent away, for TCP knows no "later".
fn nobody_noticed(mut world: World) {
    drain(&mut world);
    let tally = &world.tally;
    assert_eq!(tally.lost, 0, "{:?}", tally.notes);
    prove(&mut world);
    finish(&mut world);
}

/// Cuts the connection after the `nth` new one behind each number of bytes from one side, up to
/// `most` and `step` by step, while somebody waits to be served on.
fn cut_at_each_byte(side: usize, nth: usize, most: usize, step: usize) {
    let mut world = world(7 + side as u64, 1 + nth as u32);
    let step = if crate::number("HOODY_SIM_RUNS").is_some() {
        1
    } else {
        step
    };
    for count in (0..most).step_by(step) {
        lose_all(&mut world);
        let cut = Misfortune::CutAfter(side, count);
        world.net.misfortunes = (0..nth).map(|_| None).chain([Some(cut)]).collect();
        world.run_for(2500);
        assert!(world.net.misfortunes.is_empty(), "nothing was dialled");
        world.net.cut_no_more();
    }
    nobody_noticed(world);
}

/// An answer to an upgrade, and what follows it: HELLO_OK or JOIN_OK.
#[test]
fn the_first_words_of_a_kit_may_be_cut_at_any_byte() {
    cut_at_each_byte(1, 0, 700, 1);
    cut_at_each_byte(1, 1, 300, 1);
}

/// They are longer, for a request begins them, and so not each byte is cut every time.
#[test]
fn the_first_words_of_a_client_may_be_cut_at_any_byte() {
    cut_at_each_byte(0, 0, 900, 7);
    cut_at_each_byte(0, 1, 700, 7);
}

#[test]
fn a_hello_that_comes_after_a_newer_one_changes_nothing() {
    for millis in (3000..12_000).step_by(500) {
        for side in [0, 1] {
            let mut world = world(11, 2);
            lose_all(&mut world);
            let late = Misfortune::Late(side, millis * MILLI);
            world.net.misfortunes.push_back(Some(late));
            world.run_for(15_000);
            nobody_noticed(world);
        }
    }
}

#[test]
fn of_two_clients_on_one_id_one_goes_on_and_the_other_ends() {
    for seed in 0..6 {
        let mut world = world(seed, 1 + (seed % 2) as u32);
        world.visitor(0);
        world.run_for(50);
        let id = world.laptops[0].session.clone().expect("a session");
        world.only_cuts = false;
        let now = world.net.now;
        world.excuses.excuse(None, now, u64::MAX);
        world.add_twin(id);
        let driven_out = |world: &World| {
            let told = world
                .log
                .iter()
                .filter(|it| it.contains("resumed elsewhere"));
            told.count()
        };
        while driven_out(&world) == 0 {
            world.run_for(10);
        }
        // It begins anew, as another one.
        world.laptops[0].session = None;
        world.run_for(60_000);
        assert_eq!(driven_out(&world), 1, "{}", world.describe());
        let online = world.laptops.iter().filter(|laptop| laptop.online);
        assert_eq!(online.count(), 2, "{}", world.describe());
    }
}

/// New versions come one after the other while visitors and callers do, and what was begun is
/// served to its end by the kit that began it.
#[test]
fn of_upgrades_in_a_row_nobody_notices_anything() {
    let seeds = crate::number("HOODY_SIM_RUNS").unwrap_or(10);
    for seed in 0..seeds {
        let mut world = world(seed, 1 + (seed % 3) as u32);
        // Once more, as one that runs several machines.
        world.laptops[0].heirs = true;
        world.keep_one_laptop(1 + (seed % 3) as u32);
        wait_until_bound(&mut world, 60);
        world.config.drain = Duration::from_secs(60);
        // The first one still has the drain of before.
        succession::upgrade(&mut world);
        world.run_for(10_000);
        for _ in 0..10 {
            for _ in 0..12 {
                let when = world.dice.below(4000);
                let act = match world.dice.below(4) {
                    0 => Act::Crowd(0, Style::Slow),
                    1 => Act::Crowd(0, Style::Calm),
                    _ => Act::Caller(0),
                };
                world.after(when, act);
            }
            let when = world.dice.below(4000);
            world.after(when, Act::Upgrade);
            world.run_for(4000);
        }
        let upgrades = world
            .log
            .iter()
            .filter(|it| it.contains("a successor stands"));
        assert!(upgrades.count() > 5, "seed {seed}: {}", world.describe());
        let tally = &world.tally;
        assert_eq!(
            (tally.refused, tally.broken, tally.cut),
            (0, 0, 0),
            "seed {seed}: {:?} {}",
            tally.notes,
            world.describe()
        );
        world.run_for(70_000);
        assert!(
            world.succession.before.is_empty(),
            "seed {seed}: {}",
            world.describe()
        );
        nobody_noticed(world);
    }
}
