//! What of a lane outlives its connection, and what goes with it.

use super::*;
use crate::wire::control::Secret;

/// Takes all that a connection still has to say.
fn last_words(mut transport: Transport) -> Vec<u8> {
    let mut words = Vec::new();
    while !transport.is_flushed() {
        words.extend_from_slice(transport.transmit());
        let count = transport.transmit().len();
        transport.transmitted(count);
    }
    words
}

/// What a kit's WebSocket brought, in order.
fn frames(bytes: &[u8]) -> Vec<FrameType> {
    Onlooker::new(Side::Kit)
        .look(0, bytes)
        .into_iter()
        .map(|frame| frame.kind)
        .collect()
}

#[test]
fn what_waits_leaves_with_the_connection_from_where_it_was() {
    for taken in [0, 1, 500, usize::MAX] {
        let mut lane = kit_channel();
        lane.push(FrameType::Bind, 0, &[b' '; 1000]);
        let bytes = lane.transmit();
        let count = bytes.len().min(taken);
        let mut all = bytes[..count].to_vec();
        lane.transmitted(count);
        lane.push(FrameType::Unbind, 0, b"{}");
        lane.push_sign_of_life(FrameType::Pong, &[0; 8]);
        lane.push_window(2, 7);
        let mut gone = lane.detach().expect("a connection");
        gone.push_close(1001, "bye");
        gone.push_control(FrameType::GoAway, b"{}");
        all.extend(last_words(gone));
        let overtaking = [FrameType::Pong, FrameType::Window];
        let mut wanted = vec![FrameType::Bind, FrameType::Unbind];
        let at = usize::from(count > 0);
        wanted.splice(at..at, overtaking);
        assert_eq!(frames(&all), wanted, "{taken} had left");
        assert!(all.ends_with(b"\x88\x05\x03\xE9bye"), "nothing follows it");
    }
}

#[test]
fn a_close_that_was_queued_is_the_last_word_of_a_connection_that_goes() {
    let mut lane = kit_channel();
    lane.push(FrameType::GoAway, 0, b"{}");
    lane.push_close(1000, "bye");
    assert!(lane.push_sign_of_life(FrameType::Pong, &[0; 8]));
    let mut gone = lane.detach().expect("a connection");
    gone.push_close(1001, "again");
    let words = last_words(gone);
    assert_eq!(frames(&words), [FrameType::GoAway]);
    assert!(words.ends_with(b"\x88\x05\x03\xE8bye"));
}

#[test]
fn nothing_is_queued_where_no_connection_stands() {
    let mut lane = kit_channel();
    lane.push_sign_of_life(FrameType::Ping, &[0; 8]);
    assert!(lane.tell().is_some() && lane.tell().is_none(), "told once");
    lane.detach();
    assert!(!lane.stands() && lane.is_flushed() && lane.conn().is_none());
    assert!(!lane.push(FrameType::Eof, 2, b""));
    assert!(!lane.push_window(2, 7));
    assert!(!lane.push_sign_of_life(FrameType::Pong, &[0; 8]));
    assert!(lane.read_space().is_empty() && lane.transmit().is_empty());
    assert_eq!(lane.tell(), None);
    lane.attach(Transport::server(conn(1), Instant::ZERO), None);
    assert!(lane.is_flushed(), "what concerned the other is over");
    lane.push_sign_of_life(FrameType::Ping, &[0; 8]);
    let told = lane.tell().map(|(conn, _)| conn);
    assert_eq!(
        told,
        Some(conn(1)),
        "who is told of the other is not told of this"
    );
}

