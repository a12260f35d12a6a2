/**
 * The token of a kit, as it is at the moment; a function is asked for it, and may fail or hang.
 */
import { onAbort } from './abort.js';
import { OptionsError, TokenError, TunnelTimeoutError } from './errors.js';
import { isGoodToken, type Token } from './options.js';

/** Gets the token. Rejects with a `TunnelError`, or with the signal's reason. */
export async function currentToken(
  token: Token | undefined,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  if (typeof token !== 'function') return token;
  signal?.throwIfAborted();
  const value = await inTime(token, timeoutMs, signal);
  if (!isGoodToken(value)) {
    throw new OptionsError('the token function must return a string of printable characters');
  }
  return value;
}

function inTime(
  token: () => string | Promise<string>,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void): void => {
      clearTimeout(timer);
      stop();
      act();
    };
    const aborted = (): void => {
      const reason: unknown = signal?.reason;
      settle(() => reject(reason));
    };
    const timer = setTimeout(() => {
      settle(() => reject(new TunnelTimeoutError('The token function', timeoutMs)));
    }, timeoutMs);
    const stop = onAbort(signal, aborted);
    // Inside `then`, so that what the function throws at once is caught like a rejection.
    Promise.resolve()
      .then(token)
      .then(
        (value) => settle(() => resolve(value)),
        (error: unknown) => settle(() => reject(new TokenError(error))),
      );
  });
}
