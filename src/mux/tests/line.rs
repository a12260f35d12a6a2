//! Who goes next: the line of senders is fair, and small things do not wait behind bulk.

use super::*;
use crate::limits::{BULK_PAYLOAD, LANE_QUEUE_SOFT};

#[test]
fn senders_of_a_slow_lane_take_turns() {
    for cut in [Cut::Whole, Cut::Random(6)] {
        let mut pair = Pair::new(cut);
        pair.wire_holds = 16 * 1024;
        let ids: Vec<u32> = (0..8)
            .map(|n| pair.kit.open(vec![n; 1 << 20], false, Instant::ZERO))
            .collect();
        let mut rounds = 0;
        while pair.client.got.values().map(Vec::len).sum::<usize>() < 5 << 20 {
            assert!(pair.step());
            rounds += 1;
            assert!(rounds < 1_000_000);
        }
        let shares: Vec<usize> = ids
            .iter()
            .map(|id| pair.client.got.get(id).map_or(0, Vec::len))
            .collect();
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 5 * 65_536, "{cut:?}: {shares:?}");
    }
}

#[test]
fn senders_that_wait_for_session_credit_take_turns() {
    let mut pair = Pair::new(Cut::Whole);
    let ids: Vec<u32> = (0..16)
        .map(|n| pair.kit.open(vec![n; 1 << 20], false, Instant::ZERO))
        .collect();
    while pair.client.got.values().map(Vec::len).sum::<usize>() < 10 << 20 {
        assert!(pair.step());
    }
    let shares: Vec<usize> = ids
        .iter()
        .map(|id| pair.client.got.get(id).map_or(0, Vec::len))
        .collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least <= 512 * 1024, "{shares:?}");
}

#[test]
fn a_small_exchange_waits_behind_a_bounded_amount_of_bulk() {
    let mut pair = Pair::new(Cut::Whole);
    pair.wire_holds = 4096;
    for n in 0..8 {
        pair.kit.open(pattern(n, 1 << 20), false, Instant::ZERO);
    }
    for _ in 0..50 {
        pair.step();
    }
    let small = pair.kit.open(vec![9; 100], true, pair.now);
    let before: usize = pair.kit.left.iter().map(|frame| frame.len).sum();
    while !pair.client.seen.contains(&Seen::Eof(small)) {
        assert!(pair.step());
    }
    let after: usize = pair.kit.left.iter().map(|frame| frame.len).sum();
    assert!(
        after - before <= 2 * 192 * 1024 + 8 * 65_536,
        "{}",
        after - before
    );
}

#[test]
fn something_small_waits_for_the_queue_and_not_for_everybody_in_line() {
    // Also where it talks all the time, so that it was somebody's turn longer ago.
    let mut pair = Pair::new(Cut::Whole);
    pair.wire_holds = 4096;
    let talk = pair.kit.open(vec![7; 10], false, Instant::ZERO);
    pair.run();
    for n in 0..60 {
        pair.kit.open(pattern(n, 1 << 20), false, Instant::ZERO);
    }
    for said in 1..=20usize {
        for _ in 0..40 {
            pair.step();
        }
        let before: usize = pair.kit.left.iter().map(|frame| frame.len).sum();
        pair.kit.source(talk, vec![7; 100], false);
        while pair.client.got[&talk].len() < 10 + said * 100 {
            assert!(pair.step());
        }
        let after: usize = pair.kit.left.iter().map(|frame| frame.len).sum();
        // A full queue, who was called before it asked, and whoever waited longest.
        let most = LANE_QUEUE_SOFT + 4 * BULK_PAYLOAD;
        assert!(after - before <= most, "{} went before", after - before);
    }
}

#[test]
fn no_more_are_called_than_there_is_room_for() {
    let mut pair = Pair::new(Cut::Whole);
    pair.wire_holds = 4096;
    for n in 0..60 {
        pair.kit.open(pattern(n, 1 << 20), false, Instant::ZERO);
    }
    while pair.client.got.values().map(Vec::len).sum::<usize>() < 10 << 20 {
        assert!(pair.step());
    }
    let (calls, frames) = (pair.kit.calls, pair.kit.count_left(FrameType::Data));
    assert!(calls <= 2 * frames, "{calls} calls for {frames} pieces");
}

