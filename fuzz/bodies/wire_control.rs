//! Hostile JSON in every payload: the first octet picks the type, the rest is the payload. What was
//! read can be written and reads the same again. The rest is also tried as octets of a header.

use std::fmt::Debug;

use hoody_tunnel::wire::control::{self, ControlError, ControlPayload};
use hoody_tunnel::wire::open::{self, Header, OpenHttpParts, ResponseHead, StreamOpen};

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((pick, payload)) = data.split_first() else {
        return;
    };
    match pick {
        0x01 => control::<control::Hello>(payload),
        0x02 => control::<control::HelloOk>(payload),
        0x03 => control::<control::Bind>(payload),
        0x04 => control::<control::BindOk>(payload),
        0x05 => control::<control::BindErr>(payload),
        0x06 => control::<control::Unbind>(payload),
        0x07 => control::<control::UnbindOk>(payload),
        0x08 => control::<control::UnbindErr>(payload),
        0x09 => control::<control::Join>(payload),
        0x0A => control::<control::JoinOk>(payload),
        0x0B => control::<control::JoinErr>(payload),
        0x0C => control::<control::ShardMap>(payload),
        0x0D => control::<control::ReissueAnswer>(payload),
        0x0E => control::<control::ReissueRequest>(payload),
        0x10 => stream_open(payload),
        0x16 => response_head(payload),
        0x30 => control::<control::GoAway>(payload),
        0x40 => control::<control::BindRevoked>(payload),
        0x44 => connected(payload),
        _ => octets(payload),
    }
}

fn control<T: ControlPayload + PartialEq + Debug>(payload: &[u8]) {
    let read: T = match control::parse(payload) {
        Ok(read) => read,
        Err(error) => return short(&error),
    };
    let mut out = Vec::new();
    control::write(&read, &mut out);
    let again: T = control::parse(&out).expect("what was written may be read");
    assert_eq!(again, read, "the same comes back");
}

fn short(error: &ControlError) {
    assert!(
        error.to_string().len() < 120,
        "an error repeats nothing: {error}"
    );
}

fn stream_open(payload: &[u8]) {
    // The quick reader of our own form and the general one agree on everything.
    assert_eq!(StreamOpen::parse(payload), StreamOpen::parse_any(payload));
    let read = match StreamOpen::parse(payload) {
        Ok(read) => read,
        Err(error) => return short(&error),
    };
    let mut out = Vec::new();
    match &read {
        StreamOpen::Http(http) => {
            let parts = OpenHttpParts {
                names: open::NameCase::Lower,
                bind_id: http.bind_id.unwrap_or_default(),
                container_port: http.container_port.unwrap_or_default(),
                method: &http.method,
                target: &http.target,
                is_upgrade: http.is_upgrade,
                body: http.body(),
                remote_addr: ([127, 0, 0, 1], 1).into(),
                connection_id: http.connection_id.and_then(|number| number.try_into().ok()),
            };
            if open::write_open_http(&mut out, &parts, fields(&http.headers)).is_err() {
                return assert!(out.is_empty(), "what does not fit leaves nothing");
            }
            assert_eq!(StreamOpen::parse(&out), StreamOpen::parse_any(&out));
            match StreamOpen::parse(&out) {
                Ok(StreamOpen::Http(again)) => {
                    assert_eq!(again.method, http.method);
                    assert_eq!(again.target, http.target);
                    assert!(same_fields(&again.headers, &http.headers));
                    assert_eq!(again.body(), http.body());
                    assert_eq!(again.is_upgrade, http.is_upgrade);
                    assert_eq!(again.connection_id, parts.connection_id.map(u64::from));
                }
                other => panic!("what was written may be read: {other:?}"),
            }
        }
        StreamOpen::Forward(forward) => {
            if open::write_open_forward(&mut out, forward).is_ok() {
                assert_eq!(
                    StreamOpen::parse(&out).as_ref(),
                    Ok(&read),
                    "the same comes back"
                );
            }
        }
        StreamOpen::Tcp(_) | StreamOpen::Udp(_) => {}
    }
}

fn response_head(payload: &[u8]) {
    assert_eq!(
        ResponseHead::parse(payload),
        ResponseHead::parse_any(payload)
    );
    let read = match ResponseHead::parse(payload) {
        Ok(read) => read,
        Err(error) => return short(&error),
    };
    let mut out = Vec::new();
    if open::write_response_head(
        &mut out,
        read.status,
        fields(&read.headers),
        read.is_final,
        open::NameCase::Lower,
    )
    .is_ok()
    {
        assert_eq!(ResponseHead::parse(&out), ResponseHead::parse_any(&out));
        let again = ResponseHead::parse(&out).expect("what was written may be read");
        assert!(again.status == read.status && again.is_final == read.is_final);
        assert!(
            same_fields(&again.headers, &read.headers),
            "the same comes back"
        );
    }
}

fn connected(payload: &[u8]) {
    let read = match open::parse_connected(payload) {
        Ok(read) => read,
        Err(error) => return short(&error),
    };
    let mut out = Vec::new();
    open::write_connected(&mut out, &read);
    assert_eq!(open::parse_connected(&out), Ok(read), "the same comes back");
}

/// Any octets survive as a header's value.
fn octets(octets: &[u8]) {
    let mut out = Vec::new();
    let header = (octets, octets);
    if open::write_response_head(
        &mut out,
        200,
        [header].into_iter(),
        true,
        open::NameCase::Lower,
    )
    .is_err()
    {
        return;
    }
    let read = ResponseHead::parse(&out).expect("what was written may be read");
    match read.headers.as_slice() {
        [Header { name, value }] => {
            assert_eq!((&**name, &**value), (&*octets.to_ascii_lowercase(), octets));
        }
        _ => panic!("one field comes back"),
    }
}

/// Names are written in lower case; everything else comes back as it was.
fn same_fields(written: &[Header<'_>], read: &[Header<'_>]) -> bool {
    written.len() == read.len()
        && written
            .iter()
            .zip(read)
            .all(|(new, old)| *new.name == *old.name.to_ascii_lowercase() && new.value == old.value)
}

fn fields<'h>(headers: &'h [Header<'_>]) -> impl Iterator<Item = (&'h [u8], &'h [u8])> {
    headers.iter().map(|field| (&*field.name, &*field.value))
}
