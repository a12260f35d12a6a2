/**
 * When a lane that says nothing is given up for another connection, while others of its session are
 * heard (PROTOCOL §9). Decisions only: it knows neither sockets nor clocks.
 *
 * A network that is slow for a moment looks like one that is gone. So a lane that was given up, and
 * whose next connection got nothing new through, is waited for twice as long each time.
 */

/** What of a lane is asked whether it lives. */
export interface Watched {
  /** How many frames of ours the kit has taken on it. */
  readonly acknowledged: number;
}

/** What liveness knows of a connection. Times are milliseconds. */
export interface Pulse {
  heardAt: number;
  /** When a PING left to which nothing was heard yet. */
  askedAt: number | undefined;
  /** How long a PING and its PONG take. */
  roundTrip: number | undefined;
}

/** What is to be done about a connection. */
export type Verdict = 'fine' | 'ask' | 'give up';

/** How long an answer to PING may take while others are heard, at the least. */
const ANSWER_MS = 1500;
/** The same after many in vain. */
const ANSWER_MOST_MS = 10_000;
/** It may take so many round trips, if that is longer. */
const ROUND_TRIPS = 4;
/** Silence after which a connection that carries streams is asked. */
const ASK_AFTER_MS = 500;
/** A part of the patience after which those are asked as well who are as silent. */
const ASK_OTHERS_PART = 4;

interface Doubt {
  /** How often in a row it was given up. */
  times: number;
  /** What was acknowledged at the last time. */
  acknowledged: number;
}

const doubts = new WeakMap<Watched, Doubt>();

/** How long an answer of a lane may take. */
export function patience(lane: Watched, { roundTrip = 0 }: Pulse): number {
  const usual = Math.max(ANSWER_MS, ROUND_TRIPS * roundTrip);
  const doubt = doubts.get(lane);
  const times = doubt?.acknowledged === lane.acknowledged ? doubt.times : 0;
  return Math.min(usual * 2 ** times, Math.max(usual, ANSWER_MOST_MS));
}

/** A lane was given up since it said nothing. */
export function gaveUp(lane: Watched): void {
  const { acknowledged } = lane;
  const before = doubts.get(lane);
  const times = before?.acknowledged === acknowledged ? before.times : 0;
  doubts.set(lane, { times: times + 1, acknowledged });
}

/** What to do about a lane at `now`, where the other lanes of its session look like this. */
export function judge(
  lane: Watched,
  pulse: Pulse,
  carries: boolean,
  others: Pulse[],
  now: number,
): Verdict {
  const { askedAt, heardAt } = pulse;
  const isHeard = ({ heardAt: at }: Pulse): boolean => askedAt !== undefined && at >= askedAt;
  if (askedAt !== undefined) {
    const isOver = now - askedAt >= patience(lane, pulse);
    return isOver && others.some(isHeard) ? 'give up' : 'fine';
  }
  if (carries && now - heardAt >= ASK_AFTER_MS) return 'ask';
  // Whether they answer tells whether the lane is lost or the network is.
  const wonders = others.some((other) => {
    const since = other.askedAt ?? now;
    return heardAt < since && now - since >= patience(lane, other) / ASK_OTHERS_PART;
  });
  return wonders ? 'ask' : 'fine';
}
