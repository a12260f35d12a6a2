//! Nothing is lost with a connection (PROTOCOL §9).

use super::*;
use crate::mux::{CannotOpen, Retention, Wanted};

fn keeping(side: Side, keeps: u32, lanes: u32) -> Terms {
    Terms {
        replay: Some(Retention {
            keeps,
            most: keeps,
            peer_keeps: keeps,
            lanes,
        }),
        ..terms(side)
    }
}

pub(super) fn pair(cut: Cut, keeps: u32, lanes: usize) -> Pair {
    let of = |side| keeping(side, keeps, lanes as u32);
    Pair::with(cut, of(Side::Kit), of(Side::Client), lanes)
}

impl End {
    pub(super) fn give_up(&mut self, lane: usize, now: Instant) {
        self.mux.suspend(lane, now);
        self.awake.remove(&lane);
        self.settle(now);
    }

    pub(super) fn resume(&mut self, lane: usize, received: u64, now: Instant) {
        let transport = self.transport(lane, now);
        assert!(
            self.mux.lanes().can_resume(lane, received),
            "{received} cannot be met"
        );
        self.mux.resume(lane, transport, received, now);
        self.settle(now);
    }

    /// What is to be seen of the streams that the peer opened, in order for each.
    fn assert_seen_once(&self) {
        let mut ended = BTreeSet::new();
        for seen in &self.seen {
            match seen {
                Seen::Eof(id) => assert!(ended.insert(*id), "a second EOF on {id}"),
                Seen::Reset(_, _, violation) => assert!(!violation, "{seen:?}"),
                Seen::Opened(id, _)
                | Seen::Head(id, _)
                | Seen::Trailers(id, _)
                | Seen::Connected(id, _) => {
                    assert!(!ended.contains(id), "{seen:?} after EOF");
                }
                Seen::Control(..) | Seen::Closed(_) => {}
            }
        }
        let opened = |seen: &Seen| matches!(seen, Seen::Opened(..));
        let all: Vec<&Seen> = self.seen.iter().filter(|seen| opened(seen)).collect();
        let mut once = all.clone();
        once.sort_by_key(|seen| format!("{seen:?}"));
        once.dedup();
        assert_eq!(all.len(), once.len(), "a stream was opened twice");
    }
}

impl Pair {
    /// The lane is lost to both at once, and comes back.
    fn cut(&mut self, lane: usize) {
        self.kit.give_up(lane, self.now);
        self.client.give_up(lane, self.now);
        self.come_back(lane);
    }

    pub(super) fn come_back(&mut self, lane: usize) {
        let counts = (
            self.kit.mux.lanes().received(lane),
            self.client.mux.lanes().received(lane),
        );
        self.client.resume(lane, counts.0, self.now);
        self.kit.resume(lane, counts.1, self.now);
    }

    /// Runs until nothing moves any more, also not with time.
    pub(super) fn run_dry(&mut self) {
        for _ in 0..10 {
            self.run();
            self.pass_time(Duration::from_millis(60));
            self.kit.mux.lanes_mut().acknowledge_all(self.now);
            self.client.mux.lanes_mut().acknowledge_all(self.now);
        }
        self.run();
    }

    /// Asserts that each end may send exactly what the other granted, and nothing is kept.
    pub(super) fn assert_whole(&self) {
        for (from, to) in [(&self.kit, &self.client), (&self.client, &self.kit)] {
            let (from, to) = (&from.mux, &to.mux);
            assert_eq!(
                from.sending.credit.available(),
                to.receiving.credit.granted(),
                "session credit"
            );
            assert_eq!(
                to.receiving.credit.left(),
                to.receiving.credit.window(),
                "credit was lost"
            );
            for (_, stream) in from.streams.iter() {
                let Some(key) = to.streams.key_of(stream.id) else {
                    continue;
                };
                let peer = to.streams.get(key).expect("it lives");
                if peer.remote_done() {
                    continue;
                }
                assert_eq!(stream.send.available(), peer.recv.granted());
            }
            for channel in &from.lanes.channels {
                let kept = channel.replay().map(|replay| replay.retained());
                assert_eq!(kept, Some(0), "what was acknowledged is kept");
                assert!(!channel.is_down() && channel.is_flushed());
            }
        }
    }
}

