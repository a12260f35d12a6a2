/**
 * What the tunnels of all one-call forms have in common: a session that others may have, too, events
 * of what is about themselves, and an end of their own.
 */
import './dispose.js';
import type { TunnelError } from './errors.js';
import {
  TunnelEventTarget,
  type Listen,
  type ListenOptions,
  type TunnelEventType,
  type TunnelListener,
} from './events.js';
import { saysGoodbye, type Ending } from './goodbye.js';
import { checkGrace } from './options.js';
import type { TunnelSession } from './session.js';
import type { Used } from './shared.js';

/** Something in a session, that has been begun by one call. */
export abstract class OneCall<T> extends TunnelEventTarget {
  /** Resolves when the tunnel is over, with what ended it, or undefined when it was closed. */
  readonly closed: Promise<TunnelError | undefined>;
  /** The session that carries it. */
  readonly session: TunnelSession;
  private readonly passedOn = new Set<string>();
  /** Aborted when it is over: its session may go on, and is not listened to any more. */
  private readonly ended = new AbortController();
  private end: (error: TunnelError | undefined) => void = () => undefined;

  /** @internal */
  constructor(
    private readonly used: Used<T>,
    leavesAt: readonly Ending[],
  ) {
    super();
    this.session = used.session;
    this.closed = new Promise((resolve) => (this.end = resolve));
    void this.session.closed.then((error) => {
      this.end(error);
    });
    const stay = leavesAt.length > 0 ? saysGoodbye(this, leavesAt) : undefined;
    void this.closed.then((error) => {
      stay?.();
      this.ended.abort();
      this.emit('closed', { error });
    });
  }

  /** What is in the session. */
  protected get thing(): T {
    return this.used.thing;
  }

  /** Aborted when it is over. */
  protected get over(): AbortSignal {
    return this.ended.signal;
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
    this.session.addEventListener(
      type,
      ({ detail }) => {
        if (this.isAbout(detail)) this.emit(type, detail);
      },
      { signal: this.over },
    );
  }

  /** Whether an event of the session is about this, and nothing else that is in it. */
  protected abstract isAbout(detail: object): boolean;

  /** Does not keep the process alive any more, nor do the other tunnels of its session. */
  unref(): this {
    this.session.unref();
    return this;
  }

  /**
   * Lets nobody new in; what runs gets `graceMs` (default 5000) to finish. The last tunnel of a
   * session ends it.
   */
  async close(options: { graceMs?: number | undefined } = {}): Promise<void> {
    const graceMs = checkGrace(options);
    try {
      await this.used.close(graceMs);
    } finally {
      this.end(undefined);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
