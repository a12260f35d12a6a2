/**
 * How the streams of a session share its credit (PROTOCOL §5); the Rust half of the project keeps
 * the same law, and both read the numbers in `tests/vectors/shares.json`.
 *
 * A window that goes to whoever asks first ends with whoever reads slowest. So a sender gives each
 * stream a *share*: as long as half of the window is left it limits nobody, and as less is left it
 * falls with the cube of that. Whoever holds most waits first, the last part is left to streams that
 * hold little, and it does not run dry: `n` streams that want more than there is settle at about an
 * `n`th of the window each. Nothing has to be known about how many or how slow they are.
 *
 * A receiver can steer such a sender: what it leaves of the window decides the share (`leave`).
 */
import { CALL_BYTES, SHARE_LEAST_PART } from './limits.js';

/**
 * How many bytes a stream that has `own` outstanding may have so while `available` of the session's
 * `window` are left: 4 a³ / w², and where that is hardly worth a frame a part of what is left. One
 * that has the session nearly to itself may have all but an eighth.
 */
export function share(available: number, window: number, own: number): number {
  // All products stay below 2^53, for no window is above 64 MiB.
  const squared = Math.floor((available * available) / Math.max(1, window));
  const part = 4 * Math.floor((squared * available) / Math.max(1, window));
  const others = Math.max(0, window - available - own);
  const alone = 7 * Math.floor(window / 8) - 4 * others;
  return Math.max(part, Math.floor(available / SHARE_LEAST_PART), alone);
}

/**
 * Whether it is worth to call a stream that waits for its share with `own` bytes outstanding: half
 * of its share, or a good piece.
 */
export function isWorthACall(available: number, window: number, own: number): boolean {
  const most = share(available, window, own);
  const worth = Math.min(Math.max(1, Math.floor(most / 2)), CALL_BYTES);
  return available > 0 && most - own >= worth;
}

/** How much of `window` a receiver has to leave so that the share is `wanted` bytes: the reverse. */
export function leave(wanted: number, window: number): number {
  // Whole numbers of any size: this one is far above 2^53.
  const cube = (BigInt(wanted) * BigInt(window) ** 2n) / 4n;
  let low = 0;
  let high = window;
  while (low < high) {
    const middle = low + Math.ceil((high - low) / 2);
    if (BigInt(middle) ** 3n <= cube) low = middle;
    else high = middle - 1;
  }
  return low;
}
