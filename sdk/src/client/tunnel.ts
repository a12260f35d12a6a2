/**
 * The one-call forms: a session with one binding, that comes back after every loss.
 */
import { TunnelAdmin } from './admin.js';
import type { Binding } from './binding.js';
import { OptionsError, type TunnelError } from './errors.js';
import type { ListenOptions, TunnelEventType, TunnelListener } from './events.js';
import {
  checkBind,
  checkSession,
  type AdminOptions,
  type BindOptions,
  type ExposeOptions,
  type PullOptions,
  type ServeOptions,
  split,
  type SessionOptions,
} from './options.js';
import { TunnelSession } from './session.js';

/** A session with one binding. */
export class Tunnel {
  /** @internal */
  constructor(
    /** The session that carries it. */
    readonly session: TunnelSession,
    /** Its binding. */
    readonly bind: Binding,
    private readonly kitHost: string,
  ) {
    // Whoever took the port over is meant to have it: there is nothing left to do here.
    session.addEventListener('takenOver', ({ detail }) => {
      if (detail.bindId === bind.bindId) void session.close();
    });
  }

  /** The address that the kit's URL pattern gives; null when the kit has none. */
  get publicUrl(): string | null {
    return this.bind.publicUrl;
  }

  /** `publicUrl`, or else the kit's own host with the port. */
  get url(): string {
    const scheme = this.bind.kind === 'http' ? 'http' : 'tcp';
    return this.publicUrl ?? `${scheme}://${this.kitHost}:${this.bind.containerPort}`;
  }

  /** Resolves when the tunnel is over, with what ended it, or undefined when it was closed. */
  get closed(): Promise<TunnelError | undefined> {
    return this.session.closed;
  }

  addEventListener<K extends TunnelEventType>(
    type: K,
    listener: TunnelListener<K>,
    options?: ListenOptions,
  ): void {
    this.session.addEventListener(type, listener, options);
  }

  removeEventListener<K extends TunnelEventType>(type: K, listener: TunnelListener<K>): void {
    this.session.removeEventListener(type, listener);
  }

  /** Unbinds and ends the session; what runs gets `graceMs` (default 5000) to finish. */
  close(options: { graceMs?: number | undefined } = {}): Promise<void> {
    return this.session.close(options);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function open(parts: { session: SessionOptions; bind: BindOptions }): Promise<Tunnel> {
  const { bind } = parts;
  const { connectUrl } = checkSession(parts.session, true);
  checkBind(bind);
  const session = new TunnelSession({ reconnect: true, ...parts.session });
  try {
    await session.connect();
    return new Tunnel(session, await session.bind(bind), connectUrl.hostname);
  } catch (error) {
    await session.close();
    throw error;
  }
}

/** Makes a local HTTP server reachable at a port in the container. */
async function expose(options: ExposeOptions): Promise<Tunnel> {
  return open(split(options, 'expose', 'tunnel.expose'));
}

/** Makes a local TCP server reachable at a loopback port in the container. */
async function pull(options: PullOptions): Promise<Tunnel> {
  return open(split(options, 'pull', 'tunnel.pull'));
}

/** Answers the requests that come to a port in the container in this process. */
async function serve(options: ServeOptions): Promise<Tunnel> {
  const parts = split(options, 'expose', 'tunnel.serve');
  if (typeof options.fetch !== 'function') throw new OptionsError('fetch must be a function');
  return open(parts);
}

/** The administrative side of a kit. */
function admin(options: AdminOptions): TunnelAdmin {
  return new TunnelAdmin(options);
}

/** The one-call forms. */
export const tunnel = { expose, pull, serve, admin } as const;
