//! Randomness from the operating system.

use std::io;

use crate::entropy::Entropy;

/// A source that nobody can guess: the kernel's.
pub fn os_entropy() -> Entropy {
    Entropy::new(fill)
}

fn fill(out: &mut [u8]) {
    // 256 octets a call come whole, whatever signals do (getrandom(2), getentropy(3)).
    for piece in out.chunks_mut(256) {
        // Going on with numbers that somebody can guess would be worse than ending.
        assert!(
            draw(piece),
            "the system gives no random numbers: {}",
            io::Error::last_os_error()
        );
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn draw(piece: &mut [u8]) -> bool {
    // SAFETY: the pointer and the length describe `piece`, which lives through the call.
    let count = unsafe { libc::getrandom(piece.as_mut_ptr().cast(), piece.len(), 0) };
    usize::try_from(count) == Ok(piece.len())
}

/// The name that the call has elsewhere.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn draw(piece: &mut [u8]) -> bool {
    // SAFETY: the pointer and the length describe `piece`, which lives through the call.
    unsafe { libc::getentropy(piece.as_mut_ptr().cast(), piece.len()) == 0 }
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
