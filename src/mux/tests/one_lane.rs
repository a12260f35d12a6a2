//! A lane alone: what it lends for reading, what it counts, when it is heard and when it chokes.

use super::*;
use crate::limits::{
    LANE_QUEUE_MAX, LANE_READ_MAX, LANE_READ_MIN, LANE_URGENT_MAX, MAX_FRAME_PAYLOAD, MAX_MESSAGE,
};
use crate::mux::{Item, Liveness};
use crate::wire::frame::HEADER_LEN;
use crate::ws::{OpCode, push_frame};

fn kit_lane() -> Transport {
    Transport::server(conn(0), Instant::ZERO)
}

/// What a client's lane sends after `push`.
fn sent_by_client(push: impl FnOnce(&mut Transport)) -> Vec<u8> {
    let mut lane = Transport::client(conn(0), Entropy::from_seed(7), Instant::ZERO);
    push(&mut lane);
    lane.transmit().to_vec()
}

/// Has the peer's socket take everything that waits.
fn flush(lane: &mut Channel) {
    while !lane.is_flushed() {
        let count = lane.transmit().len();
        lane.transmitted(count);
    }
}

#[test]
fn bytes_that_came_behind_the_upgrade_are_read_and_counted_like_any_others() {
    let hello = sent_by_client(|lane| lane.push_control(FrameType::Hello, b"{}"));
    let later = Instant::ZERO + Duration::from_secs(3);
    let mut lane = kit_lane();
    lane.feed(&hello, later);
    assert_eq!(lane.last_heard(), later);
    assert_eq!(lane.traffic(), (hello.len() as u64, 0));
    let Ok(Some(Item::Frame { kind, payload, .. })) = lane.poll() else {
        panic!("a frame is there")
    };
    assert_eq!(
        (kind, lane.payload(&payload)),
        (FrameType::Hello, &b"{}"[..])
    );
    assert!(matches!(lane.poll(), Ok(None)));
}

#[test]
fn traffic_is_the_sum_of_all_that_came_and_left() {
    let mut lane = kit_channel();
    let ping = sent_by_client(|lane| lane.push_control(FrameType::Ping, &[0; 8]));
    for _ in 0..3 {
        lane.read_space()[..ping.len()].copy_from_slice(&ping);
        lane.received(ping.len(), Instant::ZERO);
        while !matches!(lane.transport_mut().unwrap().poll(), Ok(None)) {}
    }
    lane.push(FrameType::Pong, 0, &[0; 8]);
    let waiting = lane.transmit().len();
    assert!(!lane.is_flushed());
    lane.transmitted(5);
    lane.transmitted(waiting - 5);
    assert!(lane.is_flushed());
    assert_eq!(lane.traffic(), (3 * ping.len() as u64, waiting as u64));
}

#[test]
fn one_read_brings_a_message_and_the_headers_behind_it() {
    let message = sent_by_client(|lane| lane.push_control(FrameType::BindOk, &[b' '; 50_000]));
    let mut lane = kit_lane();
    assert_eq!(lane.read_space().len(), LANE_READ_MIN);
    lane.feed(&message[..20], Instant::ZERO);
    assert!(matches!(lane.poll(), Ok(None)));
    assert_eq!(lane.read_space().len(), message.len() - 20 + 32);
    let mut lane = kit_lane();
    let largest = vec![0; MAX_MESSAGE];
    let mut stream = Vec::new();
    push_frame(
        &mut stream,
        Role::Client,
        OpCode::Binary,
        &largest,
        Some([1; 4]),
    );
    lane.feed(&stream[..20], Instant::ZERO);
    assert!(matches!(lane.poll(), Ok(None)));
    assert_eq!(lane.read_space().len(), LANE_READ_MAX);
}

#[test]
fn who_reads_no_answers_is_not_read_until_half_of_them_have_left() {
    let mut lane = kit_channel();
    let payload = vec![0; LANE_URGENT_MAX - HEADER_LEN];
    lane.push_sign_of_life(FrameType::Pong, &payload);
    assert!(!lane.read_space().is_empty(), "as many may wait");
    lane.push_sign_of_life(FrameType::Pong, &[0; 8]);
    assert!(lane.read_space().is_empty());
    let waiting = lane.transmit().len();
    let half = LANE_URGENT_MAX / 2;
    // Both leave in one message, which waits in the urgent queue until it has left.
    assert!(!lane.transmitted(waiting - half - 1));
    assert!(lane.transmitted(1));
    assert!(!lane.read_space().is_empty());
    assert!(!lane.transmitted(1), "nothing had stopped");
}

