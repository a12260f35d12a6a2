//! Who may be cut although streams survive (PROTOCOL §9): the oracle's book of what went wrong.
//!
//! A stream is excused when somebody's memory was lost while it lived, when its port went to
//! somebody else, when an operator said so, or when its laptop was away for as long as the grace.
//! A lost connection alone excuses nobody.

use crate::net::SECOND;

#[derive(Default)]
pub struct Excuses {
    /// A laptop (or all of them), and from when to when.
    spans: Vec<(Option<usize>, u64, u64)>,
    /// A laptop, and since when and how long at most the kit cannot hear it.
    outages: Vec<(usize, u64, u64)>,
}

impl Excuses {
    /// Whoever was served by `laptop` at any time in between may be cut.
    pub fn excuse(&mut self, laptop: Option<usize>, from: u64, until: u64) {
        self.spans.push((laptop, from, until));
    }

    /// Nobody may be cut for this, if it does not last.
    pub fn away(&mut self, laptop: usize, from: u64, until: u64) {
        self.outages.push((laptop, from, until));
        self.outages.sort_by_key(|outage| outage.1);
    }

    /// Whether somebody may be cut who was served by `laptop` from then to then, where a session
    /// is waited for as long as `grace`.
    pub fn cover(&self, laptop: usize, from: u64, until: u64, grace: u64) -> bool {
        let overlaps = |start: u64, end: u64| start <= until && from <= end;
        let excused = self.spans.iter().any(|(whose, start, end)| {
            whose.is_none_or(|whose| whose == laptop) && overlaps(*start, *end)
        });
        excused
            || self
                .long(laptop, grace)
                .any(|(start, end)| overlaps(start, end))
    }

    /// When it was away for so long: one time after the other, where too little lies between for
    /// it to come back.
    fn long(&self, laptop: usize, grace: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (_, start, end) in self.outages.iter().filter(|it| it.0 == laptop) {
            match joined.last_mut() {
                Some(last) if *start <= last.1 + COMES_BACK_WITHIN => last.1 = last.1.max(*end),
                _ => joined.push((*start, *end)),
            }
        }
        let least = grace.saturating_sub(COMES_BACK_WITHIN);
        joined
            .into_iter()
            .filter(move |(start, end)| end - start >= least)
            .map(|(start, end)| (start, end + COMES_BACK_WITHIN))
    }
}

/// How long a laptop needs to come back once nothing is in its way.
const COMES_BACK_WITHIN: u64 = 3 * SECOND;
