/**
 * The peer broke the protocol in a way that costs the whole session (PROTOCOL §1.4).
 * What costs only one stream is answered with RESET where it is seen.
 */
import { WireError } from '../wire/frame.js';

/** Why a session must end with GOAWAY. */
export class Violation extends Error {
  override readonly name = 'Violation';
  constructor(
    readonly code: number,
    message: string,
  ) {
    super(message);
  }
}

/** What a message was refused for is a violation of the session. */
export function toViolation(error: unknown): unknown {
  return error instanceof WireError ? new Violation(error.code, error.message) : error;
}
