//! Complaints that repeat: the first is told at once, those that follow as one sum every few
//! seconds. A stranger who is refused a thousand times a second writes a line every now and then.

use std::collections::BTreeMap;

use log::Level;

use crate::clock::Instant;
use crate::limits::COMPLAINTS_SUMMED;

/// What complaints have in common that are summed: all of it words of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Complaint {
    pub(super) level: Level,
    /// What happened: `refused`.
    pub(super) what: &'static str,
    /// Why: `auth`.
    pub(super) reason: &'static str,
}

/// See the module. Its size is bounded by the number of complaints that there are.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    rows: BTreeMap<Complaint, Row>,
}

/// A complaint that was told, and what came since.
#[derive(Debug)]
struct Row {
    since: Instant,
    /// How many, and the last of them.
    more: u64,
    last: String,
}

impl Repeats {
    /// Whether this one is told at once; else it is counted, and its `detail` is the example.
    pub(super) fn note(&mut self, complaint: Complaint, detail: &str, now: Instant) -> bool {
        match self.rows.get_mut(&complaint) {
            None => {
                let row = Row {
                    since: now,
                    more: 0,
                    last: String::new(),
                };
                self.rows.insert(complaint, row);
                true
            }
            Some(row) => {
                row.more += 1;
                row.last.clear();
                row.last.push_str(detail);
                false
            }
        }
    }

    /// When the next sum is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let since = self.rows.values().map(|row| row.since);
        since.min().map(|since| since + COMPLAINTS_SUMMED)
    }

    /// Takes the sums that are due. What did not repeat is forgotten, and told at once when it
    /// comes again.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Level, String)> {
        let mut sums = Vec::new();
        self.rows.retain(|complaint, row| {
            let lasted = now.since(row.since);
            if lasted < COMPLAINTS_SUMMED {
                return true;
            }
            if row.more == 0 {
                return false;
            }
            sums.push((complaint.level, sum(complaint, row, lasted.as_secs())));
            row.more = 0;
            row.since = now;
            true
        });
        sums
    }

    /// Takes all sums, due or not: it is over.
    pub(super) fn all(&mut self, now: Instant) -> Vec<(Level, String)> {
        let rows = std::mem::take(&mut self.rows).into_iter();
        rows.filter(|(_, row)| row.more > 0)
            .map(|(complaint, row)| {
                let lasted = now.since(row.since).as_secs();
                (complaint.level, sum(&complaint, &row, lasted))
            })
            .collect()
    }
}

fn sum(complaint: &Complaint, row: &Row, seconds: u64) -> String {
    let Complaint { what, reason, .. } = complaint;
    let (more, last) = (row.more, &row.last);
    format!("{what} {more} more in {seconds} s ({reason}), the last one {last}")
}

/// Tells the log.
pub(super) fn tell(sums: Vec<(Level, String)>) {
    for (level, line) in sums {
        log::log!(level, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const AUTH: Complaint = Complaint {
        level: Level::Info,
        what: "refused",
        reason: "auth",
    };
    const FULL: Complaint = Complaint {
        reason: "session_limit",
        ..AUTH
    };

    #[test]
    fn the_first_is_told_at_once_and_the_others_as_one_sum() {
        let start = Instant::ZERO;
        let mut repeats = Repeats::default();
        assert!(repeats.note(AUTH, "10.0.0.1: no token", start));
        for last in 2..=250 {
            assert!(!repeats.note(AUTH, &format!("10.0.0.{last}: no token"), start));
        }
        assert!(
            repeats.note(FULL, "10.0.0.9: full", start),
            "another reason"
        );
        assert_eq!(repeats.next(), Some(start + COMPLAINTS_SUMMED));
        let early = start + COMPLAINTS_SUMMED / 2;
        assert_eq!(repeats.due(early), []);
        let seconds = COMPLAINTS_SUMMED.as_secs();
        let line =
            format!("refused 249 more in {seconds} s (auth), the last one 10.0.0.250: no token");
        let due = start + COMPLAINTS_SUMMED;
        assert_eq!(repeats.due(due), [(Level::Info, line)]);
        // The full house did not repeat: it is news again.
        assert!(repeats.note(FULL, "10.0.0.9: full", due));
        assert!(!repeats.note(AUTH, "10.0.0.1: no token", due));
    }

    #[test]
    fn who_stops_is_forgotten_and_who_goes_on_is_summed_again() {
        let start = Instant::ZERO;
        let mut repeats = Repeats::default();
        repeats.note(AUTH, "a", start);
        repeats.note(AUTH, "b", start);
        let first = start + COMPLAINTS_SUMMED;
        assert_eq!(repeats.due(first).len(), 1);
        repeats.note(AUTH, "c", first);
        let second = first + COMPLAINTS_SUMMED;
        let sums = repeats.due(second);
        assert!(sums[0].1.contains("refused 1 more") && sums[0].1.ends_with(" c"));
        assert_eq!(repeats.due(second + COMPLAINTS_SUMMED), []);
        assert_eq!(repeats.next(), None, "nothing is left");
    }

    #[test]
    fn the_end_leaves_no_sum_untold() {
        let start = Instant::ZERO;
        let mut repeats = Repeats::default();
        repeats.note(FULL, "a", start);
        repeats.note(AUTH, "a", start);
        repeats.note(AUTH, "b", start);
        let sums = repeats.all(start + Duration::from_secs(1));
        assert_eq!(sums.len(), 1);
        assert!(sums[0].1.starts_with("refused 1 more in 1 s (auth)"));
        assert_eq!(repeats.next(), None);
    }
}