/// A little of everything, in both directions.
fn begin(pair: &mut Pair) -> (u32, u32) {
    let now = pair.now;
    pair.kit
        .mux
        .lanes_mut()
        .push_control(FrameType::BindOk, b"{\"a\":1}");
    let down = pair.kit.open(pattern(1, 700), true, now);
    let up = pair.client.open(pattern(2, 900), true, now);
    pair.client
        .mux
        .lanes_mut()
        .push_control(FrameType::Unbind, b"{}");
    (down, up)
}

#[test]
fn a_connection_that_is_cut_at_any_byte_costs_nothing() {
    for from in [Side::Kit, Side::Client] {
        for at in 0.. {
            let mut pair = pair(Cut::Whole, 1 << 20, 1);
            let (down, up) = begin(&mut pair);
            pair.lets_through[from as usize] = at;
            pair.run();
            let got_all = pair.lets_through[from as usize] > 0;
            pair.lets_through = [usize::MAX; 2];
            pair.cut(0);
            let key = pair.client.keys.get(&down).copied();
            if let Some(key) = key {
                pair.client.mux.send_head(key, b"{}", pair.now);
            }
            pair.run_dry();
            assert!(pair.client.got[&down] == pattern(1, 700), "{from:?} {at}");
            assert!(pair.kit.got[&up] == pattern(2, 900), "{from:?} {at}");
            for end in [&pair.kit, &pair.client] {
                assert_eq!(end.fault, None, "{from:?} {at}");
                end.assert_seen_once();
            }
            let controls = |end: &End| {
                let is = |seen: &&Seen| matches!(seen, Seen::Control(..));
                end.seen.iter().filter(is).count()
            };
            assert_eq!((controls(&pair.kit), controls(&pair.client)), (1, 1));
            pair.assert_whole();
            if got_all {
                assert!(at > 700, "the cut was never in the middle");
                break;
            }
        }
    }
}

/// What a storm of cuts does to several lanes full of streams.
struct Storm {
    pair: Pair,
    dice: Entropy,
    lanes: usize,
    /// Streams by id, with what they send, from the kit and from the client.
    sent: [BTreeMap<u32, Vec<u8>>; 2],
    reset: BTreeSet<u32>,
    /// Lanes that one end has given up.
    down: BTreeSet<usize>,
    /// Added to each count that the kit states.
    planted: i64,
    /// A count could not be met.
    refused: bool,
}

impl Storm {
    fn new(seed: u64) -> Storm {
        let mut dice = Entropy::from_seed(seed);
        let lanes = 1 + dice.below(4) as usize;
        let keeps = [512 << 10, 128 << 10, 4 << 20][dice.below(3) as usize];
        Storm {
            pair: pair(Cut::Random(seed), keeps, lanes),
            dice,
            lanes,
            sent: Default::default(),
            reset: BTreeSet::new(),
            down: BTreeSet::new(),
            planted: 0,
            refused: false,
        }
    }

    fn open(&mut self) {
        let now = self.pair.now;
        let len = match self.dice.below(4) {
            0 => self.dice.below(400_000),
            _ => self.dice.below(3000),
        };
        let from_kit = self.dice.below(2) == 0;
        let end = match from_kit {
            true => &mut self.pair.kit,
            false => &mut self.pair.client,
        };
        let Ok(key) = end.mux.open(0, b"{}", now) else {
            return;
        };
        let id = end.mux.streams.resolve_mut(key).id;
        end.mux.streams.resolve_mut(key).tag = id;
        end.keys.insert(id, key);
        end.source(id, pattern(id, len as usize), true);
        self.sent[usize::from(!from_kit)].insert(id, pattern(id, len as usize));
    }

