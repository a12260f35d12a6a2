//! How a session's credit is shared: whoever holds most waits first, and nobody else waits.

use super::*;
use crate::limits::{CUT_STALLED_AFTER, DRY_AFTER, SWEEP_EVERY};

const STREAM: usize = 1 << 20;
const SESSION: usize = 16 << 20;
const HALF_CLOSE: Duration = Duration::from_secs(300);

/// A pair with the windows that kits advertise by default.
fn full_size(cut: Cut) -> Pair {
    let terms = |side| Terms {
        stream_window: STREAM as u32,
        session_window: SESSION as u32,
        max_streams: 4096,
        ..terms(side)
    };
    Pair::with(cut, terms(Side::Kit), terms(Side::Client), 1)
}

impl Pair {
    /// Opens streams whose readers take nothing by themselves.
    fn open_stuck(&mut self, count: u32, bytes: usize) -> Vec<u32> {
        let mut ids = Vec::new();
        for n in 0..count {
            let id = self.kit.open(pattern(n, bytes), true, self.now);
            self.client.stuck.insert(id);
            ids.push(id);
            if n % 16 == 0 {
                self.run();
            }
        }
        self.run();
        ids
    }

    fn held_by(&self, id: u32) -> usize {
        self.client.waiting.get(&id).copied().unwrap_or(0)
    }

    fn sweep(&mut self, budget: u32) -> Vec<u32> {
        let (now, mut cut) = (self.now, Vec::new());
        for end in [&mut self.kit, &mut self.client] {
            cut.extend(
                end.mux
                    .sweep(now, HALF_CLOSE, budget)
                    .iter()
                    .map(|gone| gone.tag),
            );
            end.settle(now);
        }
        cut
    }

    /// Has readers take what they hold until all senders are done, and looks that nothing is left.
    fn drain(&mut self, ids: &[u32], piece: usize) {
        for _ in 0..100_000 {
            for id in ids {
                self.client.take(*id, piece, self.now);
            }
            self.run();
            if self.kit.sent_all() && self.client.mux.buffered() == 0 {
                break;
            }
        }
        let all: Vec<u32> = self.client.keys.keys().copied().collect();
        for id in all {
            self.client.source(id, Vec::new(), true);
        }
        self.run();
        self.assert_quiet();
    }
}

#[test]
fn however_many_read_nothing_a_newcomer_finds_credit_at_once() {
    for count in [1, 17, 60, 200] {
        for budget in [0, 64 << 20] {
            let mut pair = full_size(Cut::Whole);
            pair.client.mux.set_budget(budget);
            let stuck = pair.open_stuck(count, 2 * STREAM);
            let least = stuck.iter().map(|id| pair.held_by(*id)).min();
            // Who came first keeps what it has; with memory to spare the others still get theirs.
            assert!(budget == 0 || least >= Some(16_384), "{count}: {least:?}");
            let small = pair.kit.open(pattern(7, 100), true, pair.now);
            pair.run();
            assert_eq!(pair.client.got[&small].len(), 100, "beside {count}");
            let bulk = pair.kit.open(pattern(9, 3 << 20), true, pair.now);
            pair.run();
            assert!(
                pair.client.got[&bulk] == pattern(9, 3 << 20),
                "beside {count}"
            );
            assert!(pair.client.mux.buffered() <= SESSION + budget as usize);
            pair.drain(&stuck, 100_000);
        }
    }
}

#[test]
fn a_sender_that_shares_nothing_cannot_starve_newcomers_while_memory_suffices() {
    let mut pair = full_size(Cut::Whole);
    pair.kit.shares = false;
    pair.client.mux.set_budget(64 << 20);
    let stuck = pair.open_stuck(60, 2 * STREAM);
    assert!(
        pair.client.mux.buffered() > 2 * SESSION,
        "the session's window is no bound"
    );
    for n in 0..50 {
        let id = pair.kit.open(pattern(n, 200_000), true, pair.now);
        pair.run();
        assert_eq!(pair.client.got[&id].len(), 200_000);
    }
    assert!(!pair.client.mux.refuses_newcomers(pair.now + DRY_AFTER * 10));
    pair.drain(&stuck, 300_000);
}

