/**
 * Token buckets against frames that cost the receiver more than the sender. What answers something
 * that we did is paid for by what we did. A flood ends the session, and never this process.
 */
import { Code } from '../wire/code.js';
import { FLOODS, WINDOWS_PER_DATA, type Allowance } from './limits.js';
import { Violation } from './violation.js';

/** What is counted. */
export type Nuisance = keyof typeof FLOODS;

const SENTENCES: Record<Nuisance, string> = {
  ping: 'too many PINGs in a short time',
  window: 'more WINDOWs than the data sent to you explains',
  ack: 'ACKs',
  emptyData: 'too many DATA frames without data',
  open: 'too many streams opened past the maximum in a short time',
  asking: 'too many frames that want an answer in a short time',
};

interface Bucket {
  tokens: number;
  refilledAt: number;
}

/** One session's buckets. */
export class Flood {
  private readonly buckets: Record<Nuisance, Bucket>;

  /** Full buckets, at `now` milliseconds. */
  constructor(now: number) {
    const full = (nuisance: Nuisance): Bucket => ({
      tokens: FLOODS[nuisance].burst,
      refilledAt: now,
    });
    this.buckets = {
      ping: full('ping'),
      window: full('window'),
      ack: full('ack'),
      emptyData: full('emptyData'),
      open: full('open'),
      asking: full('asking'),
    };
  }

  /** We sent a DATA frame: WINDOWs will answer it. */
  sentData(): void {
    this.buckets.window.tokens += WINDOWS_PER_DATA;
  }

  /** The peer sent one more; throws `Violation` when that was one too many. */
  count(nuisance: Nuisance, now: number): void {
    const bucket = this.buckets[nuisance];
    // A well-behaved peer costs no arithmetic.
    if (bucket.tokens === 0) refill(bucket, FLOODS[nuisance], now);
    if (bucket.tokens === 0) throw new Violation(Code.EnhanceYourCalm, SENTENCES[nuisance]);
    bucket.tokens -= 1;
  }
}

function refill(bucket: Bucket, allowance: Allowance, now: number): void {
  const earned = Math.floor(((now - bucket.refilledAt) * allowance.perSecond) / 1000);
  if (earned <= 0) return;
  bucket.tokens = Math.min(earned, allowance.burst);
  bucket.refilledAt = now;
}
