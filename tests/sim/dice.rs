//! Randomness from a seed, and the bytes that everybody expects of a number.

use hoody_tunnel::entropy::Entropy;

pub struct Dice(Entropy);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Entropy::from_seed(seed))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        match u32::try_from(bound) {
            Ok(bound) => u64::from(self.0.below(bound.max(1))),
            Err(_) => self.number() % bound,
        }
    }

    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// Once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.0.octets())
    }

    /// Mostly small, sometimes large.
    pub fn size(&mut self, top: u64) -> usize {
        let bits = 64 - top.leading_zeros();
        let top = top >> self.below(u64::from(bits));
        self.below(top + 1) as usize
    }

    pub fn entropy(&mut self) -> Entropy {
        Entropy::from_seed(self.number())
    }
}

/// The octet at `at` of the stream that is called `name`.
pub fn octet(name: u64, at: usize) -> u8 {
    (at as u64)
        .wrapping_mul(31)
        .wrapping_add(name)
        .to_le_bytes()[0]
        ^ ((at >> 8) as u8)
        ^ ((at >> 16) as u8)
}

/// Octets `from..from + count` of it.
pub fn octets(name: u64, from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| octet(name, at)).collect()
}

/// Panics unless `bytes` are those that follow `from` of the stream called `name`.
pub fn check_octets(what: &str, name: u64, from: usize, bytes: &[u8]) {
    for (index, byte) in bytes.iter().enumerate() {
        let at = from + index;
        assert_eq!(*byte, octet(name, at), "{what}: octet {at} is another");
    }
}
