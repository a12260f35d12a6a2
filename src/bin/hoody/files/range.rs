//! The `Range` field of a request for one file (RFC 9110 §14): one range is honoured, several are
//! answered with the whole file, which is always allowed.

/// What a `Range` asks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: no range, several, or none that is understood.
    Whole,
    /// Bytes `first` to `last`, both included.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: u64,
    },
    /// A range that the file does not have: `416`.
    Unsatisfiable,
}

/// Reads `field`, the value of `Range`, for a file of `size` bytes.
pub fn parse(field: &str, size: u64) -> Wanted {
    let Some((unit, spec)) = field.trim().split_once('=') else {
        return Wanted::Whole;
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::Whole;
    };
    match (offset(first), offset(last)) {
        (Some(first), Some(last)) if first > last => Wanted::Whole,
        (Some(first), Some(last)) => part(first, last, size),
        (Some(first), None) if last.is_empty() => part(first, u64::MAX, size),
        (None, Some(count)) if first.is_empty() => match count.min(size) {
            0 => Wanted::Unsatisfiable,
            count => part(size - count, u64::MAX, size),
        },
        _ => Wanted::Whole,
    }
}

fn part(first: u64, last: u64, size: u64) -> Wanted {
    if first >= size {
        return Wanted::Unsatisfiable;
    }
    let last = last.min(size - 1);
    Wanted::Part { first, last }
}

/// Digits only. A number past `u64` lies behind the end of any file, as `u64::MAX` does.
fn offset(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn bytes(first: u64, last: u64) -> Wanted {
        Wanted::Part { first, last }
    }

    #[test]
    fn one_range_is_cut_to_the_file() {
        assert_eq!(parse("bytes=0-0", 10), bytes(0, 0));
        assert_eq!(parse("bytes=2-5", 10), bytes(2, 5));
        assert_eq!(parse("Bytes= 2-500", 10), bytes(2, 9));
        assert_eq!(parse("bytes=9-", 10), bytes(9, 9));
        assert_eq!(parse("bytes=-3", 10), bytes(7, 9));
        assert_eq!(parse("bytes=-300", 10), bytes(0, 9));
        let endless = "bytes=0-99999999999999999999999999";
        assert_eq!(parse(endless, 10), bytes(0, 9));
    }

    #[test]
    fn a_range_behind_the_end_cannot_be_satisfied() {
        for (field, size) in [
            ("bytes=10-", 10),
            ("bytes=10-11", 10),
            ("bytes=99999999999999999999999999-", 10),
            ("bytes=-0", 10),
            ("bytes=0-", 0),
            ("bytes=-5", 0),
        ] {
            assert_eq!(parse(field, size), Wanted::Unsatisfiable, "{field}");
        }
    }

    #[test]
    fn several_ranges_and_nonsense_get_the_whole_file() {
        for field in [
            "bytes=0-1,3-4",
            "bytes=5-2",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes",
            "lines=1-2",
            "",
        ] {
            assert_eq!(parse(field, 10), Wanted::Whole, "{field}");
        }
    }
}
