//! One receiving end alone: what it gives back early, when others are short, and who is cut.

use super::*;
use crate::limits::{
    CUT_STALLED_AFTER, CUT_STALLED_LATEST, DRY_AFTER, DRY_BELOW, EARLY_KEEPS_PIECES_OF,
    PROBE_STILL_EVERY, PROBES_AT_ONCE, SLOW_READS,
};
use crate::mux::share::leave;

const WINDOW: u32 = 16 << 20;

/// What the peer is to find left.
fn keep() -> u32 {
    leave(EARLY_KEEPS_PIECES_OF, WINDOW)
}

/// A client's session that holds what its tests say.
fn alone() -> Session<u32> {
    let terms = Terms {
        stream_window: WINDOW,
        session_window: WINDOW,
        max_streams: 2 * PROBES_AT_ONCE,
        ..terms(Side::Client)
    };
    let mut mux = Session::new(terms, Instant::ZERO);
    let masks = Entropy::from_seed(1);
    mux.attach(0, Transport::client(conn(0), masks, Instant::ZERO));
    mux
}

/// A stream of the peer's, of whose DATA the local side has not taken `count` bytes.
fn holder(mux: &mut Session<u32>, count: u32) -> StreamKey {
    let id = 2 + 2 * mux.streams().len() as u32;
    let key = mux.insert(id, 0, id, Instant::ZERO).expect("a place");
    hold(mux, key, count);
    key
}

fn hold(mux: &mut Session<u32>, key: StreamKey, count: u32) {
    let stream = mux.streams.get_mut(key).expect("it lives");
    stream.bytes_in += u64::from(count);
    stream.recv.receive(count).expect("within its window");
    mux.receiving
        .credit
        .receive(count)
        .expect("within the session's");
}

fn early(mux: &Session<u32>, key: StreamKey) -> u32 {
    mux.streams.get(key).expect("it lives").early
}

#[test]
fn a_session_that_gave_nothing_early_and_grew_by_nothing_costs_no_more_than_its_window() {
    let mut mux = alone();
    assert_eq!(mux.beyond_window(), 0);
    let key = holder(&mut mux, WINDOW);
    mux.set_budget(1000);
    mux.relieve(key, Instant::ZERO);
    assert_eq!((mux.beyond_window(), early(&mux, key)), (1000, 1000));
    mux.receiving.credit.grow(500);
    assert_eq!(mux.beyond_window(), 1500);
}

#[test]
fn all_streams_are_looked_over_only_where_much_is_missing_and_to_be_had() {
    let much = keep() / 4;
    for (missing, budget, given) in [
        (much + 1, much + 1, much + 1),
        (much, WINDOW, 0),
        (much + 1, much, 0),
        (2 * much, WINDOW, 2 * much),
    ] {
        let mut mux = alone();
        let big = holder(&mut mux, WINDOW - keep() + missing);
        let empty = holder(&mut mux, 0);
        mux.set_budget(budget);
        mux.relieve(empty, Instant::ZERO);
        assert_eq!(early(&mux, big), given, "{missing} missing of {budget}");
        mux.check_invariants();
    }
}

#[test]
fn a_session_that_is_not_contended_gives_nothing_early() {
    // So small a window that what is to be left is more than half of it.
    let window = 64 * 1024;
    let terms = Terms {
        stream_window: window,
        session_window: window,
        ..terms(Side::Client)
    };
    for (held, is_given) in [(window / 2, false), (window / 2 + 1, true)] {
        assert!(window - held < leave(EARLY_KEEPS_PIECES_OF, window));
        let mut mux = Session::new(terms, Instant::ZERO);
        let key = holder(&mut mux, held);
        mux.set_budget(WINDOW);
        mux.relieve(key, Instant::ZERO);
        assert_eq!(early(&mux, key) != 0, is_given, "{held}");
    }
}

