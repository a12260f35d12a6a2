//! What a lane keeps, counts and acknowledges (PROTOCOL §9).

use super::replay::pair;
use super::*;

#[test]
fn what_the_peer_says_that_it_has_is_held_against_what_was_sent() {
    for lie in [1, u64::MAX - 7] {
        let mut pair = pair(Cut::Whole, 1 << 20, 1);
        pair.kit.open(pattern(1, 5000), false, pair.now);
        pair.run();
        let sent = pair.client.mux.lanes().received(0);
        assert_eq!(sent, 2);
        let octets = (sent + lie).to_be_bytes();
        pair.inject(&[(FrameType::Ack, 0, &octets)]);
        pair.run();
        let fault = pair.kit.fault.as_ref().expect("a violation");
        assert_eq!(fault.code, Code::ProtocolError);
        assert_eq!(fault.why, "ACK of frames that were never sent");
    }
    let mut pair = pair(Cut::Whole, 1 << 20, 1);
    pair.kit.open(pattern(1, 5000), false, pair.now);
    pair.run();
    let acks: Vec<[u8; 8]> = [2u64, 1, 0, 2].iter().map(|n| n.to_be_bytes()).collect();
    for octets in &acks {
        pair.inject(&[(FrameType::Ack, 0, octets)]);
        pair.run();
        assert_eq!(pair.kit.fault, None, "an old ACK is no lie");
    }
    pair.kit.give_up(0, pair.now);
    let can = |count| pair.kit.mux.lanes().can_resume(0, count);
    assert!(can(2) && !can(1) && !can(3) && !can(u64::MAX));
}

#[test]
fn an_ack_means_nothing_where_nothing_is_kept() {
    let mut pair = Pair::new(Cut::Whole);
    pair.inject(&[(FrameType::Ack, 0, &[0xFF; 8])]);
    pair.run();
    assert_eq!(pair.kit.fault, None);
    assert!(!pair.kit.mux.lanes().can_resume(0, 0));
    pair.kit.open(pattern(1, 300_000), false, pair.now);
    pair.run();
    assert_eq!(pair.client.count_left(FrameType::Ack), 0);
}

#[test]
fn a_peer_that_acknowledges_nothing_stops_what_is_new_and_nothing_else() {
    let keeps = 128 * 1024;
    let mut pair = pair(Cut::Whole, keeps, 1);
    let id = pair.kit.open(pattern(1, 1 << 20), true, pair.now);
    let quick = pair.kit.open(pattern(2, 10), false, pair.now);
    pair.kit.settle(pair.now);
    let mut sent = 0;
    while pair.flush(Side::Kit, 0) {
        sent += pair.kit.wire[0].len();
        pair.kit.wire[0].clear();
    }
    let kept = pair.kit.mux.lanes.channels[0]
        .replay()
        .map(|it| it.retained());
    let kept = kept.expect("something is kept");
    let most_data = keeps as usize / 8 * 7;
    assert!(sent >= most_data && kept >= most_data, "{sent} {kept}");
    assert!(kept <= keeps as usize + 2 * 65_536 + 100, "{kept} are kept");
    let capacity = pair.kit.mux.lanes.channels[0].capacity();
    assert!(capacity <= kept + 600_000, "{capacity} of memory");
    // Newcomers find the rest, until that is full too.
    let open = [b'{'; 1000];
    let mut newcomers = (0..1000).map(|_| pair.kit.mux.open(0, &open, pair.now));
    let found = newcomers.by_ref().take_while(Result::is_ok).count();
    assert!(
        (1..=keeps as usize / 8 / 1000 + 1).contains(&found),
        "{found} newcomers"
    );
    assert!(newcomers.all(|newcomer| newcomer.is_err()));
    pair.kit.reset(quick, Code::Cancel);
    pair.kit.settle(pair.now);
    assert!(pair.flush(Side::Kit, 0), "the end of a stream leaves");
    pair.kit.mux.passed_on(pair.kit.keys[&id], 0, pair.now);
    // Its word sets it free again.
    let taken = pair.kit.mux.lanes.channels[0].replay().map(|it| it.sent());
    let octets = taken.expect("a count").to_be_bytes();
    pair.inject(&[(FrameType::Ack, 0, &octets)]);
    pair.deliver(Side::Client, 0);
    pair.kit.settle(pair.now);
    assert!(pair.flush(Side::Kit, 0), "it goes on");
}

