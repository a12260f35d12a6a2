//! A channel's outgoing side alone: whatever is put in, what leaves is legal, whole and in order.

use super::*;
use crate::limits::{LANE_QUEUE_SOFT, MAX_FRAME_PAYLOAD, MAX_FRAMES};
use crate::mux::ahead::Ahead;
use crate::mux::channel::Channel;
use crate::wire::frame::HEADER_LEN;
use crate::ws::OpCode;

/// Takes everything out in pieces and gives the messages' frames, checked by the decoder.
struct Drain {
    decoder: WsDecoder,
    buf: Vec<u8>,
    frames: Vec<(FrameType, u32, Vec<u8>)>,
    messages: Vec<usize>,
    controls: usize,
    closed: bool,
}

impl Drain {
    fn new(role: Role) -> Drain {
        Drain {
            decoder: WsDecoder::new(match role {
                Role::Server => Role::Client,
                Role::Client => Role::Server,
            }),
            buf: Vec::new(),
            frames: Vec::new(),
            messages: Vec::new(),
            controls: 0,
            closed: false,
        }
    }

    fn take(&mut self, out: &mut Channel, most: usize) -> bool {
        let bytes = out.transmit();
        if bytes.is_empty() {
            return false;
        }
        let count = bytes.len().min(most);
        self.buf.extend_from_slice(&bytes[..count]);
        out.transmitted(count);
        out.check_invariants();
        while let WsStep::Item { consumed, event } =
            self.decoder.next(&mut self.buf).expect("a good WebSocket")
        {
            match event {
                WsEvent::Message(range) => {
                    let frames = FrameDecoder::new(&self.buf[range]).expect("a legal message");
                    let before = self.frames.len();
                    self.frames.extend(
                        frames.map(|frame| (frame.kind, frame.stream_id, frame.payload.to_vec())),
                    );
                    self.messages.push(self.frames.len() - before);
                }
                WsEvent::Close { .. } => {
                    self.closed = true;
                    return false;
                }
                _ => self.controls += 1,
            }
            self.buf.drain(..consumed);
        }
        true
    }
}

fn outbox(role: Role) -> Channel {
    let mut channel = Channel::default();
    let transport = match role {
        Role::Server => Transport::server(conn(0), Instant::ZERO),
        Role::Client => Transport::client(conn(0), Entropy::from_seed(3), Instant::ZERO),
    };
    channel.attach(transport, None);
    channel
}

/// What goes ahead of the channel's frames.
fn ahead(channel: &mut Channel) -> &mut Ahead {
    &mut channel.transport_mut().expect("a connection").ahead
}

#[test]
fn any_mix_of_frames_leaves_whole_legal_and_in_order() {
    for role in [Role::Server, Role::Client] {
        for seed in 0..24 {
            let mut dice = Entropy::from_seed(seed);
            let mut out = outbox(role);
            let mut drain = Drain::new(role);
            let (mut queued, mut urgent) = (Vec::new(), Vec::new());
            for n in 0..300u32 {
                let len = match dice.below(8) {
                    0 => MAX_FRAME_PAYLOAD,
                    1 => dice.below(MAX_FRAME_PAYLOAD as u32) as usize,
                    2 => 0,
                    _ => dice.below(300) as usize,
                };
                match dice.below(6) {
                    0 => {
                        ahead(&mut out).push(FrameType::Pong, 0, &u64::from(n).to_be_bytes());
                        urgent.push(u64::from(n).to_be_bytes().to_vec());
                    }
                    1 => ahead(&mut out).push_websocket_control(OpCode::Ping, &[1; 9]),
                    2 => {
                        out.push(FrameType::StreamOpen, n + 1, &pattern(n, len));
                        queued.push((FrameType::StreamOpen, n + 1, pattern(n, len)));
                    }
                    _ if len > 0 => {
                        let space = out.out.data_space(len);
                        assert!(!space.is_empty() && space.len() <= len);
                        // A socket may have brought less than there was room for, or nothing.
                        let count = 1 + dice.below(space.len() as u32) as usize;
                        let bytes = pattern(n, count);
                        space[..count].copy_from_slice(&bytes);
                        if dice.below(5) > 0 {
                            out.out.data_commit(n + 1, count);
                            queued.push((FrameType::Data, n + 1, bytes));
                        }
                    }
                    _ => {}
                }
                out.check_invariants();
                for _ in 0..dice.below(3) {
                    let most = 1 + dice.below(90_000) as usize;
                    drain.take(&mut out, most);
                }
            }
            while drain.take(&mut out, 70_000) {}
            assert!(out.is_flushed());
            let (pongs, rest): (Vec<_>, Vec<_>) = drain
                .frames
                .into_iter()
                .partition(|(kind, ..)| *kind == FrameType::Pong);
            assert!(rest == queued, "seed {seed}");
            let pongs: Vec<_> = pongs.into_iter().map(|(.., payload)| payload).collect();
            assert!(pongs == urgent, "seed {seed}");
        }
    }
}

