/**
 * Idle keep-alive connections to one local server, at most so many and not for long.
 *
 * The one used last is used first, so that a burst's connections fade away. A server may close an
 * idle connection just when it is used again: a request that may be repeated then is, and one that
 * may not only takes a connection that was used a moment ago. A connection that somebody has logged
 * in on goes back to nobody but the visitor's connection that it was used for.
 */
import type { LocalSocket, SocketUser } from './socket.js';

/** The most idle connections that are kept for one target. */
const MAX_IDLE = 64;
/** How long an idle connection is kept, in milliseconds; common servers close theirs after 5 s. */
const IDLE_MS = 4000;
/** How fresh a connection must be for a request that cannot be repeated, in milliseconds. */
const FRESH_MS = 1000;

/** The idle connections of one target. */
export class Pool {
  private idle: LocalSocket[] = [];
  private readonly watchers = new WeakMap<LocalSocket, SocketUser>();
  private timer: NodeJS.Timeout | undefined;
  private closed = false;

  /**
   * Takes an idle connection, or undefined when a new one is needed. The visitor's own comes first,
   * and whatever its age: its login would be lost with it.
   */
  take(repeatable: boolean, visitor: string | undefined): LocalSocket | undefined {
    const own = visitor === undefined ? undefined : this.takeOf(visitor, IDLE_MS);
    return own ?? this.takeOf(undefined, repeatable ? IDLE_MS : FRESH_MS);
  }

  /** Takes the idle connection that a visitor has logged in on, if there is one. */
  takeOwn(visitor: string | undefined): LocalSocket | undefined {
    return visitor === undefined ? undefined : this.takeOf(visitor, IDLE_MS);
  }

  /** Puts a connection back after a complete exchange. */
  put(socket: LocalSocket): void {
    if (this.closed || !socket.usable) {
      socket.destroy();
      return;
    }
    // The one that was idle for longest makes room.
    const oldest = this.idle.length >= MAX_IDLE ? this.idle[0] : undefined;
    if (oldest !== undefined) this.forget(oldest);
    socket.uses += 1;
    socket.idleSince = Date.now();
    socket.user = this.watcherOf(socket);
    this.idle.push(socket);
    this.timer ??= setInterval(() => {
      this.expire();
    }, IDLE_MS / 4).unref();
  }

  /** Closes every idle connection: somebody needs their descriptors. */
  shed(): void {
    for (const socket of this.idle) socket.destroy();
    this.idle = [];
    this.stop();
  }

  /** Closes every idle connection, and those that come back later. */
  close(): void {
    this.closed = true;
    this.shed();
  }

  /** The last used connection of an owner, or of nobody, that may still be used. */
  private takeOf(owner: string | undefined, limit: number): LocalSocket | undefined {
    const now = Date.now();
    for (let at = this.idle.length - 1; at >= 0; at -= 1) {
      const socket = this.idle[at];
      if (socket === undefined || socket.owner !== owner) continue;
      this.idle.splice(at, 1);
      if (socket.usable && now - socket.idleSince < Math.min(limit, socket.keepMs)) return socket;
      socket.destroy();
    }
    return undefined;
  }

  /** A server that speaks without being asked, or leaves, is not used again. */
  private watcherOf(socket: LocalSocket): SocketUser {
    const known = this.watchers.get(socket);
    if (known !== undefined) return known;
    const forget = (): void => {
      this.forget(socket);
    };
    const watcher = { bytes: forget, ended: forget, closed: forget };
    this.watchers.set(socket, watcher);
    return watcher;
  }

  private forget(socket: LocalSocket): void {
    const at = this.idle.indexOf(socket);
    if (at >= 0) this.idle.splice(at, 1);
    socket.destroy();
  }

  private expire(): void {
    const now = Date.now();
    const old = this.idle.filter((socket) => now - socket.idleSince >= IDLE_MS);
    for (const socket of old) this.forget(socket);
    if (this.idle.length === 0) this.stop();
  }

  private stop(): void {
    clearInterval(this.timer);
    this.timer = undefined;
  }
}
