/**
 * Which ends of a connection are the end of its session, and which it may come back from.
 */
import { Code } from '../wire/code.js';
import { AuthError, ClosedError, OptionsError, ProtocolError, type TunnelError } from './errors.js';
import type { Goaway } from '../wire/control.js';
import { goawayError } from './handshake.js';

/** What a kit calls a session that was resumed on another socket, where it says so (PROTOCOL §9). */
const ELSEWHERE = 'resumed elsewhere';
/** How the kit closes the sockets of a session that was resumed on others (PROTOCOL §6). */
const GOING_AWAY = 1001;
const TAKEN_REASON = 'resumed on another connection';

/** How a link ended. */
export type LinkEnd =
  | { kind: 'lost'; reason: string }
  /** Somebody else resumed the session. */
  | { kind: 'taken'; reason: string }
  | { kind: 'goaway'; goaway: Goaway }
  | { kind: 'violation'; reason: string };

/** Whether the kit missed our PONG. */
function isPongTimeout({ code, message }: Goaway): boolean {
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

/** Whether a kit that says this, or nothing, keeps the session. */
export function isParked(goaway: Goaway | undefined): boolean {
  return goaway === undefined || isPongTimeout(goaway);
}

/** What a GOAWAY means for the connection that it came on. */
export function endOf(goaway: Goaway): LinkEnd {
  const taken = goaway.final === true && goaway.message === ELSEWHERE;
  return taken ? { kind: 'taken', reason: ELSEWHERE } : { kind: 'goaway', goaway };
}

/** Whether a close frame says that somebody else resumed the session. */
export function isTakenBy(code: number, reason: string): boolean {
  return code === GOING_AWAY && reason === TAKEN_REASON;
}
