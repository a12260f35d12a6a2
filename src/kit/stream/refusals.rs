//! Visitors and callers who get no stream: each is counted by its reason, and the log has their
//! sums. What the laptop itself answers with a `503` is a response like any other here.

use crate::kit::metrics::StreamRefusal;
use crate::mux::CannotOpen;

impl From<CannotOpen> for StreamRefusal {
    fn from(why: CannotOpen) -> StreamRefusal {
        match why {
            CannotOpen::AtCap => StreamRefusal::MaxStreams,
            CannotOpen::OverShare => StreamRefusal::Share,
            CannotOpen::Congested => StreamRefusal::Congested,
            CannotOpen::Dry => StreamRefusal::Memory,
            CannotOpen::NoLane | CannotOpen::IdsUsedUp => StreamRefusal::Away,
        }
    }
}

impl StreamRefusal {
    /// What a visitor is told.
    pub(in crate::kit) fn sentence(self) -> &'static str {
        match self {
            StreamRefusal::Draining => "the tunnel restarts; come again in a moment",
            StreamRefusal::Away => "the tunnel's client is away; it may come back shortly",
            StreamRefusal::MaxStreams => "max streams exceeded",
            StreamRefusal::Share => "this address has as much as may be of what others wait for",
            StreamRefusal::Congested => "too many requests wait for the tunnel's client",
            StreamRefusal::Memory => "slow visitors hold all the memory of this tunnel",
            StreamRefusal::Heads => "too much of other requests waits here",
            StreamRefusal::Descriptors => "no file descriptors left",
            StreamRefusal::Client => "the tunnel's client takes no more at the moment",
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kit::Reason;
    use crate::kit::config::Config;
    use crate::kit::testing::{Host, guarded};
    use crate::machine::{Ended, Event, Machine};
    use crate::wire::code::Code;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// What a page of metrics says of the refusals, and that the log has a line of them.
    fn counted(host: &mut Host, reason: &str, refused: u64) {
        let page = host.get("metrics");
        for line in [
            format!("hoody_tunnel_stream_refusals_total{{reason=\"{reason}\"}} {refused}\n"),
            format!("hoody_tunnel_streams_total{{outcome=\"refused\"}} {refused}\n"),
        ] {
            assert!(page.contains(&line), "{line}");
        }
        let sums = host.kit.cx.effects.timers.deadline(Reason::Sums);
        assert!(sums.is_some(), "{reason}: nothing is told");
    }

    #[test]
    fn who_finds_no_stream_is_counted_by_the_reason() {
        let few = |config| Config {
            max_streams_per_session: 16,
            ..config
        };
        // Of one address and of many.
        for (shared, reason) in [(true, "share"), (false, "max_streams")] {
            let mut host = Host::new(few(guarded()));
            let mut laptop = host.laptop("192.0.2.1:1000");
            let mut refused = 0;
            for n in 0..20 {
                let peer = match shared {
                    true => format!("192.0.2.66:{}", 1000 + n),
                    false => format!("192.0.2.{}:1", 100 + n),
                };
                let conn = host.visit_at(host.bound[0], &peer).expect("a place");
                host.send(conn, GET);
                host.exchange(&mut laptop);
                let answer = host.receive(conn);
                refused += u64::from(answer.contains("503 ") && answer.contains("after: 1"));
            }
            assert!(refused > 0);
            counted(&mut host, reason, refused);
        }
    }

    #[test]
    fn who_the_client_refuses_and_who_finds_it_away_are_counted() {
        for away in [true, false] {
            let mut host = Host::new(guarded());
            let mut laptop = host.laptop("192.0.2.1:1000");
            let conn = host
                .visit_at(host.bound[0], "192.0.2.2:1")
                .expect("a place");
            if away {
                let (conn, how) = (laptop.conn, Ended::Reset);
                host.kit.handle(Event::Ended { conn, how }, host.now);
                host.settle();
            }
            host.send(conn, GET);
            if !away {
                host.exchange(&mut laptop);
                let stream = laptop.streams[0];
                laptop.mux.reset(stream, Code::RefusedStream, "no");
                host.exchange(&mut laptop);
            }
            assert!(host.receive(conn).starts_with("HTTP/1.1 503 "));
            counted(&mut host, ["client", "away"][usize::from(away)], 1);
        }
    }
}