#[test]
fn a_channel_counts_over_its_connections_and_keeps_its_ticket() {
    let mut pair = Pair::with(Cut::Whole, terms(Side::Kit), terms(Side::Client), 2);
    pair.kit.mux.lanes_mut().set_ticket(1, Secret::new("nonce"));
    let id = pair.kit.open(pattern(0, 5000), false, pair.now);
    pair.kit.open(pattern(0, 5000), false, pair.now);
    pair.run();
    let (_, before) = pair.kit.mux.lanes().bytes();
    assert!(before > 10_000);
    for end in [&mut pair.kit, &mut pair.client] {
        assert_eq!(end.mux.detach(1).1.len(), 1);
        end.mux.check_invariants();
    }
    assert_eq!(pair.kit.mux.lanes().bytes().1, before);
    let now = pair.now;
    pair.kit.attach(1, now);
    pair.client.attach(1, now);
    pair.kit.source(id, pattern(1, 100), false);
    pair.kit.open(pattern(0, 5000), false, now);
    pair.run();
    assert!(pair.kit.mux.lanes().bytes().1 > before + 5000);
    let ticket = pair.kit.mux.lanes().ticket(1).expect("it lasts");
    assert!(ticket.matches("nonce"));
}

#[test]
fn a_session_that_begins_anew_has_whole_windows_and_forgets_nothing_that_it_counted() {
    let mut pair = Pair::with(Cut::Whole, terms(Side::Kit), terms(Side::Client), 2);
    pair.client.takes = false;
    let first = pair.kit.open(pattern(0, 200_000), false, pair.now);
    pair.kit.open(pattern(0, 200_000), false, pair.now);
    pair.run();
    let (traffic, bytes) = (pair.kit.mux.traffic(), pair.kit.mux.lanes().bytes());
    for (end, side) in [(&mut pair.kit, Side::Kit), (&mut pair.client, Side::Client)] {
        end.mux.detach(0);
        end.mux.detach(1);
        end.mux.restart(terms(side), pair.now);
        assert_eq!(end.mux.lanes().data_received(1), 0);
        end.attach(0, pair.now);
    }
    let after = pair.kit.mux.traffic();
    assert_eq!(after.frames_out, traffic.frames_out);
    assert_eq!(after.data_out, traffic.data_out);
    assert_eq!(pair.kit.mux.lanes().bytes(), bytes);
    pair.client.takes = true;
    pair.client.got.clear();
    let id = pair.kit.open(pattern(3, 900_000), false, pair.now);
    assert_eq!(id, first, "ids start over");
    pair.run();
    assert!(pair.client.got[&id] == pattern(3, 900_000));
}

#[test]
#[should_panic(expected = "a lane of before stands")]
fn a_session_does_not_begin_anew_under_a_lane_that_stands() {
    let mut pair = Pair::new(Cut::Whole);
    pair.kit.mux.restart(terms(Side::Kit), pair.now);
}

#[test]
fn a_lane_that_is_not_waited_for_does_not_pass_for_one_that_never_carried_anything() {
    let mut pair = replay::pair(Cut::Whole, 1 << 20, 3);
    let whole = pair.kit.mux.sending.credit.available();
    for n in 0..3 {
        pair.kit.open(pattern(n, 5000), false, pair.now);
    }
    assert!(pair.kit.mux.sending.credit.available() < whole);
    // The client waits for both lanes, and has taken nothing on them; the kit waits for none.
    for lane in [1, 2] {
        pair.client.mux.suspend(lane, pair.now);
        assert_eq!(pair.client.mux.lanes().joins_with(lane), Some(0));
        pair.kit.mux.detach(lane);
        // With counts of 0 it would begin as if nothing had been lost.
        assert!(!pair.kit.mux.lanes().is_unused(lane));
        assert_eq!(pair.kit.mux.lanes().joins_with(lane), None);
        assert_eq!(pair.kit.mux.settle(lane, Some(0), Some(0)), Ok(()));
    }
    assert_eq!(pair.kit.mux.sending.credit.available(), whole - 5000);
    assert!(pair.kit.mux.lanes().is_unused(3));
    pair.kit.attach(1, pair.now);
    pair.kit.mux.detach(1);
    assert!(!pair.kit.mux.lanes().is_unused(1));
}