#[test]
fn whoever_holds_most_that_was_not_given_back_makes_it_good() {
    let mut mux = alone();
    mux.set_budget(WINDOW);
    let large = holder(&mut mux, WINDOW);
    let other = holder(&mut mux, 0);
    // The large one makes good all that the other comes to hold.
    while mux.streams.get(other).unwrap().recv.buffered() <= WINDOW - early(&mux, large) {
        mux.relieve(large, Instant::ZERO);
        let left = mux.receiving.credit.left();
        assert_eq!(left, keep());
        hold(&mut mux, other, left);
    }
    assert_eq!(early(&mux, other), 0);
    let before = early(&mux, large);
    mux.set_budget(mux.beyond_window() + 100);
    assert!(!mux.relieve_all());
    assert_eq!((early(&mux, large), early(&mux, other)), (before, 100));
    mux.check_invariants();
}

#[test]
fn others_are_short_where_one_has_nothing_to_pass_on_and_its_peer_may_still_send() {
    let mut mux = alone();
    assert!(!mux.somebody_is_short());
    holder(&mut mux, 5);
    assert!(!mux.somebody_is_short());
    let empty = holder(&mut mux, 0);
    assert!(mux.somebody_is_short());
    mux.streams.get_mut(empty).unwrap().finish_remote();
    assert!(!mux.somebody_is_short());
}

#[test]
fn a_newcomer_that_was_refused_is_short_until_there_is_credit_again() {
    for (left, dry) in [(DRY_BELOW, false), (DRY_BELOW - 1, true)] {
        let mut mux = alone();
        let key = holder(&mut mux, WINDOW - left);
        mux.relieve(key, Instant::ZERO);
        let later = Instant::ZERO + DRY_AFTER;
        assert!(!mux.refuses_newcomers(Instant::ZERO));
        assert!(!mux.somebody_is_short());
        assert_eq!(mux.refuses_newcomers(later), dry);
        assert_eq!(mux.somebody_is_short(), dry);
        mux.passed_on(key, DRY_BELOW as usize, later);
        assert!(!mux.refuses_newcomers(later));
        assert!(!mux.somebody_is_short());
    }
}

#[test]
fn small_credit_of_a_stream_goes_back_at_once_only_where_the_session_is_contended() {
    for (held, windows) in [(1000, 0), (WINDOW / 2 + 1, 1)] {
        let mut mux = alone();
        holder(&mut mux, held);
        let key = holder(&mut mux, 300);
        mux.relieve(key, Instant::ZERO);
        let before = mux.traffic().frames_out;
        mux.passed_on(key, 300, Instant::ZERO);
        assert_eq!(mux.traffic().frames_out - before, windows, "{held}");
    }
}

#[test]
fn nobody_needs_to_be_cut_where_nothing_is_missing_or_nobody_is_short() {
    let mut mux = alone();
    let key = holder(&mut mux, WINDOW - keep());
    let empty = holder(&mut mux, 0);
    assert!(mux.relieve_stalled(), "what is to be left is left");
    hold(&mut mux, key, 1);
    assert!(!mux.relieve_stalled());
    mux.set_budget(1);
    assert!(mux.relieve_stalled(), "memory makes it good");
    hold(&mut mux, key, 1);
    assert!(!mux.relieve_stalled());
    mux.streams.get_mut(empty).unwrap().finish_remote();
    assert!(mux.relieve_stalled(), "nobody else wants any");
}

#[test]
fn who_stalls_has_something_to_take_and_took_nothing_for_long() {
    let mut mux = alone();
    holder(&mut mux, 0);
    let late = Instant::ZERO + CUT_STALLED_AFTER;
    assert_eq!(mux.longest_stalled(late), None);
    let key = holder(&mut mux, 1);
    let almost = Instant::ZERO + (CUT_STALLED_AFTER - Duration::from_nanos(1));
    assert_eq!(mux.longest_stalled(almost), None);
    assert_eq!(mux.longest_stalled(late), Some((Instant::ZERO, key)));
}

#[test]
#[should_panic(expected = "streams and session disagree")]
fn a_session_that_lost_bytes_of_its_streams_is_noticed() {
    let mut mux = alone();
    mux.receiving.credit.receive(1).expect("within its window");
    mux.check_invariants();
}

