//! Whether the kit is reached, and when to try again.
//!
//! Decisions only: connections are made in `lanes.rs`.

use std::time::Duration;

use crate::client::Error;
use crate::client::reach::failure::Failure;
use crate::clock::Instant;
use crate::entropy::Entropy;
use crate::limits::{
    COMING_BACK, QUICK_TRIES, REACH_WITHIN, RETRY_FIRST, RETRY_MAX, RETRY_SOON, STABLE_AFTER,
    STEP_WITHIN, STOOD_AFTER,
};
use crate::wire::control::SessionId;

/// How far reaching the kit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Stage {
    /// Between two tries.
    Waiting,
    /// A try is under way.
    Reaching,
    /// The session stands, since then.
    Online(Instant),
    /// The session stands no more, and another machine reaches the kit; streams finish here.
    Departing,
    /// It was online and asked to end; no further try.
    Closing,
    /// There is no further try.
    Over,
}

/// What follows a failure.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) enum After {
    /// Another try, after a pause.
    Retry(Duration),
    /// The end.
    GiveUp(Error),
}

/// See the module.
#[derive(Debug)]
pub(in crate::client) struct Retry {
    pub stage: Stage,
    /// A session stood at some time.
    pub ever_online: bool,
    /// The session to come back to.
    pub session: Option<SessionId>,
    /// The one before, which did not come back.
    pub lost: Option<SessionId>,
    /// A way to the kit may be open later, of those tried in this round.
    hopeful: bool,
    /// Tries since it was last online.
    attempt: u32,
    /// Failures in a row, without a session in between that was stable or came back.
    failures: u32,
    /// Since when there is no session.
    offline_since: Instant,
    retry_for: Option<Duration>,
}

impl Retry {
    pub(crate) fn new(
        retry_for: Option<Duration>,
        session: Option<SessionId>,
        now: Instant,
    ) -> Retry {
        Retry {
            stage: Stage::Waiting,
            ever_online: false,
            session,
            lost: None,
            hopeful: false,
            attempt: 0,
            failures: 0,
            offline_since: now,
            retry_for,
        }
    }

    /// A try begins; says which one it is.
    pub(crate) fn reach(&mut self) -> u32 {
        self.stage = Stage::Reaching;
        self.attempt += 1;
        self.attempt
    }

    /// How long a step on the way to the kit may take. A session that was there a moment ago is
    /// worth a fresh try; where those fail too, the way may just be that slow.
    pub(crate) fn step_within(&self) -> Duration {
        match self.ever_online && self.failures <= QUICK_TRIES {
            true => REACH_WITHIN,
            false => STEP_WITHIN,
        }
    }

    /// The session stands. Says whether it is the one that was there before.
    pub(crate) fn online(&mut self, id: SessionId, resumed: bool, now: Instant) -> bool {
        let same = resumed && self.session.as_ref() == Some(&id);
        if same {
            // The kit is well, and so is the way to it: what cuts us off is not to be waited out.
            self.failures = 0;
        }
        self.stage = Stage::Online(now);
        self.ever_online = true;
        self.attempt = 0;
        self.lost = match same {
            true => None,
            false => self.session.take(),
        };
        self.session = Some(id);
        same
    }

    /// Whether the session is another process's by now: the kit had let us in before, and closes
    /// like this when the session is asked for, because another HELLO came later (PROTOCOL §9).
    pub(crate) fn is_taken(&self, failure: &Failure) -> bool {
        let asked = self.stage == Stage::Reaching && self.ever_online && self.session.is_some();
        asked && matches!(failure, Failure::Closed(Some(1008)))
    }

    /// What a failure means to us. A session that is taken is not asked for again; a kit that
    /// closes the next try in the same way means the token.
    pub(crate) fn understood(&mut self, failure: &Failure) -> Failure {
        if !self.is_taken(failure) {
            return failure.clone();
        }
        self.session = None;
        Failure::Taken
    }

