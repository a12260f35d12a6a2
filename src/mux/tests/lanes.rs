//! Several lanes: pinning, placement, a lane that is lost, ids out of order (PROTOCOL §7).

use super::*;
use crate::limits::CREDIT_LOST_AFTER;

fn three_lanes(cut: Cut) -> Pair {
    Pair::with(cut, terms(Side::Kit), terms(Side::Client), 3)
}

#[test]
fn all_frames_of_a_stream_leave_on_the_lane_of_its_open() {
    let mut pair = three_lanes(Cut::Random(2));
    pair.wire_holds = 20_000;
    for n in 0..30 {
        let now = pair.now;
        let id = match n % 2 {
            0 => pair.kit.open(pattern(n, 50_000), true, now),
            _ => pair.client.open(pattern(n, 50_000), true, now),
        };
        pair.step();
        let end = if n % 2 == 0 {
            &mut pair.client
        } else {
            &mut pair.kit
        };
        if end.keys.contains_key(&id) {
            end.source(id, pattern(n, 70_000), true);
        }
    }
    pair.run();
    let mut lane_of: BTreeMap<u32, usize> = BTreeMap::new();
    let all = pair.kit.left.iter().chain(&pair.client.left);
    for frame in all.clone().filter(|f| f.kind == FrameType::StreamOpen) {
        lane_of.insert(frame.id, frame.lane);
    }
    for frame in all.filter(|frame| frame.id != 0) {
        assert_eq!(lane_of[&frame.id], frame.lane, "{frame:?}");
    }
    let used: BTreeSet<usize> = lane_of.values().copied().collect();
    assert_eq!(used.len(), 3, "some lane was never used");
    let session_frames = pair.kit.left.iter().filter(|frame| frame.id == 0);
    assert!(session_frames.into_iter().all(|frame| frame.lane == 0));
}

#[test]
fn a_new_stream_goes_to_the_lane_with_the_least_waiting() {
    let mut pair = three_lanes(Cut::Whole);
    pair.wire_holds = 0;
    let lanes: Vec<usize> = (0..3)
        .map(|n| {
            let id = pair.kit.open(pattern(n, 30_000), false, Instant::ZERO);
            let key = pair.kit.keys[&id];
            usize::from(pair.kit.mux.streams.get(key).unwrap().lane)
        })
        .collect();
    assert_eq!(lanes, [0, 1, 2]);
}

#[test]
fn a_lost_lane_takes_its_streams_and_no_others() {
    let mut pair = three_lanes(Cut::Whole);
    pair.client.takes = false;
    pair.wire_holds = 1000;
    let ids: Vec<u32> = (0..6)
        .map(|n| pair.kit.open(pattern(n, 200_000), true, Instant::ZERO))
        .collect();
    pair.run();
    let on_lane_1: Vec<u32> = ids
        .iter()
        .filter(|id| {
            let key = pair.kit.keys[*id];
            pair.kit.mux.streams.get(key).unwrap().lane == 1
        })
        .copied()
        .collect();
    assert_eq!(on_lane_1.len(), 2);
    let (lane, mut lost) = pair.kit.mux.detach(1);
    lost.sort_unstable();
    assert!(lane.is_some());
    assert_eq!(lost, on_lane_1);
    let (_, mut lost_there) = pair.client.mux.detach(1);
    lost_there.sort_unstable();
    assert_eq!(lost_there, on_lane_1);
    pair.client.takes = true;
    for id in &ids {
        pair.kit.sources.retain(|id, _| !on_lane_1.contains(id));
        if !on_lane_1.contains(id) {
            pair.client.take(*id, usize::MAX, pair.now);
        }
    }
    pair.run();
    for id in ids.iter().filter(|id| !on_lane_1.contains(id)) {
        assert_eq!(pair.client.got[id].len(), 200_000);
        pair.client.source(*id, Vec::new(), true);
    }
    // The lane comes back, and carries new streams.
    pair.kit.attach(1, pair.now);
    pair.client.attach(1, pair.now);
    pair.wire_holds = 100_000;
    for n in 0..6 {
        let id = pair.kit.open(pattern(n, 200_000), true, pair.now);
        pair.run();
        assert!(pair.client.got[&id] == pattern(n, 200_000));
        pair.client.source(id, Vec::new(), true);
    }
    pair.run();
    pair.assert_quiet();
}

