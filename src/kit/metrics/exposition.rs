//! Prometheus text format 0.0.4: families, samples, histograms.

use std::time::Duration;

use std::io::Write as _;

/// Writes one page of metrics. Every name but those of [`Exposition::process`] gets our prefix.
pub(super) struct Exposition<'a> {
    out: &'a mut Vec<u8>,
    family: String,
}

impl<'a> Exposition<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Exposition<'a> {
        Exposition {
            out,
            family: String::new(),
        }
    }

    /// Begins a family. `help` is a sentence of ours without backslash or line end.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let name = format!("hoody_tunnel_{name}");
        self.begin(&name, kind, help);
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // A Vec takes everything, here and below.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self.family = name.to_string();
    }

    /// One value of the family. Label values are words of ours: nothing in them is escaped.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.out.extend_from_slice(self.family.as_bytes());
        let mut before = "{";
        for (name, value) in labels {
            debug_assert!(
                !value.contains(['"', '\\', '\n']),
                "a label value that needs escaping"
            );
            let _ = write!(self.out, "{before}{name}=\"{value}\"");
            before = ",";
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{end} {value}");
    }

    /// A counter with one label.
    pub(super) fn labelled<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) {
        self.family(name, "counter", help);
        for (value, count) in values {
            self.sample(&[(label, value)], count);
        }
    }

    /// A gauge of the process, under its customary name.
    pub(super) fn process(&mut self, name: &str, help: &str, value: u64) {
        self.begin(name, "gauge", help);
        self.sample(&[], value);
    }

    /// A histogram of seconds, under its whole name.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.begin(name, "histogram", help);
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(histogram.counts) {
            below += count;
            let _ = writeln!(
                self.out,
                "{name}_bucket{{le=\"{}\"}} {below}",
                Seconds(*bound)
            );
        }
        let all: u64 = histogram.counts.iter().sum();
        let _ = writeln!(self.out, "{name}_bucket{{le=\"+Inf\"}} {all}");
        let _ = writeln!(self.out, "{name}_sum {}", Seconds(histogram.sum));
        let _ = writeln!(self.out, "{name}_count {all}");
    }
}

/// How long something took, counted in buckets from 50 µs to 10 s.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// One for each bound and one for what is above all.
    counts: [u64; BOUNDS.len() + 1],
    /// In nanoseconds; 584 years fit.
    sum: u64,
}

impl Histogram {
    /// Notes how long something took.
    pub fn observe(&mut self, span: Duration) {
        self.observe_nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn observe_nanos(&mut self, nanos: u64) {
        let at = BOUNDS.partition_point(|bound| *bound < nanos);
        self.counts[at] += 1;
        self.sum = self.sum.saturating_add(nanos);
    }

    /// How often something was observed.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Nanoseconds, shown as seconds without loss.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, nanos) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        if nanos == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{nanos:09}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// Upper bounds of the buckets, in nanoseconds: each is two to two and a half times the last.
const BOUNDS: [u64; 17] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_written_without_loss_and_without_trailing_zeros() {
        for (nanos, text) in [
            (0, "0"),
            (50_000, "0.00005"),
            (2_500_000_000, "2.5"),
            (10_000_000_000, "10"),
            (1, "0.000000001"),
        ] {
            assert_eq!(Seconds(nanos).to_string(), text);
        }
    }

    #[test]
    fn buckets_are_cumulative_and_a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::default();
        for nanos in [0, 50_000, 50_001, u64::MAX / 2] {
            histogram.observe_nanos(nanos);
        }
        let mut out = Vec::new();
        Exposition::new(&mut out).histogram("x_seconds", "X.", &histogram);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("# HELP x_seconds X.\n# TYPE x_seconds histogram\n"));
        for line in [
            "x_seconds_bucket{le=\"0.00005\"} 2\n",
            "x_seconds_bucket{le=\"0.0001\"} 3\n",
            "x_seconds_bucket{le=\"10\"} 3\n",
            "x_seconds_bucket{le=\"+Inf\"} 4\n",
            "x_seconds_count 4\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