#[test]
fn a_turn_that_is_not_used_goes_to_the_next() {
    type End = fn(&mut Session<u32>, StreamKey);
    let ends: [End; 3] = [
        |mux, key| mux.reset(key, Code::Cancel, "left"),
        |mux, key| mux.send_eof(key, Instant::ZERO),
        // It may still take its turn, and nobody waits for it.
        |mux, _| assert!(mux.relieve_stalled()),
    ];
    for end in ends {
        let mut mux = Session::new(terms(Side::Kit), Instant::ZERO);
        mux.attach(0, Transport::server(conn(0), Instant::ZERO));
        let open = |mux: &mut Session<u32>, tag| {
            let key = mux.open(0, b"{}", Instant::ZERO).unwrap();
            mux.streams.resolve_mut(key).tag = tag;
            key
        };
        let keys: Vec<StreamKey> = (0..8).map(|tag| open(&mut mux, tag)).collect();
        let bulk = vec![0; 1 << 20];
        for key in &keys {
            mux.send(*key, &bulk, Instant::ZERO);
        }
        let mut called = BTreeSet::new();
        let mut missing = keys.len();
        while missing > 0 {
            loop {
                let len = mux.transmit(0).len();
                if len == 0 {
                    break;
                }
                mux.transmitted(0, len);
            }
            let before = called.len();
            while let Some(wake) = mux.poll_wake() {
                if let Wake::Sender(tag) = wake {
                    called.insert(tag);
                    end(&mut mux, keys[tag as usize]);
                }
            }
            assert!(
                called.len() > before,
                "{called:?} were called, and then nobody"
            );
            missing = 8 - called.len();
            mux.check_invariants();
            if missing <= 2 {
                // The first two never had to wait.
                break;
            }
        }
    }
}

#[test]
fn urgent_frames_overtake_bulk_that_has_not_begun() {
    let mut pair = Pair::new(Cut::Whole);
    pair.wire_holds = 100;
    for n in 0..4 {
        pair.kit.open(pattern(n, 60_000), false, Instant::ZERO);
    }
    pair.step();
    pair.inject(&[(FrameType::Ping, 0, b"12345678")]);
    pair.step();
    pair.step();
    let before = pair.kit.left.len();
    pair.wire_holds = 1 << 20;
    pair.run();
    let pong = pair.kit.left[before..]
        .iter()
        .position(|frame| frame.kind == FrameType::Pong);
    // The open message that had begun to leave is finished first: 4 opens and DATA of up to 64 KiB.
    let bulk: usize = pair.kit.left[before..][..pong.expect("a PONG")]
        .iter()
        .map(|frame| frame.len)
        .sum();
    assert!(bulk <= 65_536 + 64, "{bulk} bytes went before the PONG");
}

#[test]
fn a_sender_is_not_forgotten_whatever_it_waits_for() {
    // Stream credit, session credit and room run out in all orders, again and again.
    for seed in 0..16 {
        let mut pair = Pair::new(Cut::Random(seed + 1));
        let mut dice = Entropy::from_seed(seed);
        pair.wire_holds = 1000 + dice.below(300_000) as usize;
        pair.client.takes = false;
        let count = 2 + dice.below(9);
        let len = 1_500_000 / count as usize;
        let ids: Vec<u32> = (0..count)
            .map(|n| pair.kit.open(pattern(n, len), true, Instant::ZERO))
            .collect();
        for _ in 0..200_000 {
            for _ in 0..dice.below(4) {
                pair.step();
            }
            let id = ids[dice.below(count) as usize];
            if pair.client.waiting.contains_key(&id) {
                pair.client
                    .take(id, dice.below(200_000) as usize, Instant::ZERO);
            }
            if pair.kit.sent_all() {
                break;
            }
        }
        assert!(
            pair.kit.sent_all(),
            "seed {seed}: {:?}",
            pair.kit.sent_of(ids[0])
        );
    }
}