    /// A try failed, or the session lost its connection. `more` says that there is a way to the kit
    /// that was not tried yet.
    pub(crate) fn failure(
        &mut self,
        failure: &Failure,
        more: bool,
        entropy: &mut Entropy,
        now: Instant,
    ) -> After {
        let was = std::mem::replace(&mut self.stage, Stage::Over);
        if let Stage::Online(since) = was {
            self.offline_since = now;
            if now >= since + STABLE_AFTER {
                self.failures = 0;
            }
        }
        if matches!(was, Stage::Closing | Stage::Departing | Stage::Over) {
            return After::GiveUp(Error::Closed("the session was closed".into()));
        }
        let is_fatal = failure.is_fatal(self.ever_online);
        self.hopeful |= !is_fatal;
        if was == Stage::Reaching && more && !failure.is_the_kits_last_word() {
            self.stage = Stage::Waiting;
            return After::Retry(Duration::ZERO);
        }
        // Where several ways lead to the kit, one that is closed for good is not the end.
        let hopeful = std::mem::take(&mut self.hopeful);
        if is_fatal && (!hopeful || failure.is_the_kits_last_word()) {
            return After::GiveUp(failure.error());
        }
        // While the session waits for us in the kit, every second counts.
        let most = match self.session.is_some() && now < self.offline_since + COMING_BACK {
            true => RETRY_SOON,
            false => RETRY_MAX,
        };
        let pause = match (was, self.failures) {
            // It will be there again in no time; a kit that never is has no second such favour.
            (Stage::Online(_), 0) if failure.is_restart() => Duration::ZERO,
            // A kit that is angry with us is left alone for a moment.
            (_, many) if failure.is_quarrel() => pause(many.max(2), RETRY_MAX, entropy),
            // What stood for a while is most likely there again at once.
            (Stage::Online(since), 0) if now >= since + STOOD_AFTER => Duration::ZERO,
            (_, failures) => pause(failures, most, entropy),
        };
        self.failures = self.failures.saturating_add(1);
        if let Some(span) = self.retry_for
            && now + pause > self.offline_since + span
        {
            return After::GiveUp(match self.ever_online {
                true => Error::Lost(format!("{}; gave up after {span:?}", failure.error())),
                false => failure.error(),
            });
        }
        self.stage = Stage::Waiting;
        After::Retry(pause)
    }

    /// The network changed: the pauses begin small again.
    pub(crate) fn refresh(&mut self) {
        self.failures = 0;
    }
}

