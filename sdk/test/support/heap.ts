/**
 * What the heap holds, after everything that can be let go of was.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { later } from './local.js';

interface BunGlobal {
  Bun?: { gc: (synchronous: boolean) => void };
}

function collect(): void {
  const { Bun } = globalThis as BunGlobal;
  if (Bun !== undefined) return Bun.gc(true);
  setFlagsFromString('--expose_gc');
  (runInNewContext('gc') as () => void)();
}

/** Bytes in use, on the heap and in buffers. */
export async function heapBytes(): Promise<number> {
  for (let times = 0; times < 3; times += 1) {
    await later(20);
    collect();
  }
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** Waits until the heap is back under `limit`; the test runner's time-out is what fails it. */
export async function heapUnder(limit: number): Promise<void> {
  while ((await heapBytes()) > limit) await later(100);
}
