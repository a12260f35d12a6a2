/**
 * Tunnels say goodbye where their process ends in order: at SIGINT, at SIGTERM, and when nothing is
 * left to do. A kit that has not heard it holds their ports until they come back.
 */
import process from 'node:process';
import { EXIT_GRACE_MS } from './patience.js';

/** What says goodbye. */
export interface Leaver {
  close(options: { graceMs: number }): Promise<void>;
}

/** At which signals tunnels say goodbye. */
export type Ending = 'SIGINT' | 'SIGTERM';

const SIGNALS: readonly Ending[] = ['SIGINT', 'SIGTERM'];
const leavers = new Map<Leaver, readonly Ending[]>();
let leaving = false;

/**
 * One that is to say goodbye, at these signals and at `beforeExit`; the returned function calls that
 * off.
 */
export function saysGoodbye(leaver: Leaver, at = SIGNALS): () => void {
  if (leavers.size === 0) listen();
  leavers.set(leaver, at);
  return () => {
    leavers.delete(leaver);
    if (leavers.size === 0 && !leaving) unlisten();
  };
}

function listen(): void {
  for (const signal of SIGNALS) process.on(signal, onSignal);
  process.on('beforeExit', onIdle);
}

function unlisten(): void {
  for (const signal of SIGNALS) process.removeListener(signal, onSignal);
  process.removeListener('beforeExit', onIdle);
}

/**
 * Without us the signal would have ended the process, unless others listen for it: then it is theirs
 * to say what becomes of it. A second one does not wait.
 */
function onSignal(signal: Ending): void {
  const isOurs = process.listenerCount(signal) === 1;
  const raise = (): void => {
    leaving = false;
    unlisten();
    if (isOurs) process.kill(process.pid, signal);
    else if (leavers.size > 0) listen();
  };
  if (leaving) return raise();
  leaving = true;
  void closeAll(signal).then(raise);
}

function onIdle(): void {
  void closeAll();
}

async function closeAll(signal?: Ending): Promise<void> {
  const leaving = [...leavers].filter(([, at]) => signal === undefined || at.includes(signal));
  await Promise.allSettled(leaving.map(([one]) => one.close({ graceMs: EXIT_GRACE_MS })));
}