#[test]
fn credit_of_a_lost_lanes_streams_goes_back_to_the_session() {
    let mut pair = three_lanes(Cut::Whole);
    for round in 0..12 {
        pair.client.takes = false;
        let id = pair.kit.open(pattern(round, 200_000), false, pair.now);
        let other = pair.kit.open(pattern(round, 200_000), false, pair.now);
        pair.run();
        assert_eq!(pair.client.got[&id].len(), 200_000, "round {round}");
        let key = pair.kit.keys[&other];
        let lane = usize::from(pair.kit.mux.streams.get(key).unwrap().lane);
        let lane = lane.max(1);
        pair.kit.mux.detach(lane);
        pair.client.mux.detach(lane);
        pair.kit.attach(lane, pair.now);
        pair.client.attach(lane, pair.now);
        for id in [id, other] {
            pair.kit.reset(id, Code::Cancel);
        }
        pair.run();
        pair.kit.mux.check_invariants();
        assert_eq!(pair.client.mux.buffered(), 0);
    }
}

/// Loses lane 1 with DATA on its way, in `rounds` rounds; whether `told`, each end then learns what
/// the other received.
fn lose_data(rounds: u32, told: bool) -> Pair {
    let mut pair = three_lanes(Cut::Whole);
    for round in 0..rounds {
        // Nothing leaves: all that is sent goes down with the lane.
        pair.wire_holds = 0;
        let kept: Vec<u32> = (0..3)
            .map(|_| pair.kit.open(pattern(round, 200_000), false, pair.now))
            .collect();
        pair.run();
        let (_, lost) = pair.kit.mux.detach(1);
        pair.client.mux.detach(1);
        let (kit, client) = (&mut pair.kit.mux, &mut pair.client.mux);
        let counts = (
            client.lanes().data_received(1),
            kit.lanes().data_received(1),
        );
        assert_eq!(kit.settle(1, told.then_some(counts.0), None), Ok(()));
        assert_eq!(client.settle(1, told.then_some(counts.1), None), Ok(()));
        pair.kit.sources.retain(|id, _| !lost.contains(id));
        pair.kit.attach(1, pair.now);
        pair.client.attach(1, pair.now);
        pair.wire_holds = usize::MAX;
        pair.run();
        for id in kept {
            pair.kit.reset(id, Code::Cancel);
        }
        pair.run();
    }
    pair
}

#[test]
fn session_credit_that_went_down_with_a_lane_comes_back_when_it_is_joined_again() {
    let mut pair = lose_data(40, true);
    let id = pair.kit.open(pattern(99, 3 << 20), true, pair.now);
    pair.run();
    assert!(pair.client.got[&id] == pattern(99, 3 << 20));
    assert!(
        !pair
            .kit
            .mux
            .has_run_dry(pair.now + Duration::from_secs(3600))
    );
    let all = pair.client.mux.lanes().data_received(0) + pair.client.mux.lanes().data_received(1);
    assert!(all > 3 << 20);
}

#[test]
fn a_session_whose_peer_does_not_tell_runs_dry_and_knows_it() {
    let mut pair = lose_data(40, false);
    let id = pair.kit.open(pattern(99, 3 << 20), true, pair.now);
    pair.run();
    let got = pair.client.got.get(&id).map_or(0, Vec::len);
    assert!(got < 32 * 1024, "{got} found credit");
    assert!(!pair.kit.mux.has_run_dry(pair.now));
    assert!(pair.kit.mux.has_run_dry(pair.now + CREDIT_LOST_AFTER));
}

