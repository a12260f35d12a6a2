/**
 * How tunnels say goodbye when their process ends, each in a process of its own.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { FixtureKit } from '../support/kit.js';
import { until } from '../support/local.js';

const LIBRARY = new URL('../../src/index.js', import.meta.url).href;
const IN_TIME = { timeout: 30_000 };

interface Ended {
  code: number | null;
  signal: string | null;
  said: string[];
  left: number;
}

/** Runs a program with a tunnel `app`; `act` is called when it has said `up`. */
async function running(
  options: string,
  program: string,
  act: (child: ReturnType<typeof spawn>) => void,
): Promise<Ended> {
  const kit = await FixtureKit.start();
  const text = `
    const { tunnel } = await import(${JSON.stringify(LIBRARY)});
    const url = ${JSON.stringify(kit.url)};
    const app = await tunnel.expose({ url, containerPort: 3000, ${options} });
    const say = (text) => process.stdout.write(text + '\\n');
    ${program}
    say('up');
  `;
  const bun = 'Bun' in globalThis;
  const child = spawn(process.execPath, [...(bun ? [] : ['--input-type=module']), '-e', text], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const said: string[] = [];
  child.stdout.on('data', (chunk: Buffer) => {
    const lines = chunk.toString().trim().split('\n');
    said.push(...lines);
    if (lines.includes('up')) act(child);
  });
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  // Its process is gone, and what it said last may still be on its way.
  await until(() => [...kit.sessions.values()].every(({ lanes }) => lanes.size === 0));
  // What ends without a goodbye is parked by the kit.
  const left = kit.sessions.size;
  await kit.stop();
  return { code, signal, said, left };
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  test(`${signal} ends the process as it would, behind a goodbye`, IN_TIME, async () => {
    const ended = await running('', '', (child) => child.kill(signal));
    assert.deepEqual([ended.signal, ended.left], [signal, 0]);
    const shared = await running('', 'await tunnel.pull({ url, containerPort: 1 });', (child) =>
      child.kill(signal),
    );
    assert.deepEqual([shared.signal, shared.left], [signal, 0]);
  });
}

test('whoever listens for the signal says what becomes of the process', IN_TIME, async () => {
  const program = `
    process.on('SIGTERM', async () => {
      say('mine');
      await app.closed;
      say(app.session.state);
      process.exitCode = 7;
    });`;
  const ended = await running('', program, (child) => child.kill('SIGTERM'));
  assert.deepEqual(ended.said, ['up', 'mine', 'closed']);
  assert.deepEqual([ended.code, ended.left], [7, 0]);
});

test('without closeOnExit nothing is said, and nobody listens', IN_TIME, async () => {
  const ended = await running('closeOnExit: false', '', (child) => child.kill('SIGTERM'));
  assert.deepEqual([ended.signal, ended.left], ['SIGTERM', 1]);
  for (const [more, signal, left] of [
    ['', 'SIGTERM', 1],
    ['', 'SIGINT', 0],
    ['closeOnExit: true,', 'SIGTERM', 0],
  ] as const) {
    // Watchers restart a program by SIGTERM, and with `state` it is to come back to its port.
    const file = join(mkdtempSync(join(tmpdir(), 'exit-')), 'state.json');
    const options = `${more} state: ${JSON.stringify(file)}`;
    const watched = await running(options, '', (child) => child.kill(signal));
    assert.deepEqual([watched.signal, watched.left], [signal, left], options);
  }
  const closed = `say(process.listenerCount('SIGTERM')); await app.close();
    say(process.listenerCount('SIGTERM'));`;
  const { said } = await running('', closed, () => undefined);
  assert.deepEqual(said, ['1', '0', 'up']);
});

/** Bun's WebSocket keeps its process alive. */
const withoutBun = 'Bun' in globalThis ? () => undefined : test;
withoutBun(
  'a tunnel with unref keeps nobody alive, and says goodbye at the end',
  IN_TIME,
  async () => {
    const ended = await running('', 'app.unref();', () => undefined);
    assert.deepEqual([ended.code, ended.left], [0, 0]);
    let isAlive = true;
    const kept = running('', '', (child) => {
      child.on('exit', () => (isAlive = false));
      setTimeout(() => {
        assert.ok(isAlive);
        child.kill('SIGTERM');
      }, 300);
    });
    assert.equal((await kept).signal, 'SIGTERM');
    await until(() => !isAlive);
  },
);
