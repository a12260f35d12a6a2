/**
 * Sessions that one-call tunnels share: those that would be made of the same options are one, until
 * the kit grants it no more bindings, and then another one is opened.
 */
import type { Binding } from './binding.js';
import { BindError, ClosedError } from './errors.js';
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
  takes(config: CheckedSession, { mode, containerPort }: BindOptions): boolean {
    if (this.full || this.session.state === 'closed') return false;
    // A port is taken over from a session, and not from oneself.
    const isOurs = this.session.bindings.some(
      (one) => one.mode === mode && one.containerPort === containerPort,
    );
    return !isOurs && isSame(this.config, config);
  }

  /** One tunnel leaves; the last one takes the session with it. */
  async leave(binding: Binding | undefined, graceMs: number | undefined): Promise<void> {
    this.users -= 1;
    this.full = false;
    await this.giveUp(binding, graceMs);
  }

  /** Closes what nobody else has; said again it may shorten the grace. */
  async giveUp(binding: Binding | undefined, graceMs: number | undefined): Promise<void> {
    if (this.users > 0) return binding && this.session.giveBack(binding, { graceMs });
    sharing.delete(this);
    await this.session.close({ graceMs });
  }
}

/** Those that are open, or about to be. */
const sharing = new Set<Shared>();

/** A binding, its session, and how to give it back. */
export interface Bound {
  session: TunnelSession;
  binding: Binding;
  close: (graceMs: number | undefined) => Promise<void>;
}

/** Binds in a session of its own. */
export async function bindAlone(options: SessionOptions, bind: BindOptions): Promise<Bound> {
  const session = new TunnelSession(options);
  const close = (graceMs: number | undefined): Promise<void> => session.close({ graceMs });
  try {
    await session.connect();
    return { session, binding: await session.bind(bind), close };
  } catch (error) {
    await session.close();
    throw error;
  }
}

/** Binds in a session that other tunnels may have, too. */
export async function bindShared(options: SessionOptions, bind: BindOptions): Promise<Bound> {
  const config = checkSession(options, true);
  for (;;) {
    const found = [...sharing].find((one) => one.takes(config, bind));
    const shared = found ?? new Shared(options, config);
    sharing.add(shared);
    shared.users += 1;
    try {
      await shared.ready;
      const binding = await shared.session.bind(bind);
      let hasLeft = false;
      const close = async (graceMs: number | undefined): Promise<void> => {
        if (hasLeft) return shared.giveUp(binding, graceMs);
        hasLeft = true;
        await shared.leave(binding, graceMs);
      };
      return { session: shared.session, binding, close };
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
export function isShareable({ signal, resumeSessionId }: SessionOptions): boolean {
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
