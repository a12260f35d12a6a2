//! Randomness that is handed in.
//!
//! Session ids, join tickets and WebSocket masks need a source nobody can guess; a simulation needs
//! one that it can replay. So a machine is given an [`Entropy`] and never looks for one itself.

/// A source of random octets with a small pool, so that a four-byte mask costs no system call.
pub struct Entropy {
    source: Source,
    pool: [u8; POOL],
    used: usize,
}

enum Source {
    /// The operating system's, through a function that fills the whole slice it is given.
    System(fn(&mut [u8])),
    /// SplitMix64 from a seed: repeats itself, for simulations and fuzzing.
    Seed(u64),
}

const POOL: usize = 512;

impl Entropy {
    /// Draws from `fill`, which must fill the whole slice it is given with octets nobody can guess.
    pub fn new(fill: fn(&mut [u8])) -> Entropy {
        Entropy {
            source: Source::System(fill),
            pool: [0; POOL],
            used: POOL,
        }
    }

    /// A source that repeats itself from a seed, for simulations and fuzzing. Never for production.
    pub fn from_seed(seed: u64) -> Entropy {
        Entropy {
            source: Source::Seed(seed),
            pool: [0; POOL],
            used: POOL,
        }
    }

    /// Another source of the same kind, with a pool of its own.
    pub fn fork(&mut self) -> Entropy {
        match self.source {
            Source::System(fill) => Entropy::new(fill),
            Source::Seed(_) => Entropy::from_seed(u64::from_be_bytes(self.octets())),
        }
    }

    /// `N` random octets, `N` at most 512. What was handed out is wiped from the pool.
    pub fn octets<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= POOL) };
        if self.used + N > POOL {
            self.source.fill(&mut self.pool);
            self.used = 0;
        }
        let mut out = [0; N];
        let taken = &mut self.pool[self.used..self.used + N];
        out.copy_from_slice(taken);
        taken.fill(0);
        self.used += N;
        out
    }

    /// A number in `0..bound`, without bias. `bound` must not be zero.
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "a range without numbers has no random one");
        let fair = u32::MAX - u32::MAX % bound;
        loop {
            let drawn = u32::from_be_bytes(self.octets());
            if drawn < fair {
                return drawn % bound;
            }
        }
    }
}

impl Source {
    fn fill(&mut self, out: &mut [u8]) {
        match self {
            Source::System(fill) => fill(out),
            Source::Seed(state) => {
                for byte in out {
                    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                    let mut mixed = *state;
                    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                    *byte = (mixed ^ (mixed >> 31)) as u8;
                }
            }
        }
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_octets() {
        let (mut a, mut b) = (Entropy::from_seed(7), Entropy::from_seed(7));
        for _ in 0..1000 {
            assert_eq!(a.octets::<7>(), b.octets::<7>());
        }
        assert_ne!(
            Entropy::from_seed(8).octets::<16>(),
            Entropy::from_seed(7).octets::<16>()
        );
    }

    #[test]
    fn a_bounded_number_stays_below_its_bound_and_reaches_all() {
        let mut entropy = Entropy::from_seed(1);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[entropy.below(10) as usize] = true;
        }
        assert!(seen.iter().all(|hit| *hit));
    }
}
