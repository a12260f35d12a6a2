/**
 * A lock beside a file, for as long as this process lives: the runtimes have none of the system's.
 *
 * The lock is a file that names its process, put in place whole and only where there is none. One
 * whose process is gone is stale: its pid is nobody's, or, where the system tells (Linux does), that
 * of a process that began at another time, or it is older than the system's start. All objects of a
 * process share its lock, also those of a module that was loaded anew; those of its workers do not.
 */
import { randomBytes } from 'node:crypto';
import { linkSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { uptime } from 'node:os';
import { resolve } from 'node:path';
import { threadId } from 'node:worker_threads';

/** How often a stale lock is taken away, in case others do the same. */
const ATTEMPTS = 5;
/** How much the clock may have been set since the system started, in milliseconds. */
const CLOCK_MS = 60_000;
/** The longest lock that is read. */
const MOST_BYTES = 256;

/** How many objects of this process use a lock, by its path. */
const SHARED = Symbol.for('@hoody-ai/hoody-tunnel-sdk locks');
const shared = globalThis as unknown as Record<symbol, Map<string, number> | undefined>;
const uses = (shared[SHARED] ??= new Map<string, number>());

/** See the module. */
export class FileLock {
  private isHeld = true;

  private constructor(private readonly path: string) {}

  /** Takes the lock of a file, or returns the pid of the process that has it. Throws what the system says. */
  static take(file: string): FileLock | number {
    const path = `${resolve(file)}.lock`;
    const count = uses.get(path) ?? 0;
    const holder = count > 0 ? undefined : claim(path);
    if (holder !== undefined) return holder;
    uses.set(path, count + 1);
    return new FileLock(path);
  }

  /** This object does not need it any more. */
  release(): void {
    if (!this.isHeld) return;
    this.isHeld = false;
    const count = (uses.get(this.path) ?? 1) - 1;
    if (count > 0) return void uses.set(this.path, count);
    uses.delete(this.path);
    rmSync(this.path, { force: true });
  }
}

/** Puts our lock in place; returns the pid of whoever has it instead. */
function claim(path: string): number | undefined {
  const mine = `${path}.${randomBytes(6).toString('hex')}`;
  const name = `${process.pid} ${beganAt(process.pid)} ${threadId}\n`;
  writeFileSync(mine, name, { mode: 0o600, flag: 'wx' });
  try {
    for (let n = 0; n < ATTEMPTS; n += 1) {
      if (linked(mine, path)) return undefined;
      const text = read(path);
      // Where nobody uses it, it was taken before this process replaced its program by another.
      if (text === name) return undefined;
      if (!isStale(path, text)) return Number.parseInt(text, 10);
      takeAway(path, text, mine);
    }
    return Number.parseInt(read(path), 10) || 0;
  } finally {
    rmSync(mine, { force: true });
  }
}

function linked(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if ((error as { code?: unknown }).code === 'EEXIST') return false;
    throw error;
  }
}

/** Takes a stale lock away; one that came in its place meanwhile is put back. */
function takeAway(path: string, stale: string, mine: string): void {
  const aside = `${mine}.stale`;
  try {
    renameSync(path, aside);
    if (read(aside) !== stale) linked(aside, path);
    rmSync(aside, { force: true });
  } catch (error) {
    // Somebody else was quicker.
    if ((error as { code?: unknown }).code !== 'ENOENT') throw error;
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8').slice(0, MOST_BYTES);
  } catch {
    return '';
  }
}

function isStale(path: string, text: string): boolean {
  const [, pid, began] = /^([1-9][0-9]*) ([0-9]*) [0-9]+\n$/.exec(text) ?? [];
  // It is put in place whole, so that this is none of ours.
  if (pid === undefined) return true;
  if (!isAlive(Number(pid)) || beganAt(Number(pid)) !== began) return true;
  const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
  return age > uptime() * 1000 + CLOCK_MS;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as { code?: unknown }).code === 'EPERM';
  }
}

/** When a process began, in the system's own terms; empty where that cannot be told. */
function beganAt(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // Its name comes before, in parentheses, and may hold anything.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}