#[test]
fn acknowledging_costs_little_and_is_never_late() {
    let mut pair = pair(Cut::Whole, 4 << 20, 1);
    pair.kit.mux.lanes.terms.session_window = 1 << 20;
    let id = pair.kit.open(pattern(1, 8 << 20), true, pair.now);
    pair.run();
    assert_eq!(pair.client.got[&id].len(), 8 << 20);
    let acks = pair.client.count_left(FrameType::Ack);
    assert!((8..=256).contains(&acks), "{acks} ACKs for 8 MiB");
    // The first frame after a silence is acknowledged at once, the next ones within 50 ms.
    pair.pass_time(Duration::from_secs(1));
    for n in 0..3 {
        pair.kit.open(pattern(n, 10), true, pair.now);
        pair.run();
    }
    let before = pair.client.count_left(FrameType::Ack);
    assert_eq!(before, acks + 1);
    let due = pair
        .client
        .mux
        .lanes()
        .acknowledges_at()
        .expect("a deadline");
    assert_eq!(due, pair.now + Duration::from_millis(50));
    pair.now = due;
    pair.client.mux.lanes_mut().acknowledge_all(pair.now);
    pair.run();
    assert_eq!(pair.client.count_left(FrameType::Ack), before + 1);
    assert_eq!(pair.client.mux.lanes().acknowledges_at(), None);
    let kept = pair.kit.mux.lanes.channels[0]
        .replay()
        .map(|it| it.retained());
    assert_eq!(kept, Some(0));
}

#[test]
fn a_lane_that_is_down_starves_no_other_and_its_streams_wait() {
    let mut pair = pair(Cut::Whole, 4 << 20, 4);
    let ids: Vec<u32> = (0..4)
        .map(|n| pair.kit.open(pattern(n, 600_000), true, pair.now))
        .collect();
    // All that lane 0 and 1 send is lost, and both windows are pressed.
    for _ in 0..40 {
        for lane in 0..4 {
            pair.flush(Side::Kit, lane);
            pair.deliver(Side::Client, lane.max(2));
        }
    }
    for lane in [0, 1] {
        pair.kit.give_up(lane, pair.now);
        pair.client.give_up(lane, pair.now);
    }
    pair.run();
    let lane_of = |id: &u32| {
        let key = pair.kit.keys[id];
        pair.kit.mux.streams.get(key).map(|stream| stream.lane)
    };
    let (waiting, going): (Vec<u32>, Vec<u32>) = ids
        .iter()
        .partition(|id| lane_of(id).is_some_and(|lane| lane < 2));
    assert_eq!((waiting.len(), going.len()), (2, 2));
    for id in &going {
        assert_eq!(pair.client.got[id].len(), 600_000, "it went on");
    }
    // A newcomer finds a lane, and session credit goes back on one that stands.
    let new = pair.kit.open(pattern(9, 2_000_000), true, pair.now);
    pair.run();
    assert!(pair.client.got[&new] == pattern(9, 2_000_000));
    // Nobody is judged for what its lane does, however long.
    pair.pass_time(Duration::from_secs(3600));
    let half_closed = Duration::from_secs(300);
    for end in [&mut pair.kit, &mut pair.client] {
        let swept = end.mux.sweep(pair.now, half_closed, 0);
        let swept: Vec<u32> = swept.iter().map(|swept| swept.tag).collect();
        assert!(waiting.iter().all(|id| !swept.contains(id)), "{swept:?}");
    }
    pair.come_back(0);
    pair.come_back(1);
    for end in [&mut pair.kit, &mut pair.client] {
        let swept = end.mux.sweep(pair.now, half_closed, 0);
        let swept: Vec<u32> = swept.iter().map(|swept| swept.tag).collect();
        assert!(waiting.iter().all(|id| !swept.contains(id)), "{swept:?}");
    }
    pair.run_dry();
    for (n, id) in ids.iter().enumerate() {
        assert!(pair.client.got[id] == pattern(n as u32, 600_000));
    }
    pair.assert_whole();
}

#[test]
fn credit_for_a_lane_that_is_down_is_one_window_a_stream() {
    let mut pair = pair(Cut::Whole, 4 << 20, 1);
    pair.client.takes = false;
    let id = pair.kit.open(pattern(1, 256 * 1024), false, pair.now);
    pair.run();
    pair.kit.give_up(0, pair.now);
    pair.client.give_up(0, pair.now);
    for _ in 0..256 {
        pair.client.take(id, 1024, pair.now);
    }
    let before = pair.client.count_left(FrameType::Window);
    pair.come_back(0);
    pair.run_dry();
    let after = pair.client.count_left(FrameType::Window);
    assert!(after - before <= 2, "{} WINDOWs", after - before);
    pair.assert_whole();
}

#[test]
fn what_does_not_count_passes_what_is_sent_again() {
    let mut pair = pair(Cut::Whole, 4 << 20, 1);
    let id = pair.kit.open(pattern(1, 250_000), false, pair.now);
    pair.kit.settle(pair.now);
    while pair.flush(Side::Kit, 0) {
        pair.kit.wire[0].clear();
    }
    pair.kit.give_up(0, pair.now);
    pair.client.give_up(0, pair.now);
    pair.kit
        .mux
        .lanes_mut()
        .push_control(FrameType::ShardMap, b"{\"lost\":1}");
    pair.kit
        .mux
        .lanes_mut()
        .push_control(FrameType::BindOk, b"{}");
    pair.client.resume(0, 0, pair.now);
    let mut transport = pair.kit.transport(0, pair.now);
    transport.push_control(FrameType::HelloOk, b"{}");
    pair.kit.mux.resume(0, transport, 0, pair.now);
    let lost = pair.kit.count_left(FrameType::Data);
    pair.kit.left.clear();
    pair.kit
        .mux
        .lanes_mut()
        .push_control(FrameType::GoAway, b"{}");
    pair.run_dry();
    let kinds = pair.kit.left.iter().map(|frame| frame.kind);
    let kinds: Vec<FrameType> = kinds.filter(|kind| *kind != FrameType::Ack).collect();
    assert_eq!(kinds[..2], [FrameType::HelloOk, FrameType::GoAway]);
    assert_eq!(kinds[2], FrameType::StreamOpen);
    let ahead = kinds.iter().take_while(|kind| **kind != FrameType::BindOk);
    let again = ahead.filter(|kind| **kind == FrameType::Data).count();
    assert_eq!(
        again, lost,
        "it came behind what is sent again, and nothing else"
    );
    assert!(!kinds.contains(&FrameType::ShardMap));
    assert!(pair.client.got[&id] == pattern(1, 250_000));
}

