/**
 * Every way in which a tunnel can fail, as a class with a stable `code`. The message says what
 * happened and what to do next.
 */

import { plain } from '../wire/text.js';

/** The longest message of an error; what others said in it has been cut before. */
const MAX_MESSAGE = 2000;

/** The stable codes. */
export type TunnelErrorCode =
  | 'OPTIONS'
  | 'AUTH'
  | 'TOKEN'
  | 'STATE'
  | 'SESSION_LIMIT'
  | 'BIND_ERR'
  | 'FORWARD'
  | 'RESUME_EXPIRED'
  | 'LOST'
  | 'TLS'
  | 'TIMEOUT'
  | 'PROTOCOL'
  | 'CLOSED'
  | 'ADMIN';

/** What all errors of this package have in common. */
export class TunnelError extends Error {
  override readonly name: string = 'TunnelError';
  constructor(
    readonly code: TunnelErrorCode,
    message: string,
    cause?: unknown,
  ) {
    super(plain(message, MAX_MESSAGE), cause === undefined ? undefined : { cause });
  }
}

/** An option is wrong; nothing was opened. */
export class OptionsError extends TunnelError {
  override readonly name = 'OptionsError';
  constructor(message: string) {
    super('OPTIONS', message);
  }
}

/** The kit, or a proxy in front of it, does not accept the token. */
export class AuthError extends TunnelError {
  override readonly name = 'AuthError';
  constructor(why: string) {
    super('AUTH', `${why}. Check the token: it must be the one that the kit was started with.`);
  }
}

/** What the caller's own code threw, in words. */
function whatOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

/** The token function failed; `cause` is what it threw. */
export class TokenError extends TunnelError {
  override readonly name = 'TokenError';
  constructor(cause: unknown) {
    super(
      'TOKEN',
      `The token function failed: ${whatOf(cause)}. Mend what it asks, then connect again.`,
      cause,
    );
  }
}

/** The store of the caller's that keeps the state failed; `cause` is what it threw. */
export class StateError extends TunnelError {
  override readonly name = 'StateError';
  constructor(cause: unknown) {
    super(
      'STATE',
      `state.get failed: ${whatOf(cause)}. Mend the store, or connect with state: false.`,
      cause,
    );
  }
}

/** The kit has as many sessions as it may. */
export class SessionLimitError extends TunnelError {
  override readonly name = 'SessionLimitError';
  constructor(why: string) {
    super(
      'SESSION_LIMIT',
      `The kit is at its session limit (${why}). Close another session, or raise --max-sessions.`,
    );
  }
}

const BIND_ADVICE: Record<string, string> = {
  ALREADY_BOUND:
    'Another session has this port: choose another one, or expose with takeover: true.',
  PORT_IN_USE: 'A program in the container listens on this port: stop it or choose another port.',
  RESERVED_PORT: 'Choose a port from 1024 on, or 0 for any.',
  PRIVILEGED_PORT:
    'Choose a port from 1024 on, or start the kit with --allow-privileged-expose/-pull.',
  INVALID_HOST: 'A pull binding listens on 127.0.0.1, ::1 or localhost.',
  INVALID_KIND:
    'Bind http/expose or tcp/pull; takeover is for expose alone. Raw TCP on a public port ' +
    '(tcp/expose) needs a newer kit, whose operator did not say --no-tcp-expose.',
  BIND_CAP_EXCEEDED: 'Unbind another binding, or raise --max-bindings-per-session.',
};

/** The kit refused a binding; `kitCode` says why. */
export class BindError extends TunnelError {
  override readonly name = 'BindError';
  constructor(
    readonly kitCode: string,
    message: string,
  ) {
    const advice = BIND_ADVICE[kitCode] ?? 'See the log of the kit.';
    super('BIND_ERR', `The kit refused the binding: ${kitCode}, ${message}. ${advice}`);
  }
}

/**
 * Why nothing was forwarded: the kit grants no forward, this machine cannot listen, the kit's policy or
 * its limits say no, the name is unknown, nobody is reached there, nobody listens there, it took too
 * long, or the connection to the kit was lost.
 */
export type ForwardFailure =
  'not-granted' | 'listen' | 'denied' | 'dns' | 'unreachable' | 'refused' | 'timeout' | 'lost';

/** What is missing where a kit grants no forward, and what to do about it. */
export const NOT_GRANTED =
  'this kit does not forward. Start it with a token and --allow-forward, or update it if it is older';

/** Nothing can be forwarded; `reason` says why. */
export class ForwardError extends TunnelError {
  override readonly name = 'ForwardError';
  constructor(
    readonly reason: ForwardFailure,
    message: string,
    cause?: unknown,
  ) {
    super('FORWARD', message, cause);
  }
}

/** The session to resume is unknown to the kit, or its grace is over. */
export class ResumeExpiredError extends TunnelError {
  override readonly name = 'ResumeExpiredError';
  constructor() {
    super(
      'RESUME_EXPIRED',
      'The session cannot be resumed: the kit does not know it any more. Connect without ' +
        'resumeSessionId and bind again.',
    );
  }
}

/** The connection was lost, or could not be made. */
export class LostError extends TunnelError {
  override readonly name = 'LostError';
  constructor(why: string, cause?: unknown) {
    super('LOST', `${why}. Check that the kit runs and is reachable, then connect again.`, cause);
  }
}

/** What to do about a failure of TLS, by a word of the runtime's message for it. */
const TLS_ADVICE: readonly (readonly [RegExp, string])[] = [
  [/altname/i, 'Dial a name that the certificate is for'],
  [/expired|not yet valid/i, 'Renew the certificate, or set the clock of this machine'],
  [/wrong.version.number/i, 'Use ws:// where the port does not speak TLS'],
];

/** The certificate is not to be trusted, or is for another name, or the port speaks no TLS. */
export class TlsError extends TunnelError {
  override readonly name = 'TlsError';
  constructor(where: string, why: string, cause?: unknown) {
    const known = TLS_ADVICE.find(([word]) => word.test(why))?.[1];
    const advice = known ?? 'Pass the certificate (PEM) of the authority that signed it as ca';
    const what = why.replace(/[\s:]+$/, '');
    super('TLS', `No TLS with ${where}: ${what}. ${advice}, then connect again.`, cause);
  }
}

/** Something took too long. */
export class TunnelTimeoutError extends TunnelError {
  override readonly name = 'TunnelTimeoutError';
  constructor(what: string, ms: number, cause?: unknown) {
    super(
      'TIMEOUT',
      `${what} took more than ${ms} ms. Check the network, or raise the timeout.`,
      cause,
    );
  }
}

/** One of the two sides broke the protocol. */
export class ProtocolError extends TunnelError {
  override readonly name = 'ProtocolError';
  constructor(why: string) {
    super('PROTOCOL', `${why}. Check that the URL is a tunnel kit's and that versions fit.`);
  }
}

/** The session was closed, by us or by the kit. */
export class ClosedError extends TunnelError {
  override readonly name = 'ClosedError';
  constructor(
    why: string,
    /** @internal The kit does not want us back. */
    readonly isFinal = false,
  ) {
    super('CLOSED', `The session is closed: ${why}. Make a new one.`);
  }
}

/** An administrative request failed; `status` is the kit's answer. */
export class AdminError extends TunnelError {
  override readonly name = 'AdminError';
  constructor(
    readonly status: number,
    why: string,
  ) {
    super('ADMIN', `The kit answered ${status}: ${why}.`);
  }
}
