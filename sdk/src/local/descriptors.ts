/**
 * The file descriptors of this process: how many of them connections may take, and whether any is
 * left.
 */
import { closeSync, openSync, readFileSync } from 'node:fs';
import { devNull } from 'node:os';

/** The most descriptors that are kept for everything else that this process does. */
const RESERVE_MOST = 128;

/** What the system says when this process, or all of them together, may open nothing more. */
const SHORT = new Set(['EMFILE', 'ENFILE', 'ENOBUFS']);

/**
 * How many connections to local servers there are descriptors for. A runtime holds some twenty for
 * itself and a session up to sixteen, so that a small limit is halved.
 */
export function descriptorsForConnections(): number {
  try {
    // Where there is no such file, the system says so when it has no more.
    const limits = readFileSync('/proc/self/limits', 'latin1');
    const soft = Number(/^Max open files +([0-9]+)/m.exec(limits)?.[1] ?? Infinity);
    return Math.max(1, soft - Math.min(RESERVE_MOST, Math.floor(soft / 2)));
  } catch {
    return Infinity;
  }
}

/**
 * Whether an attempt to connect failed for want of a descriptor. A name that cannot be looked up for
 * that reason is said not to be found, and Bun calls every such attempt refused: so whoever failed
 * tries to open something else.
 */
export function isForDescriptors(code: string): boolean {
  if (SHORT.has(code)) return true;
  try {
    closeSync(openSync(devNull, 'r'));
    return false;
  } catch (error) {
    return SHORT.has(String((error as { code?: unknown }).code));
  }
}
