/**
 * Ports that a fresh session has to ask for again. One that is refused costs only its own binding:
 * it is told, and asked for again with pauses.
 */
import type { Binding } from './binding.js';
import { sleep } from './backoff.js';
import { BindError } from './errors.js';
import type { TunnelEventMap } from './events.js';

const FIRST_MS = 1000;
const LAST_MS = 30_000;
/** Refusals of a port that say nothing against another one. */
const OTHER_PORT_HELPS = ['ALREADY_BOUND', 'PORT_IN_USE', 'RESERVED_PORT', 'PRIVILEGED_PORT'];

/** What asking again needs of the session. */
export interface RebindOwner {
  /** Whether the binding is still to be had. */
  wants(binding: Binding): boolean;
  /** Asks the kit; rejects with a `BindError` when it says no. */
  ask(binding: Binding, containerPort: number, signal: AbortSignal): Promise<void>;
  refused(detail: TunnelEventMap['bindRefused']): void;
}

/** Asks for all of them; resolves when each was granted or refused once. */
export async function bindAgain(
  bindings: Iterable<Binding>,
  owner: RebindOwner,
  signal: AbortSignal,
): Promise<void> {
  const all = [...bindings].map(async (binding) => {
    const refusal = await ask(binding, owner, signal);
    if (refusal !== undefined) void insist(binding, refusal, owner, signal);
  });
  await Promise.all(all);
}

/** Asks until it is granted, not wanted, or the connection is gone. */
async function insist(
  binding: Binding,
  first: BindError,
  owner: RebindOwner,
  signal: AbortSignal,
): Promise<void> {
  const gone = (): boolean => signal.aborted || !owner.wants(binding);
  let refusal = first;
  for (let pause = FIRST_MS; !gone(); pause = Math.min(LAST_MS, pause * 2)) {
    const { containerPort, kind, mode } = binding;
    const { kitCode, message } = refusal;
    owner.refused({ containerPort, kind, mode, code: kitCode, message, retryMs: pause });
    await sleep(pause, signal, true);
    if (gone()) return;
    try {
      const next = await ask(binding, owner, signal);
      if (next === undefined) return;
      refusal = next;
    } catch {
      // No answer in time, or the connection is gone: in the latter case the next one asks.
    }
  }
}

async function ask(
  binding: Binding,
  owner: RebindOwner,
  signal: AbortSignal,
): Promise<BindError | undefined> {
  const { containerPort } = binding;
  const refusal = await attempt(() => owner.ask(binding, containerPort, signal));
  const any =
    refusal !== undefined && binding.takesAny && OTHER_PORT_HELPS.includes(refusal.kitCode);
  return any ? attempt(() => owner.ask(binding, 0, signal)) : refusal;
}

async function attempt(act: () => Promise<void>): Promise<BindError | undefined> {
  try {
    await act();
    return undefined;
  } catch (error) {
    if (error instanceof BindError) return error;
    throw error;
  }
}