#[test]
fn frames_of_types_that_are_not_known_here_count_where_they_are_numbered() {
    let mut pair = pair(Cut::Whole, 4 << 20, 1);
    let mut lane = Transport::client(conn(0), Entropy::from_seed(99), pair.now);
    lane.push_control(FrameType::Unbind, b"{}");
    let mut bytes = lane.transmit().to_vec();
    // The same message with a frame of each extension behind it, by hand.
    let body: Vec<u8> = [0x42, 0x43, 0x44, 0x45, 0x46, 0x7F]
        .iter()
        .flat_map(|kind| [*kind, 0, 0, 0, 2, 0, 0, 0, 1, b'x'])
        .collect();
    let mut frames = vec![
        FrameType::Unbind.as_u8(),
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        2,
        b'{',
        b'}',
    ];
    frames.extend(body);
    bytes.clear();
    crate::ws::push_frame(
        &mut bytes,
        Role::Client,
        crate::ws::OpCode::Binary,
        &frames,
        Some([1, 2, 3, 4]),
    );
    pair.client.wire[0].extend(bytes);
    pair.run();
    assert_eq!(pair.kit.fault, None);
    assert_eq!(pair.kit.mux.lanes().received(0), 1 + 3);
}

#[test]
fn a_frame_of_a_stream_on_another_lane_is_a_violation() {
    let mut pair = pair(Cut::Whole, 4 << 20, 2);
    let first = pair.kit.open(pattern(1, 1000), false, pair.now);
    let second = pair.kit.open(pattern(1, 1000), false, pair.now);
    pair.run();
    let lanes = [first, second].map(|id| {
        let key = pair.kit.keys[&id];
        pair.kit.mux.streams.get(key).map(|stream| stream.lane)
    });
    assert_eq!(lanes, [Some(0), Some(1)]);
    pair.inject(&[(FrameType::Data, second, b"x")]);
    pair.run();
    let fault = pair.kit.fault.as_ref().expect("a violation");
    assert_eq!(
        fault.why,
        "a stream's frame on a lane that is not the stream's"
    );
}

#[test]
fn frames_that_do_not_count_are_not_kept_for_an_ack_that_never_comes() {
    let mut pair = pair(Cut::Whole, 128 * 1024, 1);
    for at in 0..1000 {
        let map = format!(r#"{{"connections":[{at},{}]}}"#, "0,".repeat(200));
        pair.kit
            .mux
            .lanes_mut()
            .push_control(FrameType::ShardMap, map.as_bytes());
        pair.kit.settle(pair.now);
        while pair.flush(Side::Kit, 0) {
            pair.kit.wire[0].clear();
        }
        let kept = pair.kit.mux.lanes.channels[0]
            .replay()
            .map(|it| it.retained());
        assert_eq!(kept, Some(0), "after {at}");
    }
    let capacity = pair.kit.mux.lanes.channels[0].capacity();
    assert!(capacity < 64 * 1024, "{capacity} of memory");
    assert!(pair.kit.mux.open(0, b"{}", pair.now).is_ok());
}

#[test]
fn both_ends_send_a_full_buffer_again_at_once() {
    let keeps = 128 * 1024;
    let mut pair = pair(Cut::Whole, keeps, 1);
    let now = pair.now;
    let down = pair.kit.open(pattern(1, 1 << 20), true, now);
    let up = pair.client.open(pattern(2, 1 << 20), true, now);
    for _ in 0..5 {
        // Both send until their buffers are full, and nothing of it arrives.
        for side in [Side::Kit, Side::Client] {
            pair.end(side).0.settle(now);
            while pair.flush(side, 0) {
                pair.end(side).0.wire[0].clear();
            }
            let kept = pair.end(side).0.mux.lanes.channels[0]
                .replay()
                .map(|it| it.retained());
            assert!(kept >= Some(keeps as usize / 2), "{kept:?}");
        }
        pair.kit.give_up(0, pair.now);
        pair.client.give_up(0, pair.now);
        pair.come_back(0);
    }
    pair.run_dry();
    assert!(pair.client.got[&down] == pattern(1, 1 << 20), "other bytes");
    assert!(pair.kit.got[&up] == pattern(2, 1 << 20), "other bytes");
    pair.assert_whole();
}
