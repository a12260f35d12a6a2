/**
 * Which ends of a connection are the end of its session, and which it may come back from.
 */
import { Code } from '../wire/code.js';
import { AuthError, ClosedError, OptionsError, ProtocolError, type TunnelError } from './errors.js';
import type { Goaway } from '../wire/control.js';
import { goawayError } from './handshake.js';
import type { LinkEnd } from './link.js';

/** Whether the kit missed our PONG. */
export function isPongTimeout({ code, message }: Goaway): boolean {
  return code === Code.IdleTimeout && message.includes('pong');
}

/** What ends a session for good; anything else is a loss, from which it may come back. */
export function fatalEnd(end: LinkEnd): TunnelError | undefined {
  if (end.kind === 'lost') return undefined;
  // Taking it back would only make the two of us take it from each other for ever.
  if (end.kind === 'taken') return new ClosedError('another client has taken it up by its id');
  if (end.kind === 'violation')
    return new ProtocolError(`The kit broke the protocol: ${end.reason}`);
  const { code, final } = end.goaway;
  if (final !== undefined) return final ? goawayError(end.goaway) : undefined;
  // A kit that shuts down may come back, and one that missed our PONG has parked the session.
  const comesBack = code === Code.NoError || isPongTimeout(end.goaway);
  return comesBack ? undefined : goawayError(end.goaway);
}

/**
 * Whether dialling again would only meet the same refusal. A wrong certificate may be that of a
 * network that wants a login first, and passes.
 */
export function isFatal(error: unknown): error is TunnelError {
  if (error instanceof ClosedError && error.isFinal) return true;
  return error instanceof AuthError || error instanceof OptionsError;
}
