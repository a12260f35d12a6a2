/**
 * How long to wait before the next dial: at once, then 250 ms doubling to one second, or to 10 s
 * while this machine has no network; each with jitter so that the clients of a kit that comes back
 * do not come all together (PROTOCOL §6).
 */
import { performance } from 'node:perf_hooks';
import { onAbort } from './abort.js';
import { LostError, ResumeExpiredError, TlsError, TunnelTimeoutError } from './errors.js';
import { hasNetwork } from './network.js';
import type { Way, Ways } from './ways.js';

const FIRST_MS = 250;
const LAST_MS = 1000;
const LAST_ALONE_MS = 10_000;

/** The waits of one series of attempts. */
export class Backoff {
  private attempt = 0;

  constructor(private readonly host: string) {}

  /** Milliseconds to wait before the next attempt. */
  next(): number {
    const most = hasNetwork(this.host) ? LAST_MS : LAST_ALONE_MS;
    const base = this.attempt === 0 ? 0 : Math.min(most, FIRST_MS * 2 ** (this.attempt - 1));
    this.attempt += 1;
    return base * (0.5 + Math.random() / 2);
  }

  /** An attempt succeeded. */
  reset(): void {
    this.attempt = 0;
  }
}

/** What decides how often, and for how long, a first connection is tried. */
interface Patience {
  connectUrl: URL;
  connectTimeout: number;
  reconnect: boolean;
}

/** Calls `open` until the first connection is up, the time is over, or trying again would not help. */
export async function attempts(
  { connectUrl, connectTimeout, reconnect }: Patience,
  signal: AbortSignal,
  open: (timeoutMs: number) => Promise<void>,
): Promise<void> {
  const deadline = performance.now() + connectTimeout;
  const left = (): number => Math.ceil(deadline - performance.now());
  const backoff = new Backoff(connectUrl.hostname);
  let last: LostError | undefined;
  for (;;) {
    await sleep(Math.min(backoff.next(), left()), signal);
    signal.throwIfAborted();
    if (last !== undefined && left() <= 0) throw last;
    try {
      await open(last === undefined ? connectTimeout : Math.max(1, left()));
      return;
    } catch (error) {
      // An attempt that only had the rest of the time says less than one that was answered.
      if (last !== undefined && error instanceof TunnelTimeoutError) throw last;
      if (!(error instanceof LostError) || !reconnect) throw error;
      last = error;
    }
  }
}

/**
 * Tries each way once, the best one first, with an equal part of the time that is left; `took` tells
 * how long one takes. Goes on to the next one only where that may be better.
 */
export async function byAny(
  ways: Ways,
  timeoutMs: number,
  signal: AbortSignal,
  attempt: (way: Way, timeoutMs: number, took: () => number) => Promise<void>,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  const all = ways.inOrder(Date.now());
  let lost: unknown;
  for (const [n, way] of all.entries()) {
    const startedAt = performance.now();
    const part = Math.max(1, Math.ceil((deadline - startedAt) / (all.length - n)));
    try {
      return await attempt(
        way,
        all.length === 1 ? timeoutMs : part,
        () => performance.now() - startedAt,
      );
    } catch (error) {
      ways.failed(way, Date.now());
      const isTheWays = [LostError, TunnelTimeoutError, TlsError, ResumeExpiredError].some(
        (kind) => error instanceof kind,
      );
      // What may be better soon says more than what will not.
      if (error instanceof LostError) lost ??= error;
      if (!isTheWays || signal.aborted) throw error;
      if (n === all.length - 1) throw lost ?? error;
    }
  }
}

/** Waits; ends early when the signal is aborted. An idle wait does not keep the process alive. */
export function sleep(ms: number, signal: AbortSignal, idle = false): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      stop();
      resolve();
    };
    const timer = setTimeout(done, ms);
    if (idle) timer.unref();
    const stop = onAbort(signal, done);
  });
}
