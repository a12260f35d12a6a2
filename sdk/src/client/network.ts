/**
 * What the network's own errors mean to callers, on every runtime.
 */
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { isForDescriptors } from '../local/descriptors.js';
import { plain } from '../wire/text.js';
import { LostError, TlsError, type TunnelError } from './errors.js';

/**
 * Whether this machine has a network over which the kit may be reached. One on this machine needs
 * none.
 */
export function hasNetwork(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '');
  if (bare === 'localhost' || bare === '::1' || (isIP(bare) === 4 && bare.startsWith('127.'))) {
    return true;
  }
  return Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ internal, address }) => !internal && !address.startsWith('fe80:')),
  );
}

/** The codes of what is wrong with TLS: OpenSSL's names for it, or the runtime's. */
const TLS_CODE = /^(CERT_|DEPTH_ZERO_|EPROTO$|ERR_SSL_|ERR_TLS_|SELF_SIGNED_|UNABLE_TO_)/;
/** Bun's WebSocket has no code, only this text. */
const TLS_TEXT = /TLS handshake failed: (.*)/;
/** What the code of such a failure does not always say. */
const NO_DESCRIPTORS = 'This process has no file descriptors left: raise its limit (ulimit -n)';

/** The error for an attempt that failed; `what` and `where` begin its message. */
export function networkError(what: string, where: string, error: unknown): TunnelError {
  const { code, message } = error as { code?: unknown; message?: string };
  const name = typeof code === 'string' ? code : '';
  // Errors of several addresses have a code, but no message.
  const why = message || name || String(error);
  const cause = shown(error);
  const text = TLS_TEXT.exec(why)?.[1];
  if (text !== undefined || TLS_CODE.test(name)) return new TlsError(where, text ?? why, cause);
  const end = isForDescriptors(name) ? `${why}. ${NO_DESCRIPTORS}` : why;
  return new LostError(`${what} ${where}: ${end}`, cause);
}

/**
 * The error that is kept as the cause, for a log prints it whole. The runtime's own may carry the
 * server's certificate, whose names are whatever somebody made them, and text of the server's.
 */
function shown(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  if (!('cert' in error) && plain(error.message) === error.message) return error;
  const { code } = error as { code?: unknown };
  return Object.assign(new Error(plain(error.message)), code === undefined ? {} : { code });
}
