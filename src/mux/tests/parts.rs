//! Parts of long heads: they come with their head, and cost no memory where it does not.

use super::*;
use crate::limits::{HEAD_PARTS, MAX_HEAD_PARTS};
use crate::mux::Wanted;

const PART: &[u8] = br#"{"headers":[["a","b"]]}"#;

/// Both agreed on long heads, of which so many bytes may wait.
fn long(head_parts: usize) -> Pair {
    let agreed = |side| Terms {
        head_parts,
        ..terms(side)
    };
    Pair::with(Cut::Random(5), agreed(Side::Kit), agreed(Side::Client), 2)
}

/// What the client is told, and how many parts came with each.
fn heard(pair: &mut Pair) -> Vec<(&'static str, usize)> {
    let mut all = Vec::new();
    for lane in 0..2 {
        while let Ok(Some(incoming)) = pair.client.mux.poll(lane, pair.now) {
            let parts = pair.client.mux.take_parts().bytes() / PART.len();
            match incoming {
                Incoming::Opened { id, .. } => {
                    let key = pair.client.mux.accept(lane, id, id, pair.now);
                    pair.client.keys.insert(id, key.expect("a place"));
                    all.push(("open", parts));
                }
                Incoming::Head { .. } => all.push(("head", parts)),
                Incoming::Reset { .. } => all.push(("reset", parts)),
                _ => all.push(("other", parts)),
            }
        }
    }
    pair.client.mux.check_invariants();
    all
}

/// Has what lane `lane` of the kit says reach the client, which does not look yet.
fn carry(pair: &mut Pair, lane: usize) {
    loop {
        let bytes = pair.kit.mux.transmit(lane).to_vec();
        if bytes.is_empty() {
            return;
        }
        pair.kit.mux.transmitted(lane, bytes.len());
        for piece in bytes.chunks(4096) {
            let transport = pair.client.mux.lanes_mut().get_mut(lane);
            let transport = transport.expect("it stands");
            transport.read_space()[..piece.len()].copy_from_slice(piece);
            transport.received(piece.len(), pair.now);
        }
    }
}

#[test]
fn parts_come_with_the_head_behind_them_and_no_other() {
    let mut pair = long(1 << 20);
    let now = pair.now;
    let (one, three) = (vec![PART.to_vec()], vec![PART.to_vec(); 3]);
    for parts in [&three, &Vec::new(), &one] {
        let opened = pair
            .kit
            .mux
            .open_for(Wanted::default(), 0, (parts, b"{}"), now);
        assert!(opened.is_ok());
    }
    carry(&mut pair, 0);
    carry(&mut pair, 1);
    let mut got = heard(&mut pair);
    got.sort_unstable();
    assert_eq!(got, [("open", 0), ("open", 1), ("open", 3)]);
    let id = *pair.client.keys.keys().next().expect("one");
    let key = pair.client.keys[&id];
    // A kit sends no heads, but the session itself is the same at both ends.
    let (to_kit, sent) = (&mut pair.client.mux, pair.kit.mux.streams().len());
    assert_eq!(sent, 3);
    to_kit.send_head_part(key, PART);
    to_kit.send_head_part(key, PART);
    to_kit.send_head(key, b"{}", now);
    to_kit.send_head(key, b"{}", now);
    pair.run();
    let heads = pair
        .kit
        .seen
        .iter()
        .filter(|seen| matches!(seen, Seen::Head(..)));
    assert_eq!(heads.count(), 2);
    assert!(
        pair.kit.mux.take_parts().is_empty(),
        "those of the last head: none"
    );
    assert_eq!(pair.kit.fault, None);
}

#[test]
fn parts_that_are_too_many_cost_their_stream_and_give_their_memory_back() {
    let mut pair = long(MAX_HEAD_PARTS);
    let id = pair.kit.open(Vec::new(), false, pair.now);
    pair.run();
    let key = pair.client.keys[&id];
    for _ in 0..=HEAD_PARTS {
        pair.client.mux.send_head_part(key, PART);
    }
    pair.run();
    assert_eq!(pair.client.was_reset(id), Some(Code::EnhanceYourCalm));
    assert_eq!(
        (pair.kit.fault.clone(), pair.kit.mux.streams().len()),
        (None, 0)
    );
    // Those of several streams together, each of which would have room.
    let ids = [0; 3].map(|_| pair.kit.open(Vec::new(), false, pair.now));
    pair.run();
    let large = vec![b' '; MAX_HEAD_PARTS / 5];
    for id in ids {
        for _ in 0..2 {
            pair.client
                .mux
                .send_head_part(pair.client.keys[&id], &large);
        }
    }
    pair.run();
    let reset = ids.map(|id| pair.client.was_reset(id).is_some());
    assert_eq!(reset, [false, false, true], "who came last");
    pair.kit.reset(ids[0], Code::Cancel);
    pair.kit.reset(ids[1], Code::Cancel);
    pair.kit.mux.check_invariants();
    let id = pair.kit.open(Vec::new(), false, pair.now);
    pair.run();
    for _ in 0..4 {
        pair.client
            .mux
            .send_head_part(pair.client.keys[&id], &large);
    }
    pair.run();
    assert_eq!(pair.client.was_reset(id), None, "all of it was free again");
}

#[test]
fn parts_that_no_open_follows_cost_the_session() {
    for (parts, then) in [
        // Without end.
        (HEAD_PARTS + 1, None),
        // Of another stream, or its open.
        (1, Some((FrameType::HeadPart, 8))),
        (1, Some((FrameType::StreamOpen, 8))),
    ] {
        let mut pair = long(1 << 20);
        for _ in 0..parts {
            pair.kit
                .mux
                .lanes_mut()
                .push(0, FrameType::HeadPart, 6, PART);
        }
        if let Some((kind, id)) = then {
            pair.kit.mux.lanes_mut().push(0, kind, id, PART);
        }
        pair.run();
        let fault = pair.client.fault.expect("a violation");
        assert_eq!(fault.code, Code::ProtocolError);
    }
}

#[test]
fn parts_that_are_not_agreed_on_are_not_sent_and_mean_nothing() {
    let mut pair = long(0);
    let id = pair.kit.open(Vec::new(), false, pair.now);
    pair.run();
    let key = pair.client.keys[&id];
    pair.client.mux.send_head_part(key, PART);
    pair.client
        .mux
        .lanes_mut()
        .push(0, FrameType::HeadPart, id, PART);
    pair.client
        .mux
        .lanes_mut()
        .push(0, FrameType::HeadPart, 99, PART);
    pair.client.mux.send_head(key, b"{}", pair.now);
    pair.run();
    assert_eq!(pair.kit.seen, [Seen::Head(id, b"{}".to_vec())]);
    assert_eq!(pair.kit.fault, None);
}
