//! What a client offers and a kit grants of it (PROTOCOL §2).
//!
//! On the wire a list of words. A word that the protocol does not have means nothing to us and is
//! not kept: what was not granted is not used.

use std::fmt;
use std::ops::BitOr;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::json::Text;

/// A set of capabilities.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u16);

/// Every word, at the place of its bit.
const WORDS: [&str; 9] = [
    "multi-ws",
    "grow-windows",
    "header-case",
    "replay",
    "forward",
    "tcp-expose",
    "trailers",
    "udp",
    "long-heads",
];

impl Capabilities {
    /// None.
    pub const NONE: Capabilities = Capabilities(0);
    /// Several lanes in one session (PROTOCOL §7).
    pub const MULTI_WS: Capabilities = Capabilities(1 << 0);
    /// Windows above their first size (PROTOCOL §5).
    pub const GROW_WINDOWS: Capabilities = Capabilities(1 << 1);
    /// Names of fields travel as they were written (PROTOCOL §4).
    pub const HEADER_CASE: Capabilities = Capabilities(1 << 2);
    /// Streams survive a dropped socket (PROTOCOL §9).
    pub const REPLAY: Capabilities = Capabilities(1 << 3);
    /// The client opens streams to the container's services (PROTOCOL §8).
    pub const FORWARD: Capabilities = Capabilities(1 << 4);
    /// Raw TCP on an EXPOSE port (PROTOCOL §3).
    pub const TCP_EXPOSE: Capabilities = Capabilities(1 << 5);
    /// Trailer fields travel (PROTOCOL §4).
    pub const TRAILERS: Capabilities = Capabilities(1 << 6);
    /// Datagrams travel (PROTOCOL §8.1).
    pub const UDP: Capabilities = Capabilities(1 << 7);
    /// Heads larger than a frame travel (PROTOCOL §4).
    pub const LONG_HEADS: Capabilities = Capabilities(1 << 8);
    /// All words of the protocol, whether or not an end of ours speaks them.
    pub const ALL: Capabilities = Capabilities((1 << WORDS.len()) - 1);

    /// Whether all of `others` are among these.
    pub const fn have(self, others: Capabilities) -> bool {
        self.0 & others.0 == others.0
    }

    /// These if `granted`, else none.
    #[must_use]
    pub const fn only_if(self, granted: bool) -> Capabilities {
        if granted { self } else { Capabilities::NONE }
    }

    /// Those that `others` have too.
    #[must_use]
    pub const fn and(self, others: Capabilities) -> Capabilities {
        Capabilities(self.0 & others.0)
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    fn words(self) -> impl Iterator<Item = &'static str> {
        let has = move |(at, word): (usize, _)| (self.0 & (1 << at) != 0).then_some(word);
        WORDS.into_iter().enumerate().filter_map(has)
    }

    fn of_word(word: &str) -> Capabilities {
        let at = WORDS.iter().position(|known| *known == word);
        at.map_or(Capabilities::NONE, |at| Capabilities(1 << at))
    }
}

impl BitOr for Capabilities {
    type Output = Capabilities;

    fn bitor(self, others: Capabilities) -> Capabilities {
        Capabilities(self.0 | others.0)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.words()).finish()
    }
}

impl Serialize for Capabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.words())
    }
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Capabilities;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of words")
            }

            fn visit_unit<E>(self) -> Result<Capabilities, E> {
                Ok(Capabilities::NONE)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Capabilities, A::Error> {
                let mut all = Capabilities::NONE;
                while let Some(Text(word)) = list.next_element()? {
                    all = all | Capabilities::of_word(&word);
                }
                Ok(all)
            }
        }
        // `null` reads like an absent key.
        deserializer.deserialize_any(Words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Capabilities, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn words_that_are_not_known_and_words_said_twice_do_not_matter() {
        let both = Capabilities::MULTI_WS | Capabilities::GROW_WINDOWS;
        let json = r#"["x","multi-ws","MULTI-WS","grow\u002dwindows","multi-ws"]"#;
        assert_eq!(read(json).unwrap(), both);
        assert_eq!(read("[]").unwrap(), Capabilities::NONE);
        assert_eq!(read("null").unwrap(), Capabilities::NONE);
    }

    #[test]
    fn what_is_no_list_of_words_is_refused() {
        for json in ["{}", "\"multi-ws\"", "[1]", "[null]", "[[]]", "3", "true"] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn every_capability_comes_back_as_it_was_written() {
        for bits in 0..=Capabilities::ALL.0 {
            let some = Capabilities(bits);
            assert_eq!(read(&serde_json::to_string(&some).unwrap()).unwrap(), some);
            assert_eq!(some.is_empty(), bits == 0);
            assert_eq!(some.and(Capabilities::ALL), some);
            assert!(Capabilities::ALL.have(some) && some.have(Capabilities::NONE));
        }
        assert!(!Capabilities::MULTI_WS.have(Capabilities::ALL));
        assert_eq!(Capabilities::ALL.only_if(false), Capabilities::NONE);
        assert_eq!(format!("{:?}", Capabilities::MULTI_WS), "{\"multi-ws\"}");
    }
}
