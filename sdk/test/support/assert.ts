/**
 * Small assertions that work the same on every runtime's `node:assert`.
 */
import assert from 'node:assert/strict';

export type ErrorClass<E> = abstract new (...parameters: never[]) => E;

/** Runs `body`, which must throw a `kind`, and returns the error. */
export function throws<E>(body: () => unknown, kind: ErrorClass<E>, note = ''): E {
  let result: unknown;
  try {
    result = body();
  } catch (error) {
    if (error instanceof kind) return error;
    throw error;
  }
  return assert.fail(`${note}: nothing was thrown, but ${JSON.stringify(result)} returned`);
}

/** The same without a use for the error. */
export function isFault<E>(body: () => unknown, kind: ErrorClass<E>): void {
  throws(body, kind);
}

/** Waits for `promise`, which must reject with a `kind`, and returns the error. */
export async function rejects<E>(promise: Promise<unknown>, kind: ErrorClass<E>): Promise<E> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof kind) return error;
    throw error;
  }
  return assert.fail('nothing was thrown');
}
