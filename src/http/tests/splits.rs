//! However the input is cut, the result is the same; and no input makes the room panic.

use super::*;

const HEADS: [&[u8]; 6] = [
    b"GET /a HTTP/1.1\r\nHost: a\r\nX: \t1\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n\r\nPOST http://b/ HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x85",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close, x\r\n\r\nhello",
    b"HTTP/1.1 103\r\nLink: \xe9\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n",
];

/// Octets that parsers stumble over.
const TROUBLE: [&[u8]; 16] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b"\0",
    b"\x7f",
    b"\xff",
    b"0",
    b"chunked",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n x",
];

/// `input` with a few octets changed, taken out or put in.
fn mutated(input: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut octets = input.to_vec();
    for _ in 0..dice.below(4) {
        let at = dice.below(octets.len() + 1);
        match dice.below(3) {
            0 if at < octets.len() => octets[at] = dice.below(256) as u8,
            1 if at < octets.len() => drop(octets.remove(at)),
            _ => drop(octets.splice(at..at, TROUBLE[dice.below(TROUBLE.len())].iter().copied())),
        }
    }
    octets
}

/// What a scanner finds that gets the input in pieces of at most `piece` octets.
fn scan(input: &[u8], piece: usize, dice: &mut Dice) -> Result<Option<usize>, Reject> {
    let mut scanner = HeadScanner::new();
    let mut end = 0;
    loop {
        let found = scanner.scan(&input[..end])?;
        if found.is_some() || end == input.len() {
            return Ok(found);
        }
        end = input.len().min(end + 1 + dice.below(piece));
    }
}

/// Data, octets used and how it ended, of a body that comes in pieces.
fn read(
    mut decoder: BodyDecoder,
    input: &[u8],
    piece: usize,
    dice: &mut Dice,
) -> (Vec<u8>, Result<(usize, bool), BodyError>) {
    let (mut data, mut at, mut end) = (Vec::new(), 0, 0);
    loop {
        let step = match decoder.decode(&input[at..end]) {
            Ok(step) => step,
            Err(error) => return (data, Err(error)),
        };
        data.extend_from_slice(&input[at..end][step.data]);
        at += step.consumed;
        assert_eq!(step.end, decoder.is_complete());
        if step.end || (at == end && end == input.len()) {
            return (data, Ok((at, step.end)));
        }
        if at == end {
            end = input.len().min(end + 1 + dice.below(piece));
        } else {
            assert!(
                step.consumed > 0,
                "a step that consumes nothing would never end"
            );
        }
    }
}

#[test]
fn a_head_is_found_at_the_same_place_however_it_comes() {
    let mut dice = Dice::new(1);
    for round in 0..30_000 {
        let input = mutated(HEADS[round % HEADS.len()], &mut dice);
        let whole = HeadScanner::new().scan(&input);
        assert_eq!(
            whole,
            scan(&input, 1, &mut dice),
            "{}",
            input.escape_ascii()
        );
        assert_eq!(
            whole,
            scan(&input, 9, &mut dice),
            "{}",
            input.escape_ascii()
        );
    }
}

#[test]
fn a_body_is_the_same_however_it_comes() {
    let mut dice = Dice::new(2);
    let chunked: &[u8] = b"5;x=y\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\nGET /";
    for _ in 0..30_000 {
        let input = mutated(chunked, &mut dice);
        for decoder in [
            BodyDecoder::None,
            BodyDecoder::Length(LengthBody::new(20)),
            BodyDecoder::Chunked(ChunkedDecoder::new()),
            BodyDecoder::UntilClose,
        ] {
            let whole = read(decoder.clone(), &input, input.len(), &mut dice);
            assert_eq!(
                whole,
                read(decoder.clone(), &input, 1, &mut dice),
                "{decoder:?}"
            );
            assert_eq!(whole, read(decoder, &input, 5, &mut dice));
        }
    }
}

