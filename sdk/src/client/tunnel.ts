/**
 * The one-call forms: a session with one binding, that comes back after every loss.
 */
import { TunnelAdmin } from './admin.js';
import type { Binding } from './binding.js';
import { OptionsError, type TunnelError } from './errors.js';
import type { ListenOptions, TunnelEventType, TunnelListener } from './events.js';
import {
  checkBind,
  checkKit,
  checkSession,
  type AdminOptions,
  type BindOptions,
  type ExposeOptions,
  type PullOptions,
  type ServeOptions,
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

  /** Unbinds and ends the session. */
  close(): Promise<void> {
    return this.session.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function open(options: SessionOptions, bind: BindOptions): Promise<Tunnel> {
  const { connectUrl } = checkSession(options, true);
  checkBind(bind);
  const session = new TunnelSession({ ...options, reconnect: options.reconnect ?? true });
  try {
    await session.connect();
    const { signal } = options;
    const binding = await session.bind(signal === undefined ? bind : { ...bind, signal });
    return new Tunnel(session, binding, connectUrl.hostname);
  } catch (error) {
    await session.close();
    throw error;
  }
}

/** Makes a local HTTP server reachable at a port in the container. */
async function expose(options: ExposeOptions): Promise<Tunnel> {
  checkKit(options);
  return open(options, { ...pick(options), mode: 'expose' });
}

/** Makes a local TCP server reachable at a loopback port in the container. */
async function pull(options: PullOptions): Promise<Tunnel> {
  checkKit(options);
  return open(options, { ...pick(options), mode: 'pull' });
}

/** Answers the requests that come to a port in the container in this process. */
async function serve(options: ServeOptions): Promise<Tunnel> {
  checkKit(options);
  if (typeof options.fetch !== 'function') throw new OptionsError('fetch must be a function');
  return open(options, { ...pick(options), mode: 'expose' });
}

/** The administrative side of a kit. */
function admin(options: AdminOptions): TunnelAdmin {
  return new TunnelAdmin(options);
}

/** What of the options is about the binding. */
const BIND_KEYS = [
  'containerPort',
  'label',
  'to',
  'takeover',
  'hostHeader',
  'host',
  'fetch',
] as const satisfies (keyof BindOptions)[];

/** Takes the options that `bind` knows; `checkBind` then finds what does not belong together. */
function pick(options: Partial<BindOptions>): Omit<BindOptions, 'mode'> {
  const entries = BIND_KEYS.map((key) => [key, options[key]] as const);
  const given: unknown = Object.fromEntries(entries.filter(([, value]) => value !== undefined));
  return given as Omit<BindOptions, 'mode'>;
}

/** The one-call forms. */
export const tunnel = { expose, pull, serve, admin } as const;