    /// Has an end answer a stream that the other one opened, and its EOF.
    fn answer(&mut self) {
        let ids: Vec<u32> = self.sent[0].keys().copied().collect();
        for id in ids {
            let end = &mut self.pair.client;
            if end.keys.contains_key(&id) && !self.sent[1].contains_key(&id) {
                let key = end.keys[&id];
                end.mux.send_head(key, b"{\"status\":200}", self.pair.now);
                let bytes = pattern(id + 7, self.dice.below(200_000) as usize);
                end.source(id, bytes.clone(), true);
                self.sent[1].insert(id, bytes);
            }
        }
    }

    fn cut_one(&mut self) {
        let lane = self.dice.below(self.lanes as u32) as usize;
        let now = self.pair.now;
        if !self.down.insert(lane) {
            return;
        }
        // Who notices first, and what of the wire still arrives, is anybody's guess.
        match self.dice.below(3) {
            0 => self.pair.client.give_up(lane, now),
            1 => self.pair.kit.give_up(lane, now),
            _ => {
                self.pair.kit.give_up(lane, now);
                self.pair.client.give_up(lane, now);
            }
        }
    }

    fn mend_one(&mut self) {
        let Some(lane) = self.down.pop_first() else {
            return;
        };
        let now = self.pair.now;
        for end in [&mut self.pair.kit, &mut self.pair.client] {
            if end.mux.lanes().get(lane).is_some() {
                end.give_up(lane, now);
            }
        }
        let counts = (
            self.pair
                .kit
                .mux
                .lanes()
                .received(lane)
                .saturating_add_signed(self.planted),
            self.pair.client.mux.lanes().received(lane),
        );
        if !self.pair.client.mux.lanes().can_resume(lane, counts.0) {
            self.refused = true;
            return;
        }
        self.pair.client.resume(lane, counts.0, now);
        self.pair.kit.resume(lane, counts.1, now);
    }

    fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            match self.dice.below(12) {
                0..=2 => self.open(),
                3 => self.answer(),
                4 | 5 => self.cut_one(),
                6 | 7 => self.mend_one(),
                8 => {
                    self.pair.pass_time(Duration::from_millis(20));
                    self.pair.kit.mux.lanes_mut().acknowledge_all(self.pair.now);
                    self.pair
                        .client
                        .mux
                        .lanes_mut()
                        .acknowledge_all(self.pair.now);
                }
                9 => self.reset_one(),
                10 => self.pair.client.takes = self.dice.below(3) != 0,
                _ => {}
            }
            for _ in 0..self.dice.below(6) {
                self.pair.step();
            }
        }
        self.take_all();
        while !self.down.is_empty() {
            self.mend_one();
        }
        self.pair.run_dry();
        self.answer();
        self.pair.run_dry();
    }

    fn take_all(&mut self) {
        let client = &mut self.pair.client;
        client.takes = true;
        let waiting: Vec<u32> = client.waiting.keys().copied().collect();
        for id in waiting {
            client.take(id, usize::MAX, self.pair.now);
        }
    }

    fn reset_one(&mut self) {
        let of_kit: Vec<u32> = self.sent[0].keys().copied().collect();
        if let Some(id) = of_kit.last().copied()
            && self.dice.below(4) == 0
            && self.reset.insert(id)
        {
            self.pair.kit.reset(id, Code::Cancel);
        }
    }

    /// What is wrong, if anything is.
    fn faults(&self) -> Option<String> {
        if self.refused {
            return Some("a count that cannot be met".into());
        }
        for end in [&self.pair.kit, &self.pair.client] {
            if let Some(fault) = &end.fault {
                return Some(fault.to_string());
            }
        }
        let ends = [&self.pair.client, &self.pair.kit];
        for (to, sent) in ends.into_iter().zip(&self.sent) {
            for (id, bytes) in sent.iter().filter(|(id, _)| !self.reset.contains(id)) {
                let got = to.got.get(id).map_or(&[][..], Vec::as_slice);
                if got != bytes {
                    return Some(format!("stream {id}: {} of {}", got.len(), bytes.len()));
                }
                if !to.seen.contains(&Seen::Eof(*id)) {
                    return Some(format!("stream {id} has no end"));
                }
            }
        }
        None
    }
}

