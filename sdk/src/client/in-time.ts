/**
 * Calls into the caller's own code, which may fail or never end.
 */
import { onAbort } from './abort.js';

/** How long a call may take. */
interface Limits {
  ms: number;
  signal: AbortSignal | undefined;
}

/**
 * Calls `act`. Rejects with what `late` makes of the time, with what `failed` makes of what was thrown,
 * or with the signal's reason.
 */
export function inTime<T>(
  act: () => T | Promise<T>,
  { ms, signal }: Limits,
  late: (ms: number) => Error,
  failed: (error: unknown) => Error,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const settle = (how: () => void): void => {
      clearTimeout(timer);
      stop();
      how();
    };
    const timer = setTimeout(() => settle(() => reject(late(ms))), ms);
    const aborted = (): void => {
      const reason: unknown = signal?.reason;
      settle(() => reject(reason));
    };
    const stop = onAbort(signal, aborted);
    // Inside `then`, so that what is thrown at once is caught like a rejection.
    Promise.resolve()
      .then(act)
      .then(
        (value) => settle(() => resolve(value)),
        (error: unknown) => settle(() => reject(failed(error))),
      );
  });
}