#[test]
fn an_accepted_request_survives_the_way_to_the_local_server() {
    let mut dice = Dice::new(3);
    let mut accepted = 0;
    for round in 0..60_000 {
        let input = mutated(HEADS[round % 4], &mut dice);
        let Ok(Some((head, _))) = parse_request(&input) else {
            continue;
        };
        accepted += 1;
        let peer = std::net::IpAddr::from([127, 0, 0, 1]);
        let forwarded = forward::Forwarded::new(&head, peer, true, "https");
        let fields = forward::request_fields(&head, &forwarded);
        let hint = BodyHint::from(head.body);
        let plan = RequestPlan::new(head.method, &head.target, fields, hint, head.upgrade);
        let plan = plan.expect("what was accepted can be passed on");
        let mut out = Vec::new();
        plan.write(&mut out, b"local", None).expect("writable");
        let again = request(&out);
        assert_eq!((again.method, &again.target), (head.method, &head.target));
        assert_eq!((again.body, again.upgrade), (head.body, head.upgrade));
        assert_eq!(again.host, Some(b"local".as_slice()));
    }
    assert!(
        accepted > 10_000,
        "the mutations leave enough to look at: {accepted}"
    );
}

#[test]
fn an_accepted_response_survives_the_way_to_the_visitor() {
    let mut dice = Dice::new(4);
    let mut accepted = 0;
    for round in 0..60_000 {
        let input = mutated(HEADS[4 + round % 2], &mut dice);
        let Ok(Some((head, _))) = parse_response(&input) else {
            continue;
        };
        if head.status == 101 {
            continue;
        }
        accepted += 1;
        let fields = forward::response_fields(&head, false);
        let plan = ResponsePlan::new(head.status, fields, GET).expect("can be passed on");
        let mut out = Vec::new();
        plan.write(&mut out);
        let again = response(&out);
        assert_eq!((again.status, again.body(GET)), (head.status, plan.body));
        if let ResponseBody::Length(_) = head.body(GET) {
            assert_eq!(plan.body, head.body(GET));
        }
    }
    assert!(
        accepted > 10_000,
        "the mutations leave enough to look at: {accepted}"
    );
}

#[test]
fn a_head_from_the_peer_is_written_as_one_head_or_not_at_all() {
    let mut dice = Dice::new(5);
    for _ in 0..30_000 {
        let names = [
            b"Content-Length".as_slice(),
            b"host",
            b"Connection",
            b"a",
            b"Upgrade",
            b"X-Y",
        ];
        let values = [
            b"1".as_slice(),
            b"b",
            b"chunked",
            b"a, x-y",
            b"\xe9",
            b"",
            b"close",
        ];
        let fields: Vec<(Vec<u8>, Vec<u8>)> = (0..dice.below(6))
            .map(|_| {
                let name = names[dice.below(names.len())];
                let name = if dice.below(8) == 0 {
                    mutated(name, &mut dice)
                } else {
                    name.to_vec()
                };
                let value = values[dice.below(values.len())];
                let spoilt = dice.below(8) == 0 && !value.is_empty();
                (
                    name,
                    if spoilt {
                        mutated(value, &mut dice)
                    } else {
                        value.to_vec()
                    },
                )
            })
            .collect();
        let fields = fields
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()));
        let mut out = Vec::new();
        let hint = [
            BodyHint::None,
            BodyHint::Length,
            BodyHint::Chunked,
            BodyHint::Unknown,
        ];
        let hint = hint[dice.below(4)];
        if let Ok(plan) = RequestPlan::new("POST", b"/", fields.clone(), hint, false) {
            plan.write(&mut out, b"h", None).expect("writable");
            assert_eq!(request(&out).body, plan.body);
        }
        out.clear();
        let asked = Asked {
            head: dice.below(2) == 0,
            ..GET
        };
        if let Ok(plan) = ResponsePlan::new(200, fields, asked) {
            plan.write(&mut out);
            assert_eq!(response(&out).body(asked), plan.body);
        }
    }
}
