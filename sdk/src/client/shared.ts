/**
 * Sessions that one-call tunnels share: those that would be made of the same options are one, until
 * the kit grants it no more bindings, and then another one is opened.
 */
import type { Binding } from './binding.js';
import { BindError, ClosedError } from './errors.js';
import type { Forward } from './forward.js';
import type { ForwardOptions } from './forward-options.js';
import { checkSession, type BindOptions, type CheckedSession } from './options.js';
import type { SessionOptions } from './options.js';
import { TunnelSession } from './session.js';

/** A session of several tunnels. */
class Shared {
  readonly session: TunnelSession;
  readonly ready: Promise<unknown>;
  /** Tunnels that have it, and those that wait for their binding. */
  users = 0;
  /** The kit has granted as many bindings as it does. */
  full = false;

  constructor(
    options: SessionOptions,
    private readonly config: CheckedSession,
  ) {
    this.session = new TunnelSession(options);
    this.ready = this.session.connect();
    const gone = (): void => void sharing.delete(this);
    this.ready.catch(gone);
    void this.session.closed.then(gone);
  }

  /** Whether a tunnel of those options may have a binding here. */
  takes<T>(config: CheckedSession, use: Use<T>): boolean {
    if (this.full || this.session.state === 'closed') return false;
    return use.fits(this.session) && isSame(this.config, config);
  }

  /** One tunnel leaves; the last one takes the session with it. */
  async leave(end: End | undefined, graceMs: number | undefined): Promise<void> {
    this.users -= 1;
    this.full = false;
    await this.giveUp(end, graceMs);
  }

  /** Closes what nobody else has; said again it may shorten the grace. */
  async giveUp(end: End | undefined, graceMs: number | undefined): Promise<void> {
    if (this.users > 0) return end?.(graceMs);
    sharing.delete(this);
    await this.session.close({ graceMs });
  }
}

type End = (graceMs: number | undefined) => Promise<void>;

/** What a tunnel does in a session. */
export interface Use<T> {
  /** Whether it can do that in this one. */
  fits(session: TunnelSession): boolean;
  begin(session: TunnelSession): Promise<T>;
  /** Ends it in a session that goes on. */
  end(session: TunnelSession, thing: T, graceMs: number | undefined): Promise<void>;
}

/** To bind a port. */
export function binding(bind: BindOptions): Use<Binding> {
  const { mode, containerPort } = bind;
  return {
    // A port is taken over from a session, and not from oneself.
    fits: ({ bindings }) =>
      !bindings.some((one) => one.mode === mode && one.containerPort === containerPort),
    begin: (session) => session.bind(bind),
    end: (session, one, graceMs) => session.giveBack(one, { graceMs }),
  };
}

/** To forward to a port of this machine. */
export function forwarding(forward: ForwardOptions): Use<Forward> {
  return {
    fits: () => true,
    begin: (session) => session.forward(forward),
    end: (_session, one, graceMs) => one.close({ graceMs }),
  };
}

/** Those that are open, or about to be. */
const sharing = new Set<Shared>();

/** What was begun, its session, and how to end it. */
export interface Used<T> {
  session: TunnelSession;
  thing: T;
  close: End;
}

/** Begins something in a session of its own, or in one that other tunnels may have, too. */
export function inSession<T>(
  options: SessionOptions,
  isNew: boolean,
  use: Use<T>,
): Promise<Used<T>> {
  return isNew || !isShareable(options) ? alone(options, use) : shared(options, use);
}

async function alone<T>(options: SessionOptions, use: Use<T>): Promise<Used<T>> {
  const session = new TunnelSession(options);
  const close: End = (graceMs) => session.close({ graceMs });
  try {
    await session.connect();
    return { session, thing: await use.begin(session), close };
  } catch (error) {
    await session.close();
    throw error;
  }
}

async function shared<T>(options: SessionOptions, use: Use<T>): Promise<Used<T>> {
  const config = checkSession(options, true);
  for (;;) {
    const found = [...sharing].find((one) => one.takes(config, use));
    const shared = found ?? new Shared(options, config);
    sharing.add(shared);
    shared.users += 1;
    try {
      await shared.ready;
      const { session } = shared;
      const thing = await use.begin(session);
      let hasLeft = false;
      const end: End = (graceMs) => use.end(session, thing, graceMs);
      const close: End = async (graceMs) => {
        if (hasLeft) return shared.giveUp(end, graceMs);
        hasLeft = true;
        await shared.leave(end, graceMs);
      };
      return { session, thing, close };
    } catch (error) {
      const isFull = error instanceof BindError && error.kitCode === 'BIND_CAP_EXCEEDED';
      const others = shared.users > 1;
      await shared.leave(undefined, undefined);
      // Somebody has closed it under its tunnels: the next one is not theirs any more.
      if (error instanceof ClosedError && found !== undefined) sharing.delete(shared);
      else if (isFull && others) shared.full = true;
      else throw error;
    }
  }
}

/** Whether a session may be shared: one that has its own end, or its own past, is one tunnel's. */
function isShareable({ signal, resumeSessionId }: SessionOptions): boolean {
  return signal === undefined && resumeSessionId === undefined;
}

/** Whether both make the same session. */
function isSame(one: CheckedSession, other: CheckedSession): boolean {
  const keys = Object.keys(one) as (keyof CheckedSession)[];
  return keys.every((key) => key === 'life' || isEqual(one[key], other[key], key));
}

function isEqual(one: unknown, other: unknown, key: string): boolean {
  if (one === other) return true;
  // A store is what it is.
  if (key === 'state' || typeof one !== 'object' || typeof other !== 'object') return false;
  return JSON.stringify(one) === JSON.stringify(other);
}