/// The pause after so many failures before: doubling up to a bound, and jittered by half so that
/// clients which lost the same kit at the same moment do not come back at the same moment.
fn pause(failures: u32, most: Duration, entropy: &mut Entropy) -> Duration {
    let full = RETRY_FIRST.saturating_mul(1 << failures.min(10)).min(most);
    let half = full / 2;
    let jitter = entropy.below(half.as_millis().max(1) as u32);
    half + Duration::from_millis(jitter.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Ended;

    const LOST: Failure = Failure::Dropped(Ended::Reset);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_session_that_another_process_has_is_not_asked_for_again_and_the_token_is_no_matter() {
        const CLOSED: Failure = Failure::Closed(Some(1008));
        let id = || SessionId::new("S-1");
        let mut entropy = Entropy::from_seed(1);
        let mut fails = |retry: &mut Retry| {
            retry.reach();
            let failure = retry.understood(&CLOSED);
            retry.failure(&failure, false, &mut entropy, at(0))
        };
        let is_about_the_token = |after| matches!(after, After::GiveUp(Error::Auth(_)));
        let mut retry = Retry::new(None, Some(id()), at(0));
        assert!(is_about_the_token(fails(&mut retry)), "never let in");
        let mut retry = Retry::new(None, None, at(0));
        retry.reach();
        retry.online(id(), false, at(0));
        retry.failure(&LOST, false, &mut Entropy::from_seed(1), at(0));
        assert!(matches!(fails(&mut retry), After::Retry(_)));
        assert_eq!((&retry.session, &retry.lost), (&None, &None));
        assert!(is_about_the_token(fails(&mut retry)), "it is no session's");
    }

    #[test]
    fn pauses_double_up_to_their_bound_and_vary() {
        let mut entropy = Entropy::from_seed(3);
        let mut link = Retry::new(None, None, at(0));
        let mut last = Duration::ZERO;
        for round in 0..40 {
            assert_eq!(link.reach(), round + 1);
            let After::Retry(pause) = link.failure(&LOST, false, &mut entropy, at(0)) else {
                panic!("gave up after {round} rounds");
            };
            assert!(pause >= RETRY_FIRST / 2 && pause <= RETRY_MAX);
            last = pause;
        }
        assert!(last >= RETRY_MAX / 2);
    }

    #[test]
    fn a_stable_session_is_dialled_again_at_once_and_a_flapping_one_is_not() {
        let mut entropy = Entropy::from_seed(3);
        let mut link = Retry::new(None, None, at(0));
        link.reach();
        link.online(SessionId::new("S-1"), false, at(0));
        let after = link.failure(&LOST, false, &mut entropy, at(60_000));
        assert_eq!(after, After::Retry(Duration::ZERO));
        link.reach();
        assert!(link.online(SessionId::new("S-1"), true, at(60_000)));
        let After::Retry(pause) = link.failure(&LOST, false, &mut entropy, at(60_100)) else {
            panic!("gave up");
        };
        assert!(pause >= RETRY_FIRST / 2);
    }

    #[test]
    fn whatever_cuts_a_session_that_comes_back_is_never_waited_out() {
        let mut entropy = Entropy::from_seed(3);
        let mut link = Retry::new(None, None, at(0));
        link.reach();
        link.online(SessionId::new("S-1"), false, at(0));
        let mut now = at(2000);
        for stood in [2000, 1000, 2000, 100, 0, 0, 0, 2000] {
            let After::Retry(pause) = link.failure(&LOST, false, &mut entropy, now) else {
                panic!("gave up");
            };
            assert!(pause <= RETRY_FIRST, "{pause:?}");
            link.reach();
            assert!(link.online(SessionId::new("S-1"), true, now + pause));
            now = now + pause + Duration::from_millis(stood);
        }
        assert_eq!(
            link.failure(&LOST, false, &mut entropy, now),
            After::Retry(Duration::ZERO)
        );
    }

    #[test]
    fn a_lost_session_is_looked_for_every_second_while_it_may_be_there() {
        let mut entropy = Entropy::from_seed(3);
        let mut link = Retry::new(None, None, at(0));
        link.reach();
        link.online(SessionId::new("S-1"), false, at(0));
        let (lost, mut now) = (at(10_000), at(10_000));
        let mut longest = Duration::ZERO;
        while now < lost + 2 * COMING_BACK {
            let After::Retry(pause) = link.failure(&LOST, false, &mut entropy, now) else {
                panic!("gave up");
            };
            assert!(
                pause <= RETRY_SOON || now >= lost + COMING_BACK,
                "{pause:?}"
            );
            longest = longest.max(pause);
            now = now + pause;
            link.reach();
        }
        assert!(longest > 2 * RETRY_SOON, "a dead kit is left alone");
        let quarrel = Failure::Goaway {
            code: crate::wire::code::Code::ProtocolError,
            message: String::new(),
            is_final: None,
        };
        let again = link.failure(&quarrel, false, &mut entropy, now);
        assert!(
            matches!(again, After::Retry(pause) if pause > RETRY_SOON),
            "{again:?}"
        );
    }

    #[test]
    fn retry_for_counts_from_the_loss() {
        let mut entropy = Entropy::from_seed(3);
        let mut link = Retry::new(Some(Duration::from_secs(30)), None, at(0));
        link.reach();
        link.online(SessionId::new("S-1"), false, at(10_000));
        assert!(matches!(
            link.failure(&LOST, false, &mut entropy, at(50_000)),
            After::Retry(_)
        ));
        link.reach();
        assert!(matches!(
            link.failure(&LOST, false, &mut entropy, at(60_000)),
            After::Retry(_)
        ));
        link.reach();
        let After::GiveUp(error) = link.failure(&LOST, false, &mut entropy, at(81_000)) else {
            panic!("went on");
        };
        assert_eq!(error.kind(), "lost");
        assert_eq!(link.stage, Stage::Over);
    }
}
