//! Requests by EXPOSE port, with a bound on how many ports have a label of their own.

use crate::limits::MAX_LABELLED_BINDINGS;

/// Counts by port and class of status, and the counts of all ports that have no row.
#[derive(Debug, Default)]
pub(super) struct BindingsSeen {
    /// In order of ports.
    rows: Vec<Row>,
    other: [u64; 5],
}

#[derive(Debug)]
struct Row {
    port: u16,
    bound: bool,
    counts: [u64; 5],
}

impl BindingsSeen {
    /// A port is bound. With no room for a row, the first that is not bound any more makes way: its
    /// series ends, which readers of counters expect. Added to the rest it would look
    /// like traffic.
    pub(super) fn opened(&mut self, port: u16) {
        if let Ok(at) = self.find(port) {
            self.rows[at].bound = true;
            return;
        }
        if self.rows.len() >= MAX_LABELLED_BINDINGS {
            let Some(idle) = self.rows.iter().position(|row| !row.bound) else {
                return;
            };
            self.rows.remove(idle);
        }
        if let Err(at) = self.find(port) {
            self.rows.insert(
                at,
                Row {
                    port,
                    bound: true,
                    counts: [0; 5],
                },
            );
        }
    }

    /// A port is bound no more.
    pub(super) fn closed(&mut self, port: u16) {
        if let Ok(at) = self.find(port) {
            self.rows[at].bound = false;
        }
    }

    /// A request on a port ended with a status of this class, 0 for 1xx to 4 for 5xx.
    pub(super) fn request(&mut self, port: u16, class: usize) {
        let counts = match self.find(port) {
            Ok(at) => &mut self.rows[at].counts,
            Err(_) => &mut self.other,
        };
        counts[class] += 1;
    }

    /// Label and counts of every row, and of the rest.
    pub(super) fn rows(&self) -> impl Iterator<Item = (String, &[u64; 5])> {
        let own = self
            .rows
            .iter()
            .map(|row| (row.port.to_string(), &row.counts));
        own.chain(std::iter::once(("other".to_string(), &self.other)))
    }

    fn find(&self, port: u16) -> Result<usize, usize> {
        self.rows.binary_search_by_key(&port, |row| row.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_bound_ports_keep_theirs() {
        let mut seen = BindingsSeen::default();
        for port in 1..=1000 {
            seen.opened(port);
            seen.request(port, 1);
            if port > 3 {
                seen.closed(port);
            }
        }
        let rows: Vec<_> = seen
            .rows()
            .map(|(port, counts)| (port, counts[1]))
            .collect();
        assert_eq!(rows.len(), MAX_LABELLED_BINDINGS + 1);
        assert_eq!(rows[0], ("1".to_string(), 1));
        assert_eq!(rows[2], ("3".to_string(), 1));
        assert_eq!(rows[MAX_LABELLED_BINDINGS - 1].0, "1000");
        assert_eq!(rows[MAX_LABELLED_BINDINGS], ("other".to_string(), 0));
    }

    #[test]
    fn ports_without_a_label_are_counted_together() {
        let mut seen = BindingsSeen::default();
        for port in 1..=100 {
            seen.opened(port);
            seen.request(port, 4);
        }
        let (name, counts) = seen.rows().last().unwrap();
        assert_eq!(
            (name.as_str(), counts[4]),
            ("other", 100 - MAX_LABELLED_BINDINGS as u64)
        );
    }

    #[test]
    fn a_port_that_is_bound_again_goes_on_counting() {
        let mut seen = BindingsSeen::default();
        for _ in 0..3 {
            seen.opened(3000);
            seen.request(3000, 1);
            seen.closed(3000);
        }
        assert_eq!(seen.rows().next().unwrap().1[1], 3);
    }
}
