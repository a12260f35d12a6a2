/**
 * Listening for aborts. A signal gets one listener of ours however many wait for it: the runtime
 * takes more than a few for a leak, and says so.
 */

const waiting = new WeakMap<AbortSignal, Set<() => void>>();

/** Calls `act` when the signal is aborted from now on; the returned function calls it off. */
export function onAbort(signal: AbortSignal | undefined, act: () => void): () => void {
  if (signal === undefined) return nothing;
  const acts = waiting.get(signal) ?? watch(signal);
  // Its own object each time, so that one function may wait twice.
  const entry = (): void => act();
  acts.add(entry);
  return () => acts.delete(entry);
}

function watch(signal: AbortSignal): Set<() => void> {
  const acts = new Set<() => void>();
  waiting.set(signal, acts);
  const aborted = (): void => {
    // One that is called off by another before its turn is not called.
    for (const act of acts) {
      acts.delete(act);
      act();
    }
  };
  signal.addEventListener('abort', aborted, { once: true });
  return acts;
}

function nothing(): void {
  // There was no signal to let go of.
}

/** Aborts `joint` when any of the signals is; the returned function lets go of them. */
export function joinSignals(
  joint: AbortController,
  signals: (AbortSignal | undefined)[],
): () => void {
  const stops = signals.map((signal) => {
    const abort = (): void => joint.abort(signal?.reason);
    if (signal?.aborted === true) abort();
    return onAbort(signal, abort);
  });
  return () => {
    for (const stop of stops) stop();
  };
}

/** Resolves when a promise does, or the signal is aborted. */
export async function orAborted(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  let stop = nothing;
  const aborted = new Promise<void>((resolve) => {
    stop = onAbort(signal, resolve);
    if (signal.aborted) resolve();
  });
  await Promise.race([promise, aborted]).finally(stop);
}
