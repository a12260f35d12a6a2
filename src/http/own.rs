//! Fields that a user has put into every request to the local server, in the place of the
//! visitor's.

use std::fmt;

use super::fields::{is_name, is_value};

/// A field that may be written as it is. Its value may be a secret: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnField {
    name: String,
    value: String,
}

impl OwnField {
    /// A field of that name.
    ///
    /// # Errors
    ///
    /// It would not survive being written, or is none to be chosen: what frames the message, ends
    /// at the next hop (RFC 9110 §7.6.1), or names the server. The sentence never has the value in
    /// it.
    pub fn new(name: &str, value: &str) -> Result<OwnField, String> {
        if !is_name(name.as_bytes()) {
            return Err(format!("`{}` is no name of a field", name.escape_debug()));
        }
        if NEVER.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            return Err(format!("{name} belongs to the message itself"));
        }
        if !is_value(value.as_bytes()) {
            return Err(format!("the value of {name} would break its line"));
        }
        Ok(OwnField {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }

    pub(super) fn is_named(&self, name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(self.name.as_bytes())
    }

    pub(super) fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    pub(super) fn value(&self) -> &[u8] {
        self.value.as_bytes()
    }

    /// Whether both have the same name.
    pub fn is_like(&self, other: &OwnField) -> bool {
        self.is_named(other.name())
    }
}

impl fmt::Debug for OwnField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: …", self.name)
    }
}

const NEVER: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_frame_or_end_at_a_hop_and_odd_ones_are_refused_without_their_values() {
        let field = OwnField::new("X-Api-Key", "hush \u{e9}").unwrap();
        assert!(field.is_named(b"x-api-KEY"));
        assert_eq!(format!("{field:?}"), "X-Api-Key: …");
        for name in NEVER {
            let upper = name.to_uppercase();
            assert!(OwnField::new(&upper, "hush").is_err(), "{name}");
        }
        for (name, value) in [
            ("", "hush"),
            ("a b", "hush"),
            ("a", "hush\r\nb: c"),
            ("a", "hush\0"),
        ] {
            let refused = OwnField::new(name, value).unwrap_err();
            assert!(!refused.contains("hush"), "{refused}");
        }
    }
}
