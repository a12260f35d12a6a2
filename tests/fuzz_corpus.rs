//! Every fuzz body over its corpus on stable; see `fuzz/README.md`. Each input is also changed a
//! little, by a fixed seed, so that the neighbourhood of a fixed crash is walked each time.

#[path = "../fuzz/bodies/http_cuts.rs"]
mod http_cuts;
#[path = "../fuzz/bodies/http_exchange.rs"]
mod http_exchange;
#[path = "../fuzz/bodies/http_request.rs"]
mod http_request;
#[path = "../fuzz/bodies/http_response.rs"]
mod http_response;
#[path = "../fuzz/bodies/machines.rs"]
mod machines;
#[path = "../fuzz/bodies/mux_session.rs"]
mod mux_session;
#[path = "../fuzz/bodies/visitor_exchange.rs"]
mod visitor_exchange;
#[path = "../fuzz/bodies/wire_control.rs"]
mod wire_control;
#[path = "../fuzz/bodies/wire_message.rs"]
mod wire_message;
#[path = "../fuzz/bodies/ws_stream.rs"]
mod ws_stream;

#[test]
fn wire_message_takes_its_corpus() {
    replay("wire_message", wire_message::run);
}

#[test]
fn wire_control_takes_its_corpus() {
    replay("wire_control", wire_control::run);
}

#[test]
fn ws_stream_takes_its_corpus() {
    replay("ws_stream", ws_stream::run);
}

#[test]
fn http_request_takes_its_corpus() {
    replay("http_request", http_request::run);
}

#[test]
fn http_exchange_takes_its_corpus() {
    replay("http_exchange", http_exchange::run);
}

#[test]
fn http_response_takes_its_corpus() {
    replay("http_response", http_response::run);
}

#[test]
fn mux_session_takes_its_corpus() {
    replay("mux_session", mux_session::run);
}

#[test]
fn visitor_exchange_takes_its_corpus() {
    replay("visitor_exchange", visitor_exchange::run);
}

#[test]
fn machines_takes_its_corpus() {
    replay("machines", machines::run);
}

/// Changed copies of each input.
const CHANGES: u64 = 64;

fn replay(target: &str, body: fn(&[u8])) {
    let dir = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{dir}: {error}"));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{dir} has inputs");
    body(&[]);
    for path in paths {
        // Captured by the test harness, shown when the body panics.
        println!("{}", path.display());
        let input = std::fs::read(&path).expect("an input that can be read");
        body(&input);
        for seed in 0..CHANGES {
            body(&changed(&input, seed));
        }
    }
}

/// A copy with a few octets changed, cut out or doubled.
fn changed(input: &[u8], seed: u64) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound.max(1) as u64) as usize
    };
    let mut copy = input.to_vec();
    for _ in 0..=below(3) {
        let at = below(copy.len());
        match (below(4), copy.get_mut(at)) {
            (_, None) => {}
            (0, _) => copy.truncate(at),
            (1, _) => {
                copy.remove(at);
            }
            (2, Some(octet)) => *octet ^= 1 << below(8),
            (_, Some(octet)) => {
                *octet = below(256) as u8;
                copy.extend_from_within(at..);
                copy.truncate(64 * 1024);
            }
        }
    }
    copy
}
