/**
 * Where a binding's traffic goes on this machine, and how to get a connection there.
 *
 * `localhost` means either loopback address, since a dev server listens on the one its runtime
 * resolved first; the one that answered last is tried first the next time.
 */
import { isForDescriptors } from './descriptors.js';
import { LocalSocket, type SocketUser } from './socket.js';
import type { LocalAddress } from './terms.js';

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
  /** `host:port` as a URL and a Host header spell it. */
  readonly authority: string;
  private readonly hosts: string[];

  constructor(readonly address: LocalAddress) {
    this.authority = authority(address.host, address.port);
    this.hosts = address.host === 'localhost' ? ['::1', '127.0.0.1'] : [unbracket(address.host)];
  }

  /** Connects; the returned function gives the attempt up. */
  connect(user: ConnectUser): () => void {
    const attempt = new Attempt(this.hosts, this.address.port, user, (host) => {
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
    private readonly port: number,
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
    const failed = (error: Error | undefined): void => {
      if (this.cancelled) return;
      this.isShort ||= isForDescriptors(reasonOf(error));
      this.tried.push(`${authority(host, this.port)} (${reasonOf(error)})`);
      this.next();
    };
    const socket = new LocalSocket(host, this.port, CONNECT_MS, () => {
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

/** `host:port`, an IPv6 address in brackets. */
export function authority(host: string, port: number): string {
  const name = host.includes(':') && !host.startsWith('[') ? `[${host}]` : host;
  return `${name}:${port}`;
}

function unbracket(host: string): string {
  return host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host;
}

function reasonOf(error: Error | undefined): string {
  if (error === undefined) return 'closed';
  const code: unknown = (error as { code?: unknown }).code;
  return typeof code === 'string' ? code : error.message;
}

function ignore(): void {
  // An attempt that was not accepted yet has nothing to say.
}
