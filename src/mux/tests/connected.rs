//! Streams that a client opens and the kit connects (PROTOCOL §8).

use super::*;
use crate::limits::HASTY_OPENS;

const PEER: &[u8] = br#"{"peer":"127.0.0.1:5432"}"#;

/// Where each end did or did not agree on it.
fn forwards(kit: bool, client: bool) -> Pair {
    let agreed = |side, forward| Terms {
        forward,
        ..terms(side)
    };
    let (kit, client) = (agreed(Side::Kit, kit), agreed(Side::Client, client));
    Pair::with(Cut::Random(8), kit, client, 1)
}

/// Opens one, and has the kit say that it is connected.
fn connected(pair: &mut Pair) -> u32 {
    let id = pair.client.open(Vec::new(), false, pair.now);
    pair.run();
    let key = pair.kit.keys[&id];
    pair.kit.mux.send_connected(key, PEER, pair.now);
    pair.run();
    id
}

#[test]
fn a_client_hears_when_its_stream_is_connected() {
    let mut pair = forwards(true, true);
    let id = connected(&mut pair);
    assert_eq!(pair.client.seen, [Seen::Connected(id, PEER.to_vec())]);
    // Behind EOF nobody is told.
    pair.kit.source(id, Vec::new(), true);
    pair.kit
        .mux
        .send_connected(pair.kit.keys[&id], PEER, pair.now);
    pair.run();
    assert_eq!(pair.client.seen.len(), 2);
    assert_eq!(pair.client.fault, None);
}

#[test]
fn where_it_was_not_agreed_on_it_is_not_said_and_means_nothing() {
    let mut pair = forwards(false, true);
    connected(&mut pair);
    let said = |it: &Pair| {
        let all = it.kit.left.iter();
        all.filter(|it| it.kind == FrameType::StreamConnected)
            .count()
    };
    assert_eq!(said(&pair), 0);
    let mut pair = forwards(true, false);
    connected(&mut pair);
    assert_eq!(said(&pair), 1);
    assert_eq!((pair.client.seen.len(), pair.client.fault), (0, None));
    // A client has nothing to connect, so a kit hears nothing of it.
    let mut pair = forwards(true, true);
    let id = connected(&mut pair);
    let lanes = pair.client.mux.lanes_mut();
    lanes.push(0, FrameType::StreamConnected, id, PEER);
    pair.run();
    let told = [Seen::Opened(id, b"{}".to_vec())];
    assert_eq!((&pair.kit.seen[..], &pair.kit.fault), (&told[..], &None));
}

#[test]
fn opening_too_fast_costs_the_streams_and_never_the_session() {
    let mut pair = forwards(true, true);
    let many = 4 * HASTY_OPENS.burst;
    for turn in 0..many {
        let id = pair.client.open(b"first words".to_vec(), false, pair.now);
        if turn % 16 == 0 {
            pair.run();
        }
        pair.client.reset(id, Code::Cancel);
    }
    pair.run();
    assert_eq!(pair.kit.fault, None);
    let opened = |it: &&Seen| matches!(it, Seen::Opened(..));
    assert_eq!(pair.kit.seen.iter().filter(opened).count(), many as usize);
    assert!(pair.kit.keys.len() <= HASTY_OPENS.burst as usize);
    assert_eq!(pair.kit.mux.streams().len(), 0);
    // Patience helps.
    pair.now = pair.now + Duration::from_secs(1);
    let id = pair.client.open(Vec::new(), false, pair.now);
    pair.run();
    assert!(pair.kit.keys.contains_key(&id));
}
