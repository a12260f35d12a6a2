//! Whether a plain URL leads to a server that speaks TLS.
//!
//! Some of these answer what is no TLS with an alert or with HTTP, which is told at once. Others
//! close the connection without a byte, as a forwarder does whose kit is not there yet, and that is
//! to be waited for. So the next connection there asks: it only says the first words of TLS, and
//! nothing that could be a secret.

use crate::client::reach::failure::Failure;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::client) struct Doubt {
    /// How often a connection was closed without a byte.
    closed: u32,
    /// The way that is to be asked.
    way: Option<usize>,
}

impl Doubt {
    /// A connection by this way failed so.
    pub(crate) fn after(&mut self, failure: &Failure, way: usize) {
        if !matches!(failure, Failure::Mute) {
            return;
        }
        // Who is not there yet should not be asked in vain each second time.
        if self.closed.is_multiple_of(ASK_EVERY) {
            self.way = Some(way);
        }
        self.closed = self.closed.wrapping_add(1);
    }

    /// Whether the next connection by this way is to ask; said once.
    pub(crate) fn asks(&mut self, way: usize) -> bool {
        self.way.take_if(|doubted| *doubted == way).is_some()
    }
}

/// Among so many connections that bring nothing one is followed by a question.
const ASK_EVERY: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_that_was_silent_is_asked_once_and_then_seldom() {
        let mut doubt = Doubt::default();
        assert!(!doubt.asks(0));
        doubt.after(&Failure::HungUp, 1);
        assert!(!doubt.asks(1));
        doubt.after(&Failure::Mute, 1);
        assert!(!doubt.asks(0) && doubt.asks(1) && !doubt.asks(1));
        let asked = (0..80).filter(|_| {
            doubt.after(&Failure::Mute, 0);
            doubt.asks(0)
        });
        assert_eq!(asked.count(), 10);
    }
}
