/**
 * The one-call forms: one binding each, that comes back after every loss.
 */
import { TunnelAdmin } from './admin.js';
import type { Binding } from './binding.js';
import { OptionsError, type TunnelError } from './errors.js';
import {
  TunnelEventTarget,
  type Listen,
  type ListenOptions,
  type TunnelEvent,
  type TunnelEventType,
  type TunnelListener,
} from './events.js';
import {
  checkBind,
  checkGrace,
  checkSession,
  type AdminOptions,
  type Call,
  type ExposeOptions,
  type PullOptions,
  type ServeOptions,
  split,
} from './options.js';
import { saysGoodbye, type Ending } from './goodbye.js';
import type { TunnelSession } from './session.js';
import { bindAlone, bindShared, isShareable, type Bound } from './shared.js';

/** One binding, in a session that other tunnels may have, too. */
export class Tunnel extends TunnelEventTarget {
  /** Resolves when the tunnel is over, with what ended it, or undefined when it was closed. */
  readonly closed: Promise<TunnelError | undefined>;
  /** The session that carries it. */
  readonly session: TunnelSession;
  /** Its binding. */
  readonly bind: Binding;
  private readonly passedOn = new Set<string>();
  /** Aborted when it is over: its session may go on, and is not listened to any more. */
  private readonly over = new AbortController();
  private end: (error: TunnelError | undefined) => void = () => undefined;

  /** @internal */
  constructor(
    private readonly bound: Bound,
    private readonly kitHost: string,
    leavesAt: readonly Ending[],
  ) {
    super();
    const { session, binding } = bound;
    this.session = session;
    this.bind = binding;
    this.closed = new Promise((resolve) => (this.end = resolve));
    void session.closed.then((error) => {
      this.end(error);
    });
    const stay = leavesAt.length > 0 ? saysGoodbye(this, leavesAt) : undefined;
    void this.closed.then((error) => {
      stay?.();
      this.over.abort();
      this.emit('closed', { error });
    });
    // Whoever took the port over is meant to have it: there is nothing left to do here.
    const { signal } = this.over;
    const takenOver = ({ detail }: TunnelEvent<'takenOver'>): void => {
      if (detail.bindId === binding.bindId) void this.close();
    };
    session.addEventListener('takenOver', takenOver, { signal });
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

  /** Calls `listener` for each event of a type that is about this tunnel, or about its session. */
  override addEventListener<K extends TunnelEventType>(
    type: K,
    listener: TunnelListener<K>,
    options?: ListenOptions,
  ): void;
  override addEventListener(...listen: Listen): void;
  override addEventListener(...listen: unknown[]): void {
    super.addEventListener(...(listen as Listen));
    const type = listen[0] as TunnelEventType;
    if (type === 'closed' || this.passedOn.has(type)) return;
    this.passedOn.add(type);
    const { signal } = this.over;
    this.session.addEventListener(
      type,
      ({ detail }) => {
        if (this.isAbout(detail)) this.emit(type, detail);
      },
      { signal },
    );
  }

  /** Whether an event of the session is about another binding of it. */
  private isAbout(detail: object): boolean {
    const { bindId, containerPort } = detail as { bindId?: number; containerPort?: number };
    if (bindId !== undefined) return bindId === this.bind.bindId;
    return containerPort === undefined || containerPort === this.bind.containerPort;
  }

  /** Does not keep the process alive any more, nor do the other tunnels of its session. */
  unref(): this {
    this.session.unref();
    return this;
  }

  /**
   * Gives the port back; what runs gets `graceMs` (default 5000) to finish. The last tunnel of a
   * session ends it.
   */
  async close(options: { graceMs?: number | undefined } = {}): Promise<void> {
    const graceMs = checkGrace(options);
    try {
      await this.bound.close(graceMs);
    } finally {
      this.end(undefined);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function open({ session: given, bind, isNew, leavesAt }: Call): Promise<Tunnel> {
  const session = { reconnect: true, ...given };
  const { connectUrl } = checkSession(session, true);
  checkBind(bind);
  const bound = isNew || !isShareable(session) ? bindAlone : bindShared;
  return new Tunnel(await bound(session, bind), connectUrl.hostname, leavesAt);
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