/// A stream of whose DATA the local side took so much, and so much it has not.
fn taker(mux: &mut Session<u32>, took: u32, count: u32) -> StreamKey {
    let key = holder(mux, count);
    write(mux, key, took, Instant::ZERO);
    key
}

/// DATA comes, and the local side's socket takes it.
fn write(mux: &mut Session<u32>, key: StreamKey, count: u32, now: Instant) {
    hold(mux, key, count);
    mux.passed_on(key, count as usize, now);
}

#[test]
fn it_is_asked_of_streams_that_look_still_now_and_then_and_of_few_at_once() {
    let mut mux = alone();
    for _ in 0..PROBES_AT_ONCE {
        holder(&mut mux, 1);
    }
    holder(&mut mux, 0);
    let now = Instant::ZERO + PROBE_STILL_EVERY;
    let almost = Instant::ZERO + (PROBE_STILL_EVERY - Duration::from_nanos(1));
    assert!(mux.streams_mut().who_looks_still(almost).is_empty());
    assert_eq!(mux.streams_mut().who_looks_still(now).len(), PROBES_AT_ONCE);
    assert!(
        mux.streams_mut().who_looks_still(now).is_empty(),
        "asked already"
    );
    let new = holder(&mut mux, 1);
    let new = mux.streams.get(new).expect("it lives").tag;
    let later = now + PROBE_STILL_EVERY;
    let asked = mux.streams_mut().who_looks_still(later);
    assert_eq!(asked.first(), Some(&new), "not asked of for the longest");
    assert_eq!(
        mux.streams_mut().who_looks_still(later).len(),
        1,
        "the rest"
    );
}

#[test]
fn whose_system_takes_some_has_not_stalled_although_nothing_is_written() {
    let mut mux = alone();
    let key = taker(&mut mux, 100_000, 1);
    let soon = Instant::ZERO + CUT_STALLED_AFTER / 2;
    let late = Instant::ZERO + CUT_STALLED_AFTER;
    assert!(
        !mux.streams_mut().system_holds(key, 100_000, soon),
        "it took none"
    );
    assert_eq!(mux.longest_stalled(late), Some((Instant::ZERO, key)));
    assert!(mux.streams_mut().system_holds(key, 99_999, soon));
    assert!(
        !mux.streams_mut().system_holds(key, 99_999, late),
        "no more than before"
    );
    assert_eq!(mux.streams().last_moved(key), Some(soon));
    assert_eq!(mux.longest_stalled(late), None);
    let last = soon + CUT_STALLED_AFTER;
    assert_eq!(mux.longest_stalled(last), Some((soon, key)));
    // What is written meanwhile does not hide what is taken.
    write(&mut mux, key, 50_000, late);
    assert!(!mux.streams_mut().system_holds(key, 149_999, last));
    assert!(mux.streams_mut().system_holds(key, 149_998, last));
}

#[test]
fn who_took_much_at_once_has_as_long_as_it_lasts_a_slow_reader() {
    let buffer = 128 * 1024;
    let lasts = Duration::from_secs(u64::from(buffer) / SLOW_READS);
    for (took, patience) in [
        (1, CUT_STALLED_AFTER),
        (buffer, lasts),
        (8 << 20, CUT_STALLED_LATEST),
    ] {
        let mut mux = alone();
        let key = taker(&mut mux, took, 1);
        assert!(mux.streams_mut().system_holds(key, 0, Instant::ZERO));
        assert_eq!(mux.streams().patience(key), patience);
        let almost = Instant::ZERO + (patience - Duration::from_nanos(1));
        assert_eq!(mux.longest_stalled(almost), None);
        assert!(mux.longest_stalled(Instant::ZERO + patience).is_some());
        // A smaller step does not tell that no large one follows.
        write(&mut mux, key, 1, Instant::ZERO);
        assert!(mux.streams_mut().system_holds(key, 0, Instant::ZERO));
        assert_eq!(mux.streams().patience(key), patience);
    }
}
