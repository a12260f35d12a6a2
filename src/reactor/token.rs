//! What an event's token says: whose it is.
//!
//! From the top: the generation of the key (as far as the platform's word has room for it), the
//! class in three bits, the number of the dial attempt in four, the index in 25. A dialled socket
//! keeps the token of its attempt, so that nothing is ever registered twice.

use mio::Token;

use crate::table::Key;

/// What kind of source an event is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Conn,
    Listener,
    /// A TLS connection that was closed while ciphertext waited.
    Departing,
    /// The host's own sources, told apart by index.
    Host,
    /// A socket of datagrams.
    Socket,
}

/// Indexes of the class [`Class::Host`].
pub(super) const WAKER: usize = 0;
pub(super) const SIGNALS: usize = 1;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const NETWORK: usize = 2;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const SLEEP: usize = 3;

/// How many addresses of a name are tried: as many as the token can count.
pub(super) const ATTEMPTS: usize = 16;

const INDEX_BITS: u32 = 25;
const ATTEMPT_BITS: u32 = 4;
const CLASS_BITS: u32 = 3;
const _: () = assert!(INDEX_BITS + ATTEMPT_BITS + CLASS_BITS == 32);
const _: () = assert!(1 << ATTEMPT_BITS == ATTEMPTS);

/// The token of attempt `attempt` of the entry named `key`.
pub(super) fn of<T>(class: Class, key: Key<T>, attempt: usize) -> Token {
    assert!(
        key.index() < 1 << INDEX_BITS,
        "more connections than tokens can name"
    );
    assert!(attempt < ATTEMPTS, "more attempts than tokens can name");
    let low = (class as u64) << (INDEX_BITS + ATTEMPT_BITS) | (attempt as u64) << INDEX_BITS;
    Token((key.pack() | low) as usize)
}

/// The token of one of the host's own sources.
pub(super) fn host(index: usize) -> Token {
    of(Class::Host, Key::<()>::unpack(index as u64), 0)
}

pub(super) fn class(token: Token) -> Class {
    match (token.0 as u32) >> (INDEX_BITS + ATTEMPT_BITS) {
        0 => Class::Conn,
        1 => Class::Listener,
        2 => Class::Departing,
        3 => Class::Host,
        _ => Class::Socket,
    }
}

pub(super) fn attempt(token: Token) -> usize {
    (token.0 as u32 >> INDEX_BITS) as usize & (ATTEMPTS - 1)
}

pub(super) fn index(token: Token) -> usize {
    token.0 & ((1 << INDEX_BITS) - 1)
}

/// Whether `token` was made from `key`, as far as the token can tell.
pub(super) fn names<T>(token: Token, key: Key<T>) -> bool {
    let own_bits = ((1u64 << 32) - (1u64 << INDEX_BITS)) as usize;
    token.0 & !own_bits == key.pack() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_back_what_it_was_made_of() {
        let key = Key::<u8>::unpack(7 << 32 | 1234);
        let token = of(Class::Listener, key, 11);
        assert_eq!(class(token), Class::Listener);
        assert_eq!(attempt(token), 11);
        assert_eq!(index(token), 1234);
        assert!(names(token, key));
        assert!(!names(token, Key::<u8>::unpack(7 << 32 | 1235)));
        assert_eq!(class(host(SIGNALS)), Class::Host);
        assert_eq!(index(host(SIGNALS)), SIGNALS);
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_token_of_an_older_generation_names_nobody() {
        let old = of(Class::Conn, Key::<u8>::unpack(7 << 32 | 1), 0);
        assert!(!names(old, Key::<u8>::unpack(8 << 32 | 1)));
    }
}