#[test]
fn who_takes_nothing_is_not_read_until_half_of_the_queue_has_left() {
    let mut lane = kit_channel();
    while lane.waiting() + HEADER_LEN + MAX_FRAME_PAYLOAD + 32 < LANE_QUEUE_MAX {
        lane.push(FrameType::BindOk, 0, &[b' '; MAX_FRAME_PAYLOAD]);
    }
    while lane.waiting() < LANE_QUEUE_MAX - 1000 {
        lane.push(FrameType::BindOk, 0, &[b' '; 100]);
    }
    let left = LANE_QUEUE_MAX - lane.waiting();
    lane.push(FrameType::BindOk, 0, &vec![b' '; left - HEADER_LEN]);
    assert_eq!(lane.waiting(), LANE_QUEUE_MAX);
    assert!(!lane.read_space().is_empty(), "as much may wait");
    lane.push(FrameType::Eof, 0, b"");
    assert!(lane.read_space().is_empty());
    while lane.waiting() > LANE_QUEUE_MAX / 2 + 1 {
        let most = lane.waiting() - LANE_QUEUE_MAX / 2 - 1;
        let count = lane.transmit().len().min(most);
        assert!(!lane.transmitted(count));
    }
    assert!(lane.transmitted(1));
    flush(&mut lane);
    assert!(!lane.read_space().is_empty());
}

#[test]
fn a_message_that_is_too_big_is_a_fault_of_size_and_any_other_broken_one_of_the_protocol() {
    for (bytes, code) in [
        (
            &[0x82, 0xFF, 0, 0, 0, 0, 1, 0, 0, 0][..],
            Code::FrameSizeError,
        ),
        (&[0x83, 0x80], Code::ProtocolError),
    ] {
        let mut lane = kit_lane();
        lane.feed(bytes, Instant::ZERO);
        let violation = lane.poll().expect_err("this is refused");
        assert_eq!(violation.code, code);
    }
}

#[test]
fn a_close_leaves_behind_what_was_queued() {
    let mut lane = kit_channel();
    lane.push(FrameType::GoAway, 0, b"{}");
    lane.push_close(1001, "bye");
    let bytes = lane.transmit().to_vec();
    assert!(bytes.ends_with(b"\x88\x05\x03\xE9bye"), "{bytes:?}");
    assert!(bytes.len() > 7 + HEADER_LEN);
}

#[test]
fn a_peer_that_closed_is_not_asked_for_more() {
    let mut lane = kit_lane();
    assert!(!lane.is_closed());
    lane.feed(
        &sent_by_client(|lane| {
            lane.push_control(FrameType::GoAway, b"{}");
            lane.push_close(1001, "bye");
        }),
        Instant::ZERO,
    );
    assert!(matches!(lane.poll(), Ok(Some(Item::Frame { .. }))));
    assert!(!lane.is_closed());
    let closed = lane.poll().expect("a legal close");
    assert!(matches!(closed, Some(Item::Closed { code: Some(1001) })));
    assert!(lane.is_closed());
}

#[test]
fn whoever_acknowledges_what_we_send_is_alive_without_a_word() {
    let (quiet, patience) = (Duration::from_secs(2), Duration::from_secs(5));
    let mut lane = kit_channel();
    let pinged = Instant::ZERO + quiet;
    let check = |lane: &mut Channel, now| lane.check(now, quiet, patience, [0; 8]);
    let soon = Some(Liveness::LookAgain(pinged + patience));
    assert_eq!(check(&mut lane, pinged), soon);
    let acknowledged = pinged + (patience - Duration::from_millis(1));
    lane.shows_life(acknowledged);
    let later = Some(Liveness::LookAgain(acknowledged + quiet));
    assert_eq!(check(&mut lane, pinged + patience), later);
}

#[test]
fn memory_of_both_directions_counts_and_none_is_given_back_under_frames_that_wait() {
    let both = sent_by_client(|lane| {
        lane.push_control(FrameType::Bind, &[b' '; 3000]);
        lane.push_control(FrameType::Unbind, b"{}");
    });
    let mut lane = kit_channel();
    lane.transport_mut().unwrap().feed(&both, Instant::ZERO);
    assert!(matches!(
        lane.transport_mut().unwrap().poll(),
        Ok(Some(Item::Frame { .. }))
    ));
    lane.release_if_idle();
    let received = lane.capacity();
    assert!(received >= both.len(), "{received}");
    let Ok(Some(Item::Frame { kind, payload, .. })) = lane.transport_mut().unwrap().poll() else {
        panic!("the second frame is there")
    };
    assert_eq!(
        (kind, lane.transport().unwrap().payload(&payload)),
        (FrameType::Unbind, &b"{}"[..])
    );
    lane.push(FrameType::UnbindOk, 0, &[b' '; 3000]);
    assert!(lane.capacity() >= received + 3000);
    flush(&mut lane);
    lane.release_if_idle();
    assert_eq!(lane.capacity(), 0);
}
