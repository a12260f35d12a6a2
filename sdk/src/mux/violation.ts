/**
 * The peer broke the protocol in a way that costs the whole session (PROTOCOL §1.4).
 * What costs only one stream is answered with RESET where it is seen.
 */

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