#[test]
fn where_memory_does_not_suffice_newcomers_are_refused_and_who_moved_nothing_is_cut() {
    let mut pair = full_size(Cut::Whole);
    pair.kit.shares = false;
    pair.client.mux.set_budget(4 << 20);
    let stuck = pair.open_stuck(30, 2 * STREAM);
    let left = SESSION + (4 << 20) - pair.client.mux.buffered();
    assert!(left < 16_384, "{left} are left");
    assert!(!pair.client.mux.refuses_newcomers(pair.now));
    pair.pass_time(DRY_AFTER);
    assert!(pair.client.mux.refuses_newcomers(pair.now));
    assert_eq!(
        pair.client.mux.open(0, b"{}", pair.now),
        Err(crate::mux::CannotOpen::Dry)
    );
    // One of them takes a little now and then: it is slow, and stays.
    let slow = stuck[0];
    let mut cut = Vec::new();
    for _ in 0..80 {
        pair.pass_time(SWEEP_EVERY);
        pair.client.take(slow, 2_000, pair.now);
        cut.extend(pair.sweep(4 << 20));
        pair.run();
        if pair.now < Instant::ZERO + CUT_STALLED_AFTER {
            assert!(cut.is_empty(), "nobody has stalled for long enough");
        }
    }
    assert!(!cut.is_empty() && !cut.contains(&slow), "{cut:?}");
    assert_eq!(pair.kit.was_reset(cut[0]), Some(Code::EnhanceYourCalm));
    // Whoever is left may hold all there is again; one refusal makes room for those who come next.
    pair.client.mux.refuses_newcomers(pair.now + DRY_AFTER);
    pair.pass_time(SWEEP_EVERY);
    cut.extend(pair.sweep(4 << 20));
    pair.run();
    assert!(!pair.client.mux.refuses_newcomers(pair.now + DRY_AFTER));
    assert!(cut.len() < stuck.len() - 1, "no more than was needed");
}

#[test]
fn slow_readers_are_never_cut_however_little_memory_there_is() {
    let mut pair = full_size(Cut::Whole);
    let slow = pair.open_stuck(200, 300_000);
    let mut rounds = 0;
    while slow
        .iter()
        .any(|id| pair.client.got.get(id).map(Vec::len) != Some(300_000))
    {
        pair.pass_time(SWEEP_EVERY * 2);
        assert!(pair.sweep(0).is_empty());
        for id in &slow {
            pair.client.take(*id, 4_000, pair.now);
        }
        pair.run();
        let small = pair.kit.open(pattern(7, 1000), true, pair.now);
        pair.run();
        assert_eq!(pair.client.got[&small].len(), 1000, "round {rounds}");
        rounds += 1;
        assert!(rounds < 200, "they come to an end");
    }
    pair.drain(&slow, 300_000);
}

#[test]
fn a_receiver_that_withholds_a_quarter_of_each_window_does_not_stop_its_sender() {
    let mut pair = full_size(Cut::Whole);
    let slow = pair.open_stuck(60, 2 * STREAM);
    let quick = pair.kit.open(pattern(9, 2 * STREAM), true, pair.now);
    // It gives credit back for whole quarters only.
    pair.client.stuck.insert(quick);
    let mut sweeps = 0;
    while pair.client.got.get(&quick).map(Vec::len) != Some(2 * STREAM) {
        pair.run();
        let waits = pair.held_by(quick);
        if waits >= STREAM / 4 {
            pair.client.take(quick, waits, pair.now);
            continue;
        }
        pair.pass_time(SWEEP_EVERY);
        for id in &slow {
            pair.client.take(*id, 25_000, pair.now);
        }
        let now = pair.now;
        assert!(pair.kit.mux.sweep(now, HALF_CLOSE, 0).is_empty());
        sweeps += 1;
        assert!(sweeps < 300, "it stands at {}", pair.held_by(quick));
    }
    let all: Vec<u32> = slow.into_iter().chain([quick]).collect();
    pair.drain(&all, 300_000);
}

