/**
 * How long to wait before the next dial: at once, then 250 ms doubling to one second, or to 10 s
 * while this machine has no network; each with jitter so that the clients of a kit that comes back
 * do not come all together (PROTOCOL §6).
 */
import { onAbort } from './abort.js';
import { hasNetwork } from './network.js';

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
