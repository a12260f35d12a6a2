/**
 * Where a binding's traffic goes on this machine, and how to get a connection there.
 *
 * `localhost` means either loopback address, since a dev server listens on the one its runtime
 * resolved first; the one that answered last is tried first the next time.
 */
import { isForDescriptors } from './descriptors.js';
import { LocalSocket, type SocketUser, type Way } from './socket.js';
import type { LocalTarget } from './address.js';
import { bracketed, shownAs } from './address.js';
import type { UpstreamTrust } from './terms.js';

/** How long one address may take to accept, in milliseconds. */
const CONNECT_MS = 5000;

/** No address of a target accepted; `tried` says for each what happened. */
export class Unreachable extends Error {
  override readonly name = 'Unreachable';
  constructor(
    readonly tried: string[],
    /** The system had no descriptor for a connection. */
    readonly isShort = false,
  ) {
    super(tried.join('; '));
  }
}

/** Told how an attempt to connect ended. */
export interface ConnectUser extends SocketUser {
  connected(socket: LocalSocket): void;
  unreachable(error: Unreachable): void;
}

/** A local server. */
export class Target {
  /** As people read it. */
  readonly shown: string;
  private readonly hosts: string[];

  constructor(
    readonly address: LocalTarget,
    private readonly trust?: UpstreamTrust,
  ) {
    this.shown = shownAs(address);
    const isLocal = address.host === 'localhost' && address.socketPath === undefined;
    this.hosts = isLocal ? ['::1', '127.0.0.1'] : [address.host];
  }

  /** Connects; the returned function gives the attempt up. */
  connect(user: ConnectUser): () => void {
    const { port, socketPath, host: name, secure } = this.address;
    const way = (host: string): Way =>
      socketPath !== undefined
        ? { path: socketPath }
        : { host, port, tls: secure ? { name, ...this.trust } : undefined };
    const attempt = new Attempt(this.hosts, way, user, (host) => {
      this.prefer(host);
    });
    attempt.next();
    return () => {
      attempt.cancel();
    };
  }

  private prefer(host: string): void {
    if (this.hosts[0] === host) return;
    this.hosts.splice(this.hosts.indexOf(host), 1);
    this.hosts.unshift(host);
  }
}

/** One walk through the addresses of a target. */
class Attempt {
  private readonly hosts: string[];
  private readonly tried: string[] = [];
  private socket: LocalSocket | undefined;
  private cancelled = false;
  private isShort = false;

  constructor(
    hosts: string[],
    private readonly way: (host: string) => Way,
    private readonly user: ConnectUser,
    private readonly good: (host: string) => void,
  ) {
    this.hosts = [...hosts];
  }

  next(): void {
    const host = this.hosts.shift();
    if (host === undefined) {
      this.user.unreachable(new Unreachable(this.tried, this.isShort));
      return;
    }
    const way = this.way(host);
    const failed = (error: Error | undefined): void => {
      if (this.cancelled) return;
      const reason = reasonOf(error);
      this.isShort ||= isForDescriptors(reason);
      const place = 'path' in way ? way.path : `${bracketed(way.host)}:${way.port}`;
      this.tried.push(`${place} (${SENTENCES[reason] ?? reason})`);
      this.next();
    };
    const socket = new LocalSocket(way, CONNECT_MS, () => {
      if (this.cancelled) return;
      this.good(host);
      socket.user = this.user;
      this.user.connected(socket);
    });
    socket.user = { bytes: ignore, ended: ignore, closed: failed };
    this.socket = socket;
  }

  cancel(): void {
    this.cancelled = true;
    this.socket?.destroy();
  }
}

/** What a code means to whoever named the target. */
const NOT_TLS = 'this server does not speak TLS: expose http://…';
const SENTENCES: Record<string, string> = {
  ERR_SSL_WRONG_VERSION_NUMBER: NOT_TLS,
  ERR_SSL_PACKET_LENGTH_TOO_LONG: NOT_TLS,
  ERR_SSL_HTTP_REQUEST: NOT_TLS,
  EPROTO: NOT_TLS,
  ENOTSOCK: 'no socket',
};

function reasonOf(error: Error | undefined): string {
  if (error === undefined) return 'closed';
  const code: unknown = (error as { code?: unknown }).code;
  return typeof code === 'string' ? code : error.message;
}

function ignore(): void {
  // An attempt that was not accepted yet has nothing to say.
}
