//! Bytes arrive in order, exactly once, however the wire cuts them.

use super::*;

fn cuts() -> impl Iterator<Item = Cut> {
    [Cut::Whole, Cut::SingleBytes]
        .into_iter()
        .chain((1..6).map(Cut::Random))
}

#[test]
fn data_arrives_in_order_and_once_both_ways_however_it_is_cut() {
    for cut in cuts() {
        let len = if cut == Cut::SingleBytes {
            20_000
        } else {
            600_000
        };
        let mut pair = Pair::new(cut);
        let now = pair.now;
        let ids: Vec<u32> = (0..5u32)
            .map(|n| pair.kit.open(pattern(n, len + n as usize), true, now))
            .collect();
        pair.run();
        for (n, id) in ids.iter().enumerate() {
            pair.client.source(*id, pattern(100 + n as u32, len), true);
        }
        pair.run();
        pair.assert_quiet();
        for (n, id) in ids.iter().enumerate() {
            assert!(pair.client.got[id] == pattern(n as u32, len + n), "{cut:?}");
            assert!(pair.kit.got[id] == pattern(100 + n as u32, len), "{cut:?}");
        }
    }
}

#[test]
fn half_close_leaves_the_other_direction_open() {
    let mut pair = Pair::new(Cut::Random(3));
    let id = pair.client.open(pattern(1, 1000), true, pair.now);
    pair.run();
    assert!(pair.kit.seen.contains(&Seen::Eof(id)));
    assert_eq!(pair.kit.mux.streams().len(), 1);
    pair.kit.source(id, pattern(2, 600_000), false);
    pair.run();
    assert!(pair.client.got[&id] == pattern(2, 600_000));
    assert!(!pair.client.seen.contains(&Seen::Eof(id)));
    pair.kit.source(id, Vec::new(), true);
    pair.run();
    assert!(pair.client.seen.contains(&Seen::Eof(id)));
    pair.assert_quiet();
}

#[test]
fn an_end_that_took_its_last_bytes_after_both_eofs_is_only_then_over() {
    let mut pair = Pair::new(Cut::Whole);
    pair.client.takes = false;
    let id = pair.kit.open(pattern(1, 5000), true, pair.now);
    pair.run();
    pair.client.source(id, Vec::new(), true);
    pair.run();
    assert_eq!(pair.kit.mux.streams().len(), 0);
    assert_eq!(
        pair.client.mux.streams().len(),
        1,
        "its bytes are not taken"
    );
    pair.client.take(id, 4999, pair.now);
    assert_eq!(pair.client.mux.streams().len(), 1);
    pair.client.take(id, 1, pair.now);
    pair.run();
    pair.assert_quiet();
}

#[test]
fn heads_and_data_keep_their_order() {
    let mut pair = Pair::new(Cut::Random(8));
    let id = pair.kit.open(Vec::new(), true, pair.now);
    pair.run();
    let key = pair.client.keys[&id];
    for head in [&b"{\"status\":103}"[..], b"{\"status\":200}"] {
        pair.client.mux.send_head(key, head, pair.now);
    }
    pair.client.source(id, pattern(3, 100_000), true);
    pair.run();
    let heads: Vec<_> = pair.kit.seen.iter().collect();
    assert_eq!(
        heads,
        [
            &Seen::Head(id, b"{\"status\":103}".to_vec()),
            &Seen::Head(id, b"{\"status\":200}".to_vec()),
            &Seen::Eof(id)
        ]
    );
    assert!(pair.kit.got[&id] == pattern(3, 100_000));
    pair.assert_quiet();
}

#[test]
fn session_frames_come_through_whole() {
    for cut in cuts() {
        let mut pair = Pair::new(cut);
        let json = vec![b'x'; 60_000];
        pair.client
            .mux
            .lanes_mut()
            .push_control(FrameType::Bind, &json);
        pair.kit
            .mux
            .lanes_mut()
            .push_control(FrameType::BindOk, b"{}");
        pair.run();
        let bind = Seen::Control(FrameType::Bind, json);
        assert!(pair.kit.seen == [bind]);
        assert_eq!(
            pair.client.seen,
            [Seen::Control(FrameType::BindOk, b"{}".to_vec())]
        );
    }
}

