//! Randomness from the operating system.

use std::io;

use crate::entropy::Entropy;

/// A source that nobody can guess: the kernel's.
pub fn os_entropy() -> Entropy {
    Entropy::new(fill)
}

fn fill(out: &mut [u8]) {
    // getentropy(3) is getrandom(2) under a name that macOS has too; 256 octets a call at most.
    for piece in out.chunks_mut(256) {
        // SAFETY: the pointer and the length describe `piece`, which lives through the call.
        let outcome = unsafe { libc::getentropy(piece.as_mut_ptr().cast(), piece.len()) };
        // Going on with numbers that somebody can guess would be worse than ending.
        assert_eq!(
            outcome,
            0,
            "the system gives no random numbers: {}",
            io::Error::last_os_error()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        let mut entropy = os_entropy();
        assert_ne!(entropy.octets::<32>(), entropy.octets::<32>());
        assert_ne!(
            os_entropy().octets::<512>()[500..],
            os_entropy().octets::<512>()[500..]
        );
    }
}
