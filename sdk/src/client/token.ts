/**
 * The token of a kit, as it is at the moment; a function is asked for it, and may fail or hang.
 */
import { OptionsError, TokenError, TunnelTimeoutError } from './errors.js';
import { inTime } from './in-time.js';
import { isGoodToken, type Token } from './options.js';

/** Gets the token. Rejects with a `TunnelError`, or with the signal's reason. */
export async function currentToken(
  token: Token | undefined,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  if (typeof token !== 'function') return token;
  signal?.throwIfAborted();
  const late = (ms: number): Error => new TunnelTimeoutError('The token function', ms);
  const failed = (error: unknown): Error => new TokenError(error);
  const value: unknown = await inTime(token, { ms: timeoutMs, signal }, late, failed);
  const trimmed = typeof value === 'string' ? value.trim() : value;
  if (!isGoodToken(trimmed)) {
    throw new OptionsError('the token function must return a string of printable characters');
  }
  return trimmed;
}
