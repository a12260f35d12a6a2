//! What a frame costs: nanoseconds to decode and to encode, small frames and large ones.
//!
//! `cargo bench --bench frames` measures and prints one line a case. `-- --fixed N [CASE]` runs each
//! case (or those whose name contains CASE) N times without looking at a clock, so that callgrind
//! counts the same instructions every time. Without `--bench` (as `cargo test` starts it) every case
//! runs once.

use std::hint::black_box;
use std::time::Instant;

use hoody_tunnel::clock;
use hoody_tunnel::limits::{LANE_QUEUE_OPENS, MAX_FRAME_PAYLOAD, MAX_FRAMES};
use hoody_tunnel::machine::ConnKey;
use hoody_tunnel::mux::{Session, Side, Terms, Transport};
use hoody_tunnel::wire::control::{self, Hello};
use hoody_tunnel::wire::frame::{FrameType, HEADER_LEN, encode_header};
use hoody_tunnel::wire::message::FrameDecoder;
use hoody_tunnel::wire::open::{self, BodyKind, OpenHttpParts, ResponseHead, StreamOpen};
use hoody_tunnel::ws::{self, OpCode, Role, WsDecoder, WsStep};

/// One thing that is measured. A run gives the frames (or payloads) it handled.
struct Case {
    name: &'static str,
    /// Payload bytes a run moves past the CPU, for a rate; 0 where that says nothing.
    bytes: usize,
    run: Box<dyn FnMut() -> usize>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let fixed = args.iter().position(|arg| arg == "--fixed").map(|at| {
        let count = args.get(at + 1).and_then(|count| count.parse().ok());
        (
            count.expect("--fixed N"),
            args.get(at + 2)
                .filter(|name| !name.starts_with('-'))
                .cloned(),
        )
    });
    let measures = args.iter().any(|arg| arg == "--bench");
    for mut case in cases() {
        match &fixed {
            Some((count, only)) => {
                if only
                    .as_ref()
                    .is_none_or(|only| case.name.contains(only.as_str()))
                {
                    repeat(&mut case, *count);
                }
            }
            None if measures => measure(&mut case),
            None => repeat(&mut case, 1),
        }
    }
}

fn repeat(case: &mut Case, count: u64) {
    for _ in 0..count {
        black_box((case.run)());
    }
}

/// The best of several rounds: what else the machine does only ever makes a round longer.
fn measure(case: &mut Case) {
    const ROUNDS: usize = 7;
    const ROUND_NANOS: u128 = 50_000_000;
    let mut count = 1u64;
    let nanos = |case: &mut Case, count: u64| {
        let start = Instant::now();
        repeat(case, count);
        start.elapsed().as_nanos()
    };
    while nanos(case, count) < ROUND_NANOS / 4 {
        count *= 2;
    }
    count *= 4;
    let best = (0..ROUNDS)
        .map(|_| nanos(case, count))
        .min()
        .unwrap_or_default();
    let run = best as f64 / count as f64;
    let per_frame = run / (case.run)().max(1) as f64;
    match case.bytes {
        0 => println!("{:<44} {per_frame:>10.1} ns", case.name),
        bytes => {
            let rate = bytes as f64 / run;
            println!("{:<44} {per_frame:>10.1} ns {rate:>10.1} GB/s", case.name);
        }
    }
}

fn cases() -> Vec<Case> {
    frame_cases()
        .into_iter()
        .chain(websocket_cases())
        .chain(json_cases())
        .collect()
}

/// A message of `count` DATA frames.
fn message(count: usize, payload: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for index in 0..count {
        let mut header = [0; HEADER_LEN];
        encode_header(&mut header, FrameType::Data, 2 + 2 * index as u32, payload);
        body.extend_from_slice(&header);
        body.resize(body.len() + payload, index as u8);
    }
    body
}

/// A kit's end of a session with one lane.
fn session() -> Session<u32> {
    let terms = Terms {
        side: Side::Kit,
        stream_window: 1 << 20,
        session_window: 16 << 20,
        max_streams: 1,
        grow_windows: false,
        header_case: true,
        udp: false,
        trailers: true,
        forward: false,
        head_parts: 1 << 20,
        queue_opens: LANE_QUEUE_OPENS,
        replay: None,
    };
    let now = clock::Instant::from_nanos(1);
    let mut session = Session::new(terms, now);
    session.attach(0, Transport::server(ConnKey::unpack(1 << 32), now));
    session
}

fn decode(message: &[u8]) -> usize {
    let frames = FrameDecoder::new(black_box(message)).expect("a legal message");
    frames
        .inspect(|frame| {
            black_box(frame);
        })
        .count()
}

