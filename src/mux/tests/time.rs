//! What only time does: stalls, half-closed idleness, liveness (PROTOCOL §4, §5, §6).

use super::*;
use crate::limits::{CUT_SLOW_AFTER, CUT_STALLED_AFTER, STALLED_AFTER};
use crate::mux::Liveness;

const HALF_CLOSE: Duration = Duration::from_secs(300);
const STREAM: usize = 256 * 1024;

#[test]
fn stalled_streams_do_not_starve_the_others() {
    let mut pair = Pair::new(Cut::Whole);
    for n in 0..4 {
        let id = pair.kit.open(pattern(n, 2 * STREAM), false, pair.now);
        pair.client.stuck.insert(id);
    }
    pair.run();
    assert_eq!(pair.client.mux.buffered(), 1 << 20, "the session's window");
    let quick = pair.kit.open(pattern(9, 3 << 20), true, pair.now);
    pair.run();
    assert_eq!(pair.client.got.get(&quick), None, "starved so far");
    pair.pass_time(STALLED_AFTER);
    assert!(
        pair.client
            .mux
            .sweep(pair.now, HALF_CLOSE, 2 << 20)
            .is_empty()
    );
    pair.run();
    assert!(pair.client.got[&quick] == pattern(9, 3 << 20));
    // What was given early is not given again.
    let stuck: Vec<u32> = pair.client.stuck.iter().copied().collect();
    for id in stuck {
        pair.client.stuck.remove(&id);
        while pair.client.waiting[&id] > 0 || pair.kit.sent_of(id) != usize::MAX {
            pair.client.take(id, 50_000, pair.now);
            pair.run();
        }
        assert_eq!(pair.client.got[&id].len(), 2 * STREAM);
        pair.kit.reset(id, Code::NoError);
    }
    pair.client.source(quick, Vec::new(), true);
    pair.run();
    pair.assert_quiet();
}

#[test]
fn past_the_budget_whoever_stalled_longest_is_reset_while_others_wait() {
    let budget = 2 * STREAM as u32;
    let mut pair = Pair::new(Cut::Whole);
    let mut ids = Vec::new();
    let mut swept = Vec::new();
    // The session's window takes four of them, the budget two more.
    for n in 0..8 {
        let id = pair.kit.open(pattern(n, 2 * STREAM), false, pair.now);
        pair.client.stuck.insert(id);
        ids.push(id);
        pair.run();
        pair.pass_time(STALLED_AFTER / 5);
        swept.extend(pair.client.mux.sweep(pair.now, HALF_CLOSE, budget));
    }
    assert!(swept.is_empty(), "nobody has stalled for long enough");
    for _ in 0..40 {
        pair.run();
        pair.pass_time(STALLED_AFTER / 5);
        swept.extend(pair.client.mux.sweep(pair.now, HALF_CLOSE, budget));
    }
    let tags: Vec<u32> = swept.iter().map(|gone| gone.tag).collect();
    assert_eq!(tags, ids[..1], "one made room for the two that waited");
    assert!(swept.iter().all(|gone| gone.code == Code::EnhanceYourCalm));
    assert_eq!(pair.kit.was_reset(ids[0]), Some(Code::EnhanceYourCalm));
    for id in &ids {
        pair.kit.sources.remove(id);
        if !tags.contains(id) {
            pair.kit.reset(*id, Code::Cancel);
        }
    }
    pair.run();
    pair.assert_quiet();
}

#[test]
fn slow_readers_are_not_cut_although_more_is_wanted_than_there_is() {
    let mut pair = Pair::new(Cut::Whole);
    let ids: Vec<u32> = (0..8)
        .map(|n| {
            let id = pair.kit.open(pattern(n, 2 * STREAM), false, pair.now);
            pair.client.stuck.insert(id);
            id
        })
        .collect();
    let mut steps = 0;
    while ids
        .iter()
        .any(|id| pair.client.got.get(id).map(Vec::len) != Some(2 * STREAM))
        || ids.iter().any(|id| pair.client.waiting[id] > 0)
    {
        // Each takes a piece now and then, further apart than what counts as stalled.
        pair.run();
        pair.pass_time(CUT_STALLED_AFTER * 9 / 10);
        let cut = pair
            .client
            .mux
            .sweep(pair.now, HALF_CLOSE, 2 * STREAM as u32);
        assert!(cut.is_empty(), "{cut:?}");
        for id in &ids {
            pair.client.take(*id, 64 * 1024, pair.now);
        }
        steps += 1;
        assert!(steps < 200, "they come to an end");
    }
    assert!(CUT_SLOW_AFTER > CUT_STALLED_AFTER);
}

#[test]
fn a_reader_that_moves_is_never_stalled() {
    let mut pair = Pair::new(Cut::Whole);
    let id = pair.kit.open(pattern(1, 2 * STREAM), false, pair.now);
    pair.client.stuck.insert(id);
    pair.run();
    for _ in 0..100 {
        pair.pass_time(STALLED_AFTER * 9 / 10);
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
    assert_eq!(pair.kit.mux.stream_count(), 1);
    pair.kit.reset(whole, Code::Cancel);
    pair.run();
    pair.assert_quiet();
}

#[test]
fn a_quiet_peer_is_pinged_and_one_that_does_not_answer_is_dead() {
    let (quiet, patience) = (Duration::from_secs(2), Duration::from_secs(5));
    let mut pair = Pair::new(Cut::Whole);
    let check = |pair: &mut Pair| {
        let now = pair.now;
        pair.kit
            .mux
            .check_lane(0, now, quiet, patience, *b"pingpong")
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
    pair.kit.mux.forgive_silence(now);
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
        let lanes = [&pair.kit, &pair.client].map(|end| end.mux.lane(0).unwrap().capacity());
        lanes.iter().sum::<usize>()
    };
    assert!(held(&pair) > 50_000);
    pair.pass_time(Duration::from_secs(30));
    let now = pair.now;
    for end in [&mut pair.kit, &mut pair.client] {
        let second = Duration::from_secs(1);
        end.mux.check_lane(0, now, second, second, [0; 8]);
    }
    assert!(held(&pair) < 2048, "{} are held", held(&pair));
}
