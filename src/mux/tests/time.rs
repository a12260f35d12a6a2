//! What only time does: stalls, half-closed idleness, liveness (PROTOCOL §4, §5, §6).

use super::*;
use crate::limits::{CUT_STALLED_AFTER, PROGRESS_AT_ONCE, PROGRESS_UNSAID};
use crate::mux::Liveness;

const HALF_CLOSE: Duration = Duration::from_secs(300);
const STREAM: usize = 256 * 1024;

#[test]
fn a_reader_that_moves_is_never_stalled() {
    let mut pair = Pair::new(Cut::Whole);
    let id = pair.kit.open(pattern(1, 2 * STREAM), false, pair.now);
    pair.client.stuck.insert(id);
    pair.run();
    for _ in 0..100 {
        pair.pass_time(CUT_STALLED_AFTER * 9 / 10);
        pair.client.take(id, 1000, pair.now);
        pair.run();
        assert!(pair.client.mux.sweep(pair.now, HALF_CLOSE, 0).is_empty());
    }
}

#[test]
fn a_half_closed_stream_on_which_nothing_moves_is_reset() {
    let mut pair = Pair::new(Cut::Whole);
    let idle = pair.kit.open(pattern(1, 100), true, pair.now);
    let whole = pair.kit.open(pattern(2, 100), false, pair.now);
    pair.run();
    pair.pass_time(HALF_CLOSE - Duration::from_millis(1));
    assert!(pair.kit.mux.sweep(pair.now, HALF_CLOSE, 4 << 20).is_empty());
    pair.client.source(idle, vec![1], false);
    let key = pair.client.keys[&idle];
    pair.client.mux.send(key, &[2], pair.now);
    pair.run();
    pair.pass_time(Duration::from_secs(200));
    assert!(pair.kit.mux.sweep(pair.now, HALF_CLOSE, 4 << 20).is_empty());
    pair.pass_time(Duration::from_secs(100));
    let swept = pair.kit.mux.sweep(pair.now, HALF_CLOSE, 4 << 20);
    assert_eq!(swept.len(), 1);
    assert_eq!((swept[0].tag, swept[0].code), (idle, Code::IdleTimeout));
    pair.run();
    assert_eq!(pair.client.was_reset(idle), Some(Code::IdleTimeout));
    assert_eq!(pair.kit.mux.streams().len(), 1);
    pair.kit.reset(whole, Code::Cancel);
    pair.run();
    pair.assert_quiet();
}

#[test]
fn what_a_slow_reader_takes_behind_an_eof_is_told_and_counts_as_movement() {
    let mut pair = Pair::new(Cut::Whole);
    let id = pair.kit.open(pattern(1, 100_000), true, pair.now);
    pair.client.stuck.insert(id);
    pair.run();
    let key = pair.kit.keys[&id];
    for _ in 0..100 {
        pair.pass_time(HALF_CLOSE / 2);
        assert!(pair.kit.mux.streams().is_held_by_peer(key));
        pair.client.take(id, 1000, pair.now);
        for _ in 0..2 {
            assert!(pair.client.mux.sweep(pair.now, HALF_CLOSE, 0).is_empty());
            pair.run();
            pair.pass_time(PROGRESS_UNSAID);
        }
        let moved = pair.kit.mux.streams().last_moved(key).expect("it is alive");
        assert!(moved + PROGRESS_UNSAID >= pair.now);
        assert!(pair.kit.mux.sweep(pair.now, HALF_CLOSE, 0).is_empty());
    }
    assert_eq!(pair.client.count_left(FrameType::Window), 100);
    assert!(!pair.kit.mux.streams().is_held_by_peer(key));
    pair.pass_time(HALF_CLOSE);
    assert_eq!(pair.kit.mux.sweep(pair.now, HALF_CLOSE, 0).len(), 1);
}

#[test]
fn progress_is_told_of_few_streams_at_once_and_of_none_that_is_quick() {
    let many = |side| Terms {
        max_streams: 3 * PROGRESS_AT_ONCE,
        ..terms(side)
    };
    let mut pair = Pair::with(Cut::Whole, many(Side::Kit), many(Side::Client), 1);
    let count = PROGRESS_AT_ONCE as u32 * 5 / 2;
    for n in 0..count {
        pair.kit.open(pattern(n, 100), false, pair.now);
    }
    pair.run();
    let mut told = Vec::new();
    for _ in 0..12 {
        pair.client.mux.sweep(pair.now, HALF_CLOSE, 0);
        pair.run();
        told.push(pair.client.count_left(FrameType::Window));
        pair.pass_time(PROGRESS_UNSAID / 2);
    }
    // Once each, when it was withheld for long enough, and never more at once.
    assert_eq!(told[..2], [0, 0], "{told:?}");
    assert_eq!(told.last(), Some(&(count as usize)), "{told:?}");
    let steps = told.windows(2).map(|pair| pair[1] - pair[0]);
    assert_eq!(steps.max(), Some(PROGRESS_AT_ONCE), "{told:?}");
}

#[test]
fn a_quiet_peer_is_pinged_and_one_that_does_not_answer_is_dead() {
    let (quiet, patience) = (Duration::from_secs(2), Duration::from_secs(5));
    let mut pair = Pair::new(Cut::Whole);
    let check = |pair: &mut Pair| {
        let now = pair.now;
        pair.kit
            .mux
            .lanes_mut()
            .check(0, now, quiet, patience, *b"pingpong")
            .expect("a lane")
    };
    assert_eq!(check(&mut pair), Liveness::LookAgain(pair.now + quiet));
    for _ in 0..5 {
        pair.pass_time(quiet);
        assert_eq!(check(&mut pair), Liveness::LookAgain(pair.now + patience));
        pair.run();
        assert_eq!(check(&mut pair), Liveness::LookAgain(pair.now + quiet));
    }
    assert_eq!(pair.kit.count_left(FrameType::Ping), 5);
    assert_eq!(pair.client.count_left(FrameType::Pong), 5);
    // From here on nothing arrives.
    pair.pass_time(quiet);
    check(&mut pair);
    pair.pass_time(patience - Duration::from_nanos(1));
    assert!(matches!(check(&mut pair), Liveness::LookAgain(_)));
    pair.pass_time(Duration::from_nanos(1));
    assert_eq!(check(&mut pair), Liveness::Dead);
    let now = pair.now;
    pair.kit.mux.lanes_mut().forgive_silence(now);
    assert_eq!(check(&mut pair), Liveness::LookAgain(pair.now + quiet));
}

#[test]
fn a_quiet_lane_gives_its_memory_back() {
    let mut pair = Pair::new(Cut::Whole);
    let id = pair.kit.open(pattern(1, 500_000), true, pair.now);
    pair.run();
    pair.client.source(id, Vec::new(), true);
    pair.run();
    let held = |pair: &Pair| {
        let lanes = [&pair.kit, &pair.client].map(|end| end.mux.lanes().get(0).unwrap().capacity());
        lanes.iter().sum::<usize>()
    };
    assert!(held(&pair) > 50_000);
    pair.pass_time(Duration::from_secs(30));
    let now = pair.now;
    for end in [&mut pair.kit, &mut pair.client] {
        let second = Duration::from_secs(1);
        end.mux.lanes_mut().check(0, now, second, second, [0; 8]);
    }
    assert!(held(&pair) < 2048, "{} are held", held(&pair));
}