#[test]
fn storms_of_cuts_lose_nothing_double_nothing_and_leave_windows_whole() {
    let seeds = match std::env::var("HOODY_SEED") {
        Ok(seed) => seed.parse().map_or(0..1, |seed| seed..seed + 1),
        Err(_) => 0..60,
    };
    let mut opened = 0;
    for seed in seeds {
        let mut storm = Storm::new(seed);
        storm.run(120);
        assert_eq!(storm.faults(), None, "seed {seed}");
        for end in [&storm.pair.kit, &storm.pair.client] {
            end.assert_seen_once();
        }
        storm.pair.assert_whole();
        opened += storm.sent[0].len() + storm.sent[1].len();
    }
    assert!(opened > 20, "{opened} streams are no storm");
}

#[test]
fn a_count_that_is_off_by_one_is_found() {
    for planted in [1, -1] {
        let found = (0..20).filter(|seed| {
            let mut storm = Storm::new(*seed);
            storm.planted = planted;
            storm.run(120);
            storm.faults().is_some()
        });
        let found = found.count();
        assert!(found > 15, "{planted} is found in {found} of 20");
    }
}

#[test]
fn a_stream_of_a_binding_goes_ahead_on_no_other_lane_of_what_told_of_it() {
    let open = |pair: &mut Pair, bind_ok| {
        let wanted = Wanted {
            holder: None,
            bind_ok,
        };
        pair.kit.mux.open_for(wanted, 0, (&[], b"{}"), pair.now)
    };
    let lane = |pair: &Pair, key| pair.kit.mux.streams.get(key).map(|it| it.lane);
    let mut most = 0;
    for at in 0.. {
        let mut pair = pair(Cut::Whole, 1 << 20, 2);
        for _ in 0..2 {
            pair.kit
                .mux
                .lanes_mut()
                .push_control(FrameType::BindOk, b"{}");
        }
        // What the primary carries comes behind it anyway.
        let behind = open(&mut pair, 2).expect("the primary stands");
        assert_eq!(lane(&pair, behind), Some(0));
        let elsewhere = open(&mut pair, 0).expect("both stand");
        assert_eq!(lane(&pair, elsewhere), Some(1));
        pair.lets_through[Side::Kit as usize] = at;
        pair.run();
        let got_all = pair.lets_through[Side::Kit as usize] > 0;
        pair.lets_through = [usize::MAX; 2];
        pair.kit.give_up(0, pair.now);
        pair.client.give_up(0, pair.now);
        let known = pair.kit.mux.lanes.bind_oks_known();
        most = most.max(known);
        for bind_ok in 1..=2 {
            let wanted = if bind_ok <= known {
                Ok(Some(1))
            } else {
                Err(CannotOpen::NoLane)
            };
            let opened = open(&mut pair, bind_ok).map(|key| lane(&pair, key));
            assert_eq!(opened, wanted, "{bind_ok} where {known} are known");
        }
        pair.come_back(0);
        pair.run_dry();
        assert_eq!(
            pair.kit.mux.lanes.bind_oks_known(),
            2,
            "cut after {at} bytes"
        );
        let mut lanes = BTreeSet::new();
        for _ in 0..4 {
            let key = open(&mut pair, 2).expect("room");
            lanes.insert(lane(&pair, key));
        }
        assert_eq!(lanes.len(), 2, "either may carry it now");
        if got_all {
            assert_eq!(most, 2, "it is told at once");
            break;
        }
    }
}