#[test]
fn small_frames_share_a_message_of_at_most_64() {
    let mut out = outbox(Role::Server);
    let mut drain = Drain::new(Role::Server);
    for id in 1..=200 {
        out.push(FrameType::Eof, id, b"");
    }
    for _ in 0..130 {
        ahead(&mut out).push(FrameType::Pong, 0, &[0; 8]);
    }
    while drain.take(&mut out, usize::MAX) {}
    assert_eq!(drain.messages.iter().sum::<usize>(), 330);
    assert!(drain.messages.iter().all(|frames| *frames <= MAX_FRAMES));
    assert_eq!(drain.messages.len(), 3 + 4, "{:?}", drain.messages);
}

#[test]
fn a_lone_byte_does_not_wait_for_company() {
    let mut out = outbox(Role::Client);
    out.out.data_space(100)[0] = 7;
    out.out.data_commit(2, 1);
    let mut drain = Drain::new(Role::Client);
    assert!(drain.take(&mut out, usize::MAX));
    assert_eq!(drain.frames, [(FrameType::Data, 2, vec![7])]);
}

#[test]
fn close_is_the_last_thing_that_leaves() {
    for role in [Role::Server, Role::Client] {
        let mut out = outbox(role);
        out.push(FrameType::GoAway, 0, b"{}");
        ahead(&mut out).push(FrameType::Pong, 0, &[0; 8]);
        out.push_close(1002, &"é".repeat(100));
        out.push(FrameType::Eof, 2, b"");
        ahead(&mut out).push(FrameType::Pong, 0, &[1; 8]);
        ahead(&mut out).push_websocket_control(OpCode::Pong, b"x");
        assert!(!out.out.has_room());
        let mut drain = Drain::new(role);
        while drain.take(&mut out, 7) {}
        assert!(drain.closed);
        assert_eq!(drain.frames.len(), 2, "{:?}", drain.frames);
        assert!(
            drain
                .frames
                .iter()
                .any(|(kind, ..)| *kind == FrameType::GoAway)
        );
        while !out.transmit().is_empty() {
            let count = out.transmit().len();
            drain.buf.extend_from_slice(out.transmit());
            out.transmitted(count);
        }
        let close = drain.buf.len();
        assert!(
            close <= 131,
            "{close} octets: something followed the close frame"
        );
    }
}

#[test]
fn an_outbox_that_is_empty_holds_no_memory() {
    let mut out = outbox(Role::Server);
    out.push(FrameType::Data, 2, &[1; 60_000]);
    ahead(&mut out).push(FrameType::Pong, 0, &[0; 8]);
    let mut drain = Drain::new(Role::Server);
    while drain.take(&mut out, 1000) {}
    out.release_if_idle();
    assert_eq!(out.capacity(), 0);
}

/// The longest body of a message whose header has the short form.
const SHORT: usize = 0xFFFF;