#[test]
fn idle_streams_whose_credit_was_withheld_go_on_when_others_hold_the_window() {
    let mut pair = full_size(Cut::Whole);
    let idle: Vec<u32> = (0..200)
        .map(|n| pair.kit.open(pattern(n, 200_000), false, pair.now))
        .collect();
    pair.run();
    pair.open_stuck(100, 2 * STREAM);
    for (n, id) in (0..).zip(&idle) {
        pair.kit.source(*id, pattern(n, 50_000), false);
        pair.run();
        assert_eq!(pair.client.got[id].len(), 250_000, "stream {n}");
    }
}

#[test]
fn hundreds_that_wait_are_not_called_for_every_window() {
    let mut pair = full_size(Cut::Whole);
    pair.client.mux.set_budget(8 << 20);
    let slow = pair.open_stuck(400, STREAM);
    let (before, calls) = (pair.kit.count_left(FrameType::Data), pair.kit.calls);
    for round in 0..4_000 {
        pair.client
            .take(slow[round * 7 % slow.len()], 5_000, pair.now);
        pair.run();
    }
    let frames = pair.kit.count_left(FrameType::Data) - before;
    let calls = pair.kit.calls - calls;
    assert!(frames > 1000, "only {frames} pieces moved");
    assert!(calls <= 3 * frames, "{calls} calls for {frames} pieces");
    let windows = pair.client.count_left(FrameType::Window);
    assert!(
        windows < 4 * pair.kit.count_left(FrameType::Data),
        "{windows} WINDOWs"
    );
}

#[test]
fn whatever_readers_do_every_byte_arrives_and_both_windows_are_whole_in_the_end() {
    for seed in 0..3u64 {
        let mut dice = Entropy::from_seed(seed);
        let mut pair = full_size(Cut::Random(seed));
        pair.wire_holds = (64 * 1024) << dice.below(8);
        let budget = dice.below(20) << 20;
        pair.kit.shares = dice.below(3) > 0;
        let mut ids = Vec::new();
        let mut sizes = Vec::new();
        for _ in 0..800 {
            let step = dice.below(10);
            if step == 0 && ids.len() < 150 {
                let size = dice.below(1_500_000) as usize;
                let id = pair
                    .kit
                    .open(pattern(ids.len() as u32, size), true, pair.now);
                if dice.below(3) > 0 {
                    pair.client.stuck.insert(id);
                }
                ids.push(id);
                sizes.push(size);
            } else if step < 8 && !ids.is_empty() {
                let id = ids[dice.below(ids.len() as u32) as usize];
                if pair.client.keys.contains_key(&id) {
                    pair.client.take(id, dice.below(100_000) as usize, pair.now);
                }
                pair.step();
            } else {
                pair.pass_time(SWEEP_EVERY / 4);
                if dice.below(4) == 0 {
                    assert!(pair.sweep(budget).is_empty());
                }
            }
        }
        pair.run();
        pair.drain(&ids, 70_000);
        for ((n, id), size) in (0..).zip(&ids).zip(&sizes) {
            let got = pair.client.got.remove(id).unwrap_or_default();
            assert!(got == pattern(n, *size), "seed {seed}, stream {n}");
        }
        let left = pair.kit.mux.sending.credit.available() as usize;
        assert!(left >= SESSION - SESSION / 8, "seed {seed}: {left} is left");
        assert_eq!(pair.client.mux.receiving.credit.left() as usize, SESSION);
    }
}
