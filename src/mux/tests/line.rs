//! Who goes next: the line of senders is fair, and small things do not wait behind bulk.

use super::*;

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
