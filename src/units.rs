//! Durations, sizes and flags as people write them.
//!
//! What the room is for: command lines and their complaints. It never guesses: a unit that
//! could mean two things (`kb`) is refused.

use std::time::Duration;

/// Reads `60` and `60s` (seconds), `500ms`, `2m`, `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split_unit(text);
    let refuse = || format!("`{text}` is not a duration: write 60, 60s, 500ms, 2m or 1h");
    let count: u64 = digits.parse().map_err(|_| refuse())?;
    let millis = match unit {
        "ms" => Some(count),
        "" | "s" => count.checked_mul(1000),
        "m" => count.checked_mul(60_000),
        "h" => count.checked_mul(3_600_000),
        _ => return Err(refuse()),
    };
    millis.map(Duration::from_millis).ok_or_else(refuse)
}

/// Writes a duration the way [`parse_duration`] reads it.
pub fn show_duration(span: Duration) -> String {
    let millis = span.as_millis();
    if millis.is_multiple_of(1000) {
        format!("{}s", millis / 1000)
    } else {
        format!("{millis}ms")
    }
}

/// Reads a number of bytes: `1048576`, `256k`, `256KiB`, `1M`, `1MiB`, `1GiB`. All units are powers
/// of two.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = split_unit(text);
    let refuse = || format!("`{text}` is not a size: write 1048576, 256KiB or 1MiB");
    let count: u64 = digits.parse().map_err(|_| refuse())?;
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(refuse()),
    };
    count.checked_mul(scale).ok_or_else(refuse)
}

/// The same in 32 bits: what does not fit is out of every range, and refused with the range.
pub fn parse_size_32(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    u32::try_from(bytes).map_err(|_| format!("`{text}` is too large: sizes here are below 4GiB"))
}

/// Writes a number of bytes with the largest unit that divides it.
pub fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_string(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes}"),
    }
}

/// The digits in front, and what follows them. A sign is no digit.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// `--flag=value` as `--flag value`, which the parser understands; not behind `--`.
pub fn split_values(args: Vec<String>) -> Vec<String> {
    let mut out = Vec::with_capacity(args.len());
    let mut flags_ended = false;
    for arg in args {
        flags_ended |= arg == "--";
        match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") && !flags_ended => {
                out.extend([flag.to_owned(), value.to_owned()]);
            }
            _ => out.push(arg),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, millis) in [
            ("60", 60_000),
            ("60s", 60_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "s",
            "-1",
            "+1",
            "1d",
            "1.5s",
            " 1",
            "1 s",
            "99999999999999999999",
            "1S",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("18446744073709551615h").is_err());
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["60s", "500ms", "0s", "1500ms"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes_are_powers_of_two_and_never_ambiguous() {
        for (text, bytes) in [
            ("1048576", 1_048_576),
            ("256k", 262_144),
            ("256KiB", 262_144),
            ("1M", 1_048_576),
            ("1MiB", 1_048_576),
            ("2g", 2 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "1MB",
            "1kb",
            "-1",
            "18446744073709551615k",
            "0x10",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_size_32("4095MiB"), Ok(4095 << 20));
        let refused = parse_size_32("10GiB").unwrap_err();
        assert!(refused.contains("below 4GiB"), "{refused}");
    }

    #[test]
    fn a_value_may_stand_behind_an_equals_sign() {
        let args = ["tunnel", "up", "--expose=3000=80", "--", "--a=b"];
        let args = split_values(args.iter().map(|arg| arg.to_string()).collect());
        assert_eq!(args, ["tunnel", "up", "--expose", "3000=80", "--", "--a=b"]);
    }
}