#[test]
fn many_streams_of_random_sizes_end_whole_through_a_narrow_wire() {
    for seed in 1..20 {
        let mut pair = Pair::new(Cut::Random(seed));
        pair.wire_holds = 1 + (seed as usize * 7919) % 40_000;
        let mut dice = Entropy::from_seed(seed + 1000);
        let mut expected = BTreeMap::new();
        for round in 0..60 {
            let len = dice.below(if round % 7 == 0 { 400_000 } else { 3000 }) as usize;
            let (now, bytes) = (pair.now, pattern(round, len));
            let id = match dice.below(2) {
                0 => pair.kit.open(bytes.clone(), true, now),
                _ => pair.client.open(bytes.clone(), true, now),
            };
            expected.insert(id, bytes);
            for _ in 0..dice.below(5) {
                pair.step();
            }
        }
        pair.run();
        for (id, bytes) in &expected {
            let (opener, other) = match id % 2 {
                0 => (&mut pair.kit, &mut pair.client),
                _ => (&mut pair.client, &mut pair.kit),
            };
            if !bytes.is_empty() {
                assert!(other.got[id] == *bytes, "seed {seed} stream {id}");
            }
            assert!(!opener.got.contains_key(id));
            other.source(*id, bytes.clone(), true);
        }
        pair.run();
        pair.assert_quiet();
    }
}

/// A kit's stream, where each end did or did not agree on trailers.
fn trails(kit: bool, client: bool) -> (Pair, u32) {
    let agreed = |side, trailers| Terms {
        trailers,
        ..terms(side)
    };
    let (kit, client) = (agreed(Side::Kit, kit), agreed(Side::Client, client));
    let mut pair = Pair::with(Cut::Random(4), kit, client, 1);
    let id = pair.kit.open(Vec::new(), true, pair.now);
    pair.run();
    (pair, id)
}

const SUM: &[u8] = br#"{"headers":[["x-sum","1"]]}"#;

#[test]
fn trailers_come_between_the_last_data_and_eof() {
    let (mut pair, id) = trails(true, true);
    let (key, now) = (pair.client.keys[&id], pair.now);
    pair.client.source(id, pattern(1, 5000), false);
    pair.client.mux.send_trailers(key, SUM, now);
    pair.client.source(id, Vec::new(), true);
    pair.run();
    assert!(pair.kit.got[&id] == pattern(1, 5000));
    let wanted = [Seen::Trailers(id, SUM.to_vec()), Seen::Eof(id)];
    assert_eq!(pair.kit.seen, wanted);
    pair.client.mux.send_trailers(key, SUM, now);
    pair.run();
    assert_eq!(pair.kit.seen.len(), 2, "behind EOF none are sent");
    pair.assert_quiet();
}

#[test]
fn trailers_that_are_not_agreed_on_are_not_sent_and_mean_nothing() {
    let (mut pair, id) = trails(true, false);
    let (key, now) = (pair.client.keys[&id], pair.now);
    pair.client.mux.send_trailers(key, SUM, now);
    pair.run();
    assert!(
        pair.client
            .left
            .iter()
            .all(|it| it.kind != FrameType::StreamTrailers)
    );
    let (mut pair, id) = trails(false, true);
    let key = pair.client.keys[&id];
    pair.client.mux.send_trailers(key, SUM, now);
    pair.client.source(id, Vec::new(), true);
    pair.run();
    assert_eq!(pair.kit.seen, [Seen::Eof(id)]);
    pair.assert_quiet();
}

#[test]
fn trailers_in_wrong_places_cost_a_peer_nothing_but_a_flood_its_session() {
    let (mut pair, id) = trails(true, true);
    let now = pair.now;
    let trail = |pair: &mut Pair, id, count: u32| {
        for _ in 0..count {
            let lanes = pair.client.mux.lanes_mut();
            lanes.push(0, FrameType::StreamTrailers, id, SUM);
        }
        pair.run();
    };
    trail(&mut pair, id, 2);
    pair.client.source(id, Vec::new(), true);
    trail(&mut pair, id, 1);
    let two = vec![Seen::Trailers(id, SUM.to_vec()); 2];
    let wanted = [two, vec![Seen::Eof(id)]].concat();
    assert_eq!(pair.kit.seen, wanted, "behind EOF nobody is told");
    assert_eq!(pair.kit.fault, None);
    // Behind EOF, on a stream that is half-closed, without end.
    let id = pair.kit.open(Vec::new(), false, now);
    pair.run();
    pair.client.source(id, Vec::new(), true);
    trail(&mut pair, id, 2 * crate::limits::FLOOD_ASKING.burst);
    let fault = pair.kit.fault.expect("a flood");
    assert_eq!(fault.code, Code::EnhanceYourCalm);
}