#[test]
fn counts_that_cannot_be_are_refused() {
    let mut pair = three_lanes(Cut::Whole);
    let ids: Vec<u32> = (0..6)
        .map(|n| pair.kit.open(pattern(n, 100_000), true, pair.now))
        .collect();
    pair.run();
    for lane in 1..3 {
        pair.kit.mux.detach(lane);
        let received = pair.client.mux.lanes().data_received(lane);
        assert!(received > 0, "{ids:?}");
        let kit = &mut pair.kit.mux;
        assert!(
            kit.settle(lane, Some(received + 1), None).is_err(),
            "more than was sent"
        );
        assert!(kit.settle(lane, Some(u64::MAX), None).is_err());
        assert!(
            kit.settle(lane, Some(0), None).is_err(),
            "less than was acknowledged"
        );
        assert_eq!(kit.settle(lane, Some(received), None), Ok(()));
    }
}

#[test]
fn opens_that_overtake_each_other_on_different_lanes_are_taken() {
    let mut pair = three_lanes(Cut::Whole);
    let ids: Vec<u32> = (0..9)
        .map(|n| pair.kit.open(pattern(n, 100), true, Instant::ZERO))
        .collect();
    let now = pair.now;
    pair.kit.settle(now);
    for lane in 0..3 {
        while pair.flush(Side::Kit, lane) {}
    }
    for lane in [2, 0, 1] {
        while pair.deliver(Side::Kit, lane) {}
    }
    assert_eq!(pair.client.fault, None);
    for (n, id) in ids.iter().enumerate() {
        assert!(pair.client.got[id] == pattern(n as u32, 100));
        pair.client.source(*id, Vec::new(), true);
    }
    pair.run();
    pair.assert_quiet();
}

#[test]
fn a_streams_frames_are_taken_from_any_lane() {
    let mut pair = three_lanes(Cut::Whole);
    // Its STREAM_OPEN goes to lane 1, for lane 0 has something waiting.
    let first = pair.kit.open(vec![1; 100], false, pair.now);
    let id = pair.kit.open(Vec::new(), true, pair.now);
    pair.run();
    pair.inject(&[
        (FrameType::StreamResponseHead, id, b"{}"),
        (FrameType::Data, id, b"answer on the primary"),
        (FrameType::Eof, id, b""),
    ]);
    pair.run();
    assert_eq!(pair.kit.got[&id], b"answer on the primary");
    assert!(pair.kit.seen.contains(&Seen::Eof(id)));
    assert_eq!(pair.kit.fault, None);
    pair.kit.reset(first, Code::Cancel);
}

#[test]
fn a_session_without_lanes_opens_nothing() {
    let mut session: Session<u32> = Session::new(terms(Side::Kit), Instant::ZERO);
    let refused = session.open(1, b"{}", Instant::ZERO);
    assert_eq!(refused, Err(crate::mux::CannotOpen::NoLane));
    session.streams.next_id = u32::MAX - 1;
    session.attach(0, Transport::server(conn(0), Instant::ZERO));
    let refused = session.open(1, b"{}", Instant::ZERO);
    assert_eq!(refused, Err(crate::mux::CannotOpen::IdsUsedUp));
}

#[test]
#[should_panic(expected = "its bytes are still lent")]
fn a_lane_is_not_read_while_a_span_of_it_is_lent() {
    let mut pair = three_lanes(Cut::Whole);
    let loan = pair.kit.mux.lend(1, &(0..0));
    pair.kit.mux.lanes_mut().get_mut(0).unwrap().read_space();
    pair.kit.mux.lanes_mut().get_mut(1).unwrap().read_space();
    drop(loan);
}

#[test]
#[should_panic(expected = "its bytes are still lent")]
fn a_lane_is_not_detached_while_a_span_of_it_is_lent() {
    let mut pair = three_lanes(Cut::Whole);
    drop(pair.kit.mux.lend(1, &(0..0)));
    pair.kit.mux.detach(1);
    let _loan = pair.kit.mux.lend(2, &(0..0));
    pair.kit.mux.detach(2);
}