fn frame_cases() -> Vec<Case> {
    let (small, large) = (message(MAX_FRAMES, 16), message(1, MAX_FRAME_PAYLOAD));
    let single = message(1, 16);
    let mut headers = vec![[0u8; HEADER_LEN]; MAX_FRAMES];
    let mut session = session();
    vec![
        case("decode: 64 frames of 16 bytes", move || decode(&small)),
        case("decode: 1 frame of 16 bytes", move || decode(&single)),
        case("decode: 1 frame of 64 KiB", move || decode(&large)),
        case("encode: header in place", move || {
            for header in &mut headers {
                encode_header(
                    black_box(header),
                    FrameType::Data,
                    black_box(2),
                    black_box(16),
                );
            }
            headers.len()
        }),
        case("queue and take: 64 frames of 16 bytes", move || {
            for _ in 0..MAX_FRAMES {
                session
                    .lanes_mut()
                    .push_control(FrameType::Unbind, black_box(&[7; 16]));
            }
            let count = black_box(session.transmit(0)).len();
            session.transmitted(0, count);
            while session.poll_wake().is_some() {}
            MAX_FRAMES
        }),
    ]
}

fn websocket_cases() -> Vec<Case> {
    let mut block = vec![7u8; MAX_FRAME_PAYLOAD];
    let mask = move || {
        ws::apply_mask(black_box(&mut block), black_box([1, 2, 3, 4]), 0);
        1
    };
    vec![
        Case {
            name: "mask: 64 KiB",
            bytes: MAX_FRAME_PAYLOAD,
            run: Box::new(mask),
        },
        received(
            "receive, masked: 64 frames of 16 bytes",
            &message(MAX_FRAMES, 16),
            0,
        ),
        received(
            "receive, masked: 1 frame of 64 KiB",
            &message(1, MAX_FRAME_PAYLOAD),
            MAX_FRAME_PAYLOAD,
        ),
    ]
}

/// The kit's whole way in: WebSocket header, unmask, frames; and one pass more that masks the buffer
/// again for the next run.
fn received(name: &'static str, message: &[u8], bytes: usize) -> Case {
    let mut stream = Vec::new();
    ws::push_frame(
        &mut stream,
        Role::Client,
        OpCode::Binary,
        message,
        Some([1, 2, 3, 4]),
    );
    let plain = stream.len() - message.len();
    let run = move || {
        let mut decoder = WsDecoder::new(Role::Server);
        let count = match decoder.next(black_box(&mut stream)) {
            Ok(WsStep::Item {
                event: ws::WsEvent::Message(range),
                ..
            }) => decode(&stream[range]),
            step => panic!("a whole message: {step:?}"),
        };
        ws::apply_mask(&mut stream[plain..], [1, 2, 3, 4], 0);
        count
    };
    Case {
        name,
        bytes,
        run: Box::new(run),
    }
}

/// What a browser sends, more or less.
const FIELDS: [(&[u8], &[u8]); 12] = [
    (b"host", b"myapp-3000.example"),
    (b"connection", b"keep-alive"),
    (
        b"sec-ch-ua",
        b"\"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"",
    ),
    (b"sec-ch-ua-mobile", b"?0"),
    (
        b"user-agent",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",
    ),
    (
        b"accept",
        b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
    ),
    (b"sec-fetch-site", b"same-origin"),
    (b"sec-fetch-mode", b"navigate"),
    (b"referer", b"https://myapp-3000.example/"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"accept-language", b"en-GB,en;q=0.9"),
    (
        b"cookie",
        b"session=0123456789abcdef0123456789abcdef; theme=dark",
    ),
];

fn write_open(out: &mut Vec<u8>) {
    let parts = OpenHttpParts {
        names: open::NameCase::Lower,
        bind_id: 1,
        container_port: 3000,
        method: "GET",
        target: b"/assets/index.js?v=12345",
        is_upgrade: false,
        body: BodyKind::None,
        remote_addr: ([203, 0, 113, 9], 51234).into(),
        connection_id: Some(4711),
    };
    open::write_open_http(out, black_box(&parts), FIELDS.into_iter()).expect("it fits");
}

fn json_cases() -> Vec<Case> {
    let (mut opened, mut answered, mut out) = (Vec::new(), Vec::new(), Vec::new());
    write_open(&mut opened);
    let head = |out: &mut Vec<u8>| {
        open::write_response_head(
            out,
            black_box(200),
            FIELDS.into_iter().take(6),
            true,
            open::NameCase::Lower,
        )
        .expect("it fits");
    };
    head(&mut answered);
    let mut answer = Vec::new();
    let hello = br#"{"version":"hoody-tunnel.v1","auth":{"kind":"bearer","token":"0123456789"}}"#;
    vec![
        case("write: STREAM_OPEN of 12 fields", move || {
            out.clear();
            write_open(&mut out);
            1
        }),
        case("read: STREAM_OPEN of 12 fields", move || {
            black_box(StreamOpen::parse(black_box(&opened)).expect("a good open"));
            1
        }),
        case("write: STREAM_RESPONSE_HEAD of 6 fields", move || {
            answer.clear();
            head(&mut answer);
            1
        }),
        case("read: STREAM_RESPONSE_HEAD of 6 fields", move || {
            black_box(ResponseHead::parse(black_box(&answered)).expect("a good head"));
            1
        }),
        case("read: HELLO", move || {
            black_box(control::parse::<Hello>(black_box(hello)).expect("a good hello"));
            1
        }),
    ]
}

fn case(name: &'static str, run: impl FnMut() -> usize + 'static) -> Case {
    Case {
        name,
        bytes: 0,
        run: Box::new(run),
    }
}