/// How many frames each message has that leaves.
fn messages(out: &mut Channel) -> Vec<usize> {
    let mut drain = Drain::new(Role::Server);
    while drain.take(out, usize::MAX) {}
    drain.messages
}

#[test]
fn bulk_is_added_below_the_soft_bound() {
    for (len, has_room) in [
        (LANE_QUEUE_SOFT - 1, true),
        (LANE_QUEUE_SOFT, false),
        (LANE_QUEUE_SOFT + 1, false),
    ] {
        let mut out = outbox(Role::Server);
        for message in [len / 2, len - len / 2] {
            out.push(FrameType::Bind, 0, &vec![0; message - 4 - HEADER_LEN]);
        }
        ahead(&mut out).push(FrameType::Pong, 0, &[0; 8]);
        assert_eq!(out.out.queued(), len, "what overtakes does not count");
        assert_eq!(out.out.has_room(), has_room);
    }
}

#[test]
fn a_read_joins_the_open_message_only_where_there_is_room_worth_it() {
    let worth = 16 * 1024;
    let space = |taken: usize, wanted: usize| {
        let mut out = outbox(Role::Server);
        out.push(FrameType::Bind, 0, &vec![0; taken]);
        out.out.data_space(wanted).len()
    };
    let taken = SHORT - 2 * HEADER_LEN - worth;
    assert_eq!(space(taken, 20_000), worth);
    assert_eq!(space(taken + 1, 20_000), 20_000);
    assert_eq!(space(taken + 1, 1000), 1000);
    // Behind DATA the largest message is open.
    let mut out = outbox(Role::Server);
    out.out.data_space(100);
    out.out.data_commit(2, 100);
    let room = MAX_FRAME_PAYLOAD - 100 - HEADER_LEN;
    assert_eq!(out.out.data_space(MAX_FRAME_PAYLOAD).len(), room);
}

#[test]
fn frames_share_a_message_while_it_has_room_and_no_longer() {
    let mut out = outbox(Role::Server);
    for len in [1000, 100, SHORT - 1100 - 4 * HEADER_LEN, 0] {
        out.push(FrameType::Bind, 0, &vec![0; len]);
    }
    out.push(FrameType::Bind, 0, b"");
    assert_eq!(messages(&mut out), [4, 1]);
    // One that fills a short message to its end leaves no room for another.
    let mut out = outbox(Role::Server);
    out.push(FrameType::Bind, 0, &vec![0; SHORT - HEADER_LEN]);
    out.push(FrameType::Bind, 0, b"");
    assert_eq!(messages(&mut out), [1, 1]);
}

#[test]
fn a_message_stays_open_for_more_while_half_a_queue_of_others_can_leave() {
    let half = LANE_QUEUE_SOFT / 2;
    for (first, leaves) in [(half, half), (half - 1, half - 1 + 2 + HEADER_LEN)] {
        let mut out = outbox(Role::Server);
        let count = first - 4 - HEADER_LEN;
        out.out.data_space(count);
        out.out.data_commit(2, count);
        out.push(FrameType::Eof, 2, b"");
        assert_eq!(out.transmit().len(), leaves);
    }
}

#[test]
fn urgent_frames_of_any_length_leave_whole() {
    let mut out = outbox(Role::Server);
    for len in [0, 8, 255, 256, 70, 300] {
        for _ in 0..20 {
            ahead(&mut out).push(FrameType::Bind, 0, &vec![b' '; len]);
        }
    }
    assert_eq!(messages(&mut out), [MAX_FRAMES, 120 - MAX_FRAMES]);
}

#[test]
fn memory_is_what_all_three_queues_hold() {
    let mut out = outbox(Role::Server);
    out.push(FrameType::Bind, 0, &[0; 1000]);
    let queue = out.capacity();
    ahead(&mut out).push(FrameType::Pong, 0, &[0; 500]);
    let urgent = out.capacity();
    ahead(&mut out).push_websocket_control(OpCode::Pong, &[0; 100]);
    assert!(queue >= 1000 && urgent >= queue + 500 && out.capacity() >= urgent + 100);
}
