//! Credit comes back for every byte, and nothing moves without it (PROTOCOL §5).

use super::*;

const STREAM: usize = 256 * 1024;
const SESSION: usize = 1024 * 1024;

#[test]
fn a_reader_that_stops_stops_its_sender_and_nobody_else() {
    let mut pair = Pair::new(Cut::Random(1));
    let slow = pair.kit.open(pattern(1, 2 * STREAM), true, pair.now);
    let quick = pair.kit.open(pattern(2, 4 * STREAM), true, pair.now);
    pair.client.stuck.insert(slow);
    pair.run();
    assert_eq!(pair.client.got[&slow].len(), STREAM, "its window, no more");
    assert!(pair.client.got[&quick] == pattern(2, 4 * STREAM));
    while !pair.kit.sent_all() || pair.client.waiting[&slow] > 0 {
        pair.client.take(slow, 10_000, pair.now);
        pair.run();
    }
    assert!(pair.client.got[&slow] == pattern(1, 2 * STREAM));
    for id in [slow, quick] {
        pair.client.source(id, Vec::new(), true);
    }
    pair.run();
    pair.assert_quiet();
}

#[test]
fn stalled_streams_hold_the_session_window_and_give_it_back() {
    let mut pair = Pair::new(Cut::Whole);
    pair.client.takes = false;
    let ids: Vec<u32> = (0..6)
        .map(|n| pair.kit.open(pattern(n, 2 * STREAM), true, Instant::ZERO))
        .collect();
    pair.run();
    let all = pair.client.mux.buffered();
    assert!(all <= SESSION && all > SESSION / 3 * 2, "{all} are held");
    let held: usize = ids
        .iter()
        .map(|id| pair.client.got.get(id).map_or(0, Vec::len))
        .sum();
    assert_eq!(held, all);
    // Everything is taken, in odd pieces: all senders must come to their end.
    for round in 0..100_000 {
        let id = ids[round % ids.len()];
        pair.client.take(id, 20_011, pair.now);
        pair.run();
        if pair.kit.sent_all() && pair.client.mux.buffered() == 0 {
            break;
        }
    }
    for (n, id) in ids.iter().enumerate() {
        assert!(pair.client.got[id] == pattern(n as u32, 2 * STREAM));
        pair.client.source(*id, Vec::new(), true);
    }
    pair.run();
    pair.assert_quiet();
}

#[test]
fn reset_with_unread_bytes_returns_session_credit() {
    for by_receiver in [true, false] {
        let mut pair = Pair::new(Cut::Random(5));
        pair.client.takes = false;
        // Far more than the session's window, a stream at a time.
        for n in 0..20 {
            let id = pair.kit.open(pattern(n, STREAM), false, pair.now);
            pair.run();
            assert_eq!(pair.client.got[&id].len(), STREAM, "stream {n} was starved");
            match by_receiver {
                true => pair.client.reset(id, Code::Cancel),
                false => pair.kit.reset(id, Code::Cancel),
            }
            pair.run();
            let other = if by_receiver { &pair.kit } else { &pair.client };
            assert_eq!(other.was_reset(id), Some(Code::Cancel));
        }
        pair.assert_quiet();
    }
}

#[test]
fn late_data_of_a_reset_stream_returns_session_credit() {
    let mut pair = Pair::new(Cut::Whole);
    for n in 0..20 {
        let id = pair.kit.open(pattern(n, 200_000), false, pair.now);
        // The receiver resets as soon as it knows the stream: the rest of the data is on its way.
        while !pair.client.keys.contains_key(&id) {
            assert!(pair.step());
        }
        pair.client.reset(id, Code::Cancel);
        pair.run();
        assert_eq!(pair.kit.was_reset(id), Some(Code::Cancel));
    }
    pair.assert_quiet();
    let id = pair.kit.open(pattern(9, SESSION), true, pair.now);
    pair.run();
    assert_eq!(pair.client.got[&id].len(), SESSION);
}

#[test]
fn no_more_than_a_quarter_of_a_window_is_ever_withheld() {
    let mut pair = Pair::new(Cut::Random(77));
    let id = pair.kit.open(pattern(1, 300_000), false, pair.now);
    pair.client.takes = false;
    let mut dice = Entropy::from_seed(5);
    for round in 0..400 {
        pair.run();
        pair.client.take(id, dice.below(30_000) as usize, pair.now);
        pair.run();
        let waiting = pair.client.waiting[&id];
        let key = pair.kit.keys[&id];
        let may_send = pair.kit.mux.data_space(key, usize::MAX).len();
        if waiting == 0 {
            assert_eq!(may_send, 65_536, "round {round}: less than 64 KiB is free");
        }
        if pair.kit.sent_all() {
            let more = pattern(round, dice.below(200_000) as usize);
            pair.kit.source(id, more, false);
        }
    }
}

#[test]
fn windows_grow_only_between_peers_that_agreed() {
    for grow_windows in [false, true] {
        let terms = |side| Terms {
            grow_windows,
            ..terms(side)
        };
        let mut pair = Pair::with(Cut::Whole, terms(Side::Kit), terms(Side::Client), 1);
        pair.client.mux.set_budget(64 << 20);
        let len = 24 << 20;
        let id = pair.kit.open(vec![7; len], true, pair.now);
        let mut most = 0;
        // A long link: what was sent lies on the wire until the sender can send no more.
        pair.wire_holds = usize::MAX;
        while pair.client.got.get(&id).map_or(0, Vec::len) < len {
            let now = pair.now;
            pair.kit.settle(now);
            while pair.flush(Side::Kit, 0) {}
            let on_their_way = pair.kit.wire[0].len();
            assert!(on_their_way > 0, "it stands");
            most = most.max(on_their_way);
            while pair.deliver(Side::Kit, 0) {}
            while pair.flush(Side::Client, 0) {}
            while pair.deliver(Side::Client, 0) {}
            pair.pass_time(Duration::from_millis(200));
        }
        let window = 256 * 1024;
        match grow_windows {
            false => assert!(most <= window + 1024, "{most} were on their way"),
            true => assert!(most >= 4 * window, "only {most} were on their way"),
        }
        assert!(most <= (16 << 20) + 65_536);
        assert_eq!(pair.client.fault, None);
        assert_eq!(pair.kit.fault, None);
    }
}

#[test]
fn a_window_that_is_not_used_up_does_not_grow() {
    let terms = |side| Terms {
        grow_windows: true,
        ..terms(side)
    };
    let mut pair = Pair::with(Cut::Random(4), terms(Side::Kit), terms(Side::Client), 1);
    for n in 0..50 {
        let id = pair.kit.open(pattern(n, 20_000), true, pair.now);
        pair.run();
        pair.client.source(id, Vec::new(), true);
        pair.run();
    }
    assert_eq!(pair.client.mux.receiving.credit.window(), 1024 * 1024);
    pair.assert_quiet();
}

#[test]
fn a_stalled_reader_does_not_grow_its_window() {
    let terms = |side| Terms {
        grow_windows: true,
        ..terms(side)
    };
    let mut pair = Pair::with(Cut::Whole, terms(Side::Kit), terms(Side::Client), 1);
    pair.client.takes = false;
    let id = pair.kit.open(pattern(1, 4 << 20), true, pair.now);
    pair.run();
    assert_eq!(pair.client.got[&id].len(), STREAM);
}
