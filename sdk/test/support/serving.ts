/**
 * A handler behind a kit of our own, and what is printed of it.
 */
import { format } from 'node:util';
import { tunnel, type FetchHandler } from '../../src/index.js';
import { FixtureKit, type KitConfig } from './kit.js';

export async function serving(
  fetch: FetchHandler,
  body: (kit: FixtureKit) => Promise<void>,
  config: KitConfig = {},
): Promise<void> {
  const kit = await FixtureKit.start(config);
  const s = await tunnel.serve({ url: kit.url, containerPort: 3000, fetch });
  try {
    await body(kit);
  } finally {
    await s.close();
    await kit.stop();
  }
}

/** What is printed as an error meanwhile. */
export async function printing(body: () => Promise<void>): Promise<string> {
  const { error } = console;
  let printed = '';
  console.error = (...args: unknown[]) => void (printed += `${format(...args)}\n`);
  try {
    await body();
  } finally {
    console.error = error;
  }
  return printed;
}
