//! What both HTTP bodies share: an input in pieces must give what it gives whole.

use hoody_tunnel::http::{BodyDecoder, BodyError, Field, HeadScanner, Reject};

/// How long the head is that this scanner finds, after it was seen to be the same in pieces as
/// whole.
pub fn scan(scanner: &HeadScanner, data: &[u8]) -> Result<Option<usize>, Reject> {
    let whole = scanner.clone().scan(data);
    let mut scanner = scanner.clone();
    let mut pieces = Ok(None);
    for end in ends(data) {
        pieces = scanner.scan(data.get(..end).unwrap_or_default());
        if pieces != Ok(None) {
            break;
        }
    }
    assert_eq!(whole, pieces, "a head does not depend on how it comes");
    whole
}

/// Data of a body, octets it took, and whether it ended; the same in pieces as whole.
pub fn read(decoder: &BodyDecoder, data: &[u8]) -> (Vec<u8>, Result<(usize, bool), BodyError>) {
    let whole = read_pieces(decoder.clone(), data, [data.len()].into_iter());
    let pieces = read_pieces(decoder.clone(), data, ends(data));
    assert_eq!(whole, pieces, "a body does not depend on how it comes");
    whole
}

/// Fields as a hostile peer's JSON could carry them: any octets at all, but for two that part them.
pub fn hostile_fields(data: &[u8]) -> impl Iterator<Item = Field<'_>> + Clone {
    data.split(|&octet| octet == 0xFE)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let middle = part
                .iter()
                .position(|&octet| octet == 0xFD)
                .unwrap_or(part.len());
            let (name, value) = part.split_at(middle);
            (name, value.get(1..).unwrap_or_default())
        })
}

fn read_pieces(
    mut decoder: BodyDecoder,
    data: &[u8],
    ends: impl Iterator<Item = usize>,
) -> (Vec<u8>, Result<(usize, bool), BodyError>) {
    let (mut read, mut at) = (Vec::new(), 0);
    for end in ends {
        loop {
            let input = data.get(at..end).unwrap_or_default();
            let step = match decoder.decode(input) {
                Ok(step) => step,
                Err(error) => return (read, Err(error)),
            };
            assert!(
                step.consumed > 0 || input.is_empty() || step.end,
                "every step moves"
            );
            assert!(
                step.data.end <= step.consumed,
                "data lies in what was consumed"
            );
            assert_eq!(step.end, decoder.is_complete());
            read.extend_from_slice(input.get(step.data).expect("data lies in the input"));
            at += step.consumed;
            if step.end {
                return (read, Ok((at, true)));
            }
            if at == end {
                break;
            }
        }
    }
    (read, Ok((at, false)))
}

/// Where pieces of the input end: every octet of a short one, and cuts that the input decides.
fn ends(data: &[u8]) -> impl Iterator<Item = usize> {
    let seed = data
        .iter()
        .fold(7u64, |sum, &octet| sum.wrapping_mul(31) + u64::from(octet));
    let largest = if data.len() < 256 { 1 } else { 1 + seed % 61 };
    let mut end = 0;
    let inner = std::iter::from_fn(move || {
        end += 1 + (seed.rotate_left(end as u32) % largest) as usize;
        Some(end)
    });
    let length = data.len();
    inner.take_while(move |&end| end < length).chain([length])
}
