//! What every part of the kit uses and none of them is about.
//!
//! A part is handed the [`Context`] beside what it needs of others, so that no part needs the
//! [`Kit`](super::Kit). It holds no table: whoever looks for state finds it in a part.

use std::net::IpAddr;

use log::Level;

use crate::clock::Instant;
use crate::effects::Effects;
use crate::entropy::Entropy;
use crate::http::HttpDate;
use crate::kit::config::Config;
use crate::kit::memory::Plan;
use crate::kit::metrics::{Metrics, RefusalReason, StreamOutcome, StreamRefusal};
use crate::kit::repeats::{Complaint, Repeats, tell};
use crate::limits::VISITOR_AHEAD;
use crate::machine::ConnKey;
use crate::text::said;

use super::{KitNotice, Reason, Stopping};

/// See the module.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
    /// What the memory in `config` carries.
    pub(super) plan: Plan,
    pub(super) entropy: Entropy,
    pub(super) effects: Effects<KitNotice, Reason>,
    pub(super) metrics: Metrics,
    repeats: Repeats,
    /// Where heads and small bodies are read before it is known whose they are.
    pub(super) scratch: Vec<u8>,
    /// Where JSON and HTTP heads are written before they are queued.
    pub(super) text: Vec<u8>,
    pub(super) stopping: Stopping,
    pub(super) now: Instant,
    /// The second by the wall clock, where the host has one.
    pub(super) date: Option<HttpDate>,
    /// Names this process, once somebody wants to know.
    instance: Option<String>,
}

impl Context {
    pub(super) fn new(config: Config, entropy: Entropy, now: Instant) -> Context {
        Context {
            instance: None,
            plan: config.memory_plan(),
            config,
            entropy,
            effects: Effects::new(),
            metrics: Metrics::new(),
            repeats: Repeats::default(),
            scratch: Vec::new(),
            text: Vec::new(),
            stopping: Stopping::No,
            now,
            date: None,
        }
    }

    /// Names this process for clients that reach it by several ways (PROTOCOL §9).
    pub(super) fn instance(&mut self) -> String {
        let entropy = &mut self.entropy;
        let fresh = || format!("{:016x}", u64::from_be_bytes(entropy.octets()));
        self.instance.get_or_insert_with(fresh).clone()
    }

    /// Where small things are read: heads, chunked bodies, what is thrown away.
    pub(super) fn scratch_space(&mut self) -> &mut [u8] {
        if self.scratch.is_empty() {
            self.scratch = vec![0; VISITOR_AHEAD];
        }
        &mut self.scratch
    }

    /// A connection is looked at again then.
    pub(super) fn arm_conn(&mut self, conn: ConnKey, at: Instant) {
        self.effects.timers.arm(Reason::Conn(conn), at);
    }

    /// Sees to it that a connection is looked at by then.
    pub(super) fn arm_conn_by(&mut self, conn: ConnKey, at: Instant) {
        let due = self.effects.timers.deadline(Reason::Conn(conn));
        if due.is_none_or(|due| at < due) {
            self.arm_conn(conn, at);
        }
    }

    /// A connection is half-closed.
    pub(super) fn finish(&mut self, conn: ConnKey) {
        self.effects.finish(conn);
        self.effects.wake(conn);
    }

    /// Tells the log of something that may come a thousand times a second. `detail` says who and
    /// why; what is not ours in it has been through [`said`].
    pub(super) fn complain(&mut self, complaint: Complaint, detail: &str) {
        let what = complaint.what;
        if self.repeats.note(complaint, detail, self.now) {
            log::log!(complaint.level, "{what} {detail}");
        } else {
            log::debug!("{what} {detail}");
        }
        self.arm_sums();
    }

    /// A stranger was sent away: the log's line for it.
    pub(super) fn complain_refused(&mut self, peer: IpAddr, reason: &'static str, why: &str) {
        let complaint = Complaint {
            level: Level::Info,
            what: "refused",
            reason,
        };
        self.complain(complaint, &format!("{peer}: {}", said(why)));
    }

    /// A handshake was refused: counted, and told.
    pub(super) fn refused(&mut self, peer: IpAddr, reason: RefusalReason, why: &str) {
        self.metrics.refused(reason);
        self.complain_refused(peer, reason.name(), why);
    }

    /// What the operator should know of what the memory carries.
    pub(super) fn memory_note(&self) -> Option<String> {
        let Config {
            memory,
            max_sessions,
            session_initial_window,
            ..
        } = self.config;
        self.plan.note(memory, max_sessions, session_initial_window)
    }

    /// There is no stream for a visitor or caller at `peer`.
    pub(super) fn stream_refused(&mut self, peer: IpAddr, why: StreamRefusal) {
        self.metrics.stream_refused(why);
        if why != StreamRefusal::Client {
            // The client's refusal is how a stream ended that was open here, and counted as such.
            self.metrics.stream_ended(StreamOutcome::Refused);
        }
        self.complain_refused(peer, why.name(), why.sentence());
    }

    pub(super) fn tell_sums(&mut self) {
        tell(self.repeats.due(self.now));
        self.arm_sums();
    }

    /// The last sums, at the end.
    pub(super) fn tell_all_sums(&mut self) {
        tell(self.repeats.all(self.now));
        self.effects.timers.disarm(Reason::Sums);
    }

    fn arm_sums(&mut self) {
        if let Some(at) = self.repeats.next() {
            self.effects.timers.arm_if_unset(Reason::Sums, at);
        }
    }
}
