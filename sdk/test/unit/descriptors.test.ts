/**
 * A process with few descriptors: a real limit, in a process of its own.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Overload } from '../../src/index.js';
import { FixtureKit, type KitStream } from '../support/kit.js';
import { answering, listen, until } from '../support/local.js';

const LIMIT = 64;
const PROGRAM = fileURLToPath(new URL('../support/few-descriptors.js', import.meta.url));
/** Far above what any of these takes, and far below what a hang would. */
const QUICK = { timeout: 60_000 };

/** A process with a session, and what it has said. */
class Limited {
  readonly said: [string, Overload?][] = [];
  private readonly child;

  constructor(kit: FixtureKit, host: string, port: number) {
    const run = ['-c', `ulimit -n ${LIMIT} && exec "$0" "$@"`, process.execPath, PROGRAM];
    this.child = spawn('sh', [...run, kit.url, host, String(port)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    let rest = '';
    this.child.stdout.on('data', (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) this.said.push(JSON.parse(line) as [string, Overload?]);
    });
  }

  async says(word: string): Promise<void> {
    await until(() => this.said.some(([said]) => said === word));
  }

  tell(word: string): void {
    this.child.stdin.write(`${word}\n`);
  }

  /** Waits until it has told of a shortage, which must be that of descriptors, and of no other. */
  async saysWhatIsShort(): Promise<void> {
    await this.says('overloaded');
    for (const [, detail] of this.said) {
      if (detail === undefined) continue;
      assert.equal(detail.reason, 'descriptors');
      assert.match(detail.message, /ulimit -n/);
    }
  }

  async stop(): Promise<void> {
    const gone = once(this.child, 'exit');
    this.child.stdin.end();
    await gone;
  }
}

async function isTurnedAway(stream: KitStream): Promise<void> {
  const { status, headers } = await stream.head();
  assert.equal(status, 503);
  assert.ok(headers.some(([name, value]) => name === 'retry-after' && value === '1'));
}

test('half of a small limit serves visitors, and past it they hear 503', QUICK, async () => {
  const local = await listen((socket) => {
    socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\n\r\nand no end'));
  });
  const kit = await FixtureKit.start();
  const limited = new Limited(kit, '127.0.0.1', local.port);
  await limited.says('bound');
  const all = Array.from({ length: 40 }, (_, at) =>
    kit.session.get('/', { remoteAddr: `203.0.113.${at}:1` }),
  );
  const heads = await Promise.all(all.map((stream) => stream.head()));
  const served = all.filter((_, at) => heads[at]?.status === 200);
  assert.equal(served.length, LIMIT / 2);
  for (const stream of all) if (!served.includes(stream)) await isTurnedAway(stream);
  await limited.saysWhatIsShort();
  await limited.stop();
  await Promise.all([kit.stop(), local.stop()]);
});

// A name but localhost is looked up first, for which descriptors are wanted as well.
for (const host of ['127.0.0.1', 'localhost', 'LOCALHOST']) {
  test(`where no descriptor is left for ${host}, a visitor hears 503`, QUICK, async () => {
    const answer = 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok';
    const local = await answering(answer);
    const kit = await FixtureKit.start();
    const limited = new Limited(kit, host, local.port);
    await limited.says('bound');
    limited.tell('take');
    await limited.says('full');
    await isTurnedAway(kit.session.get('/'));
    await limited.saysWhatIsShort();
    limited.tell('give');
    await limited.says('empty');
    for (;;) {
      const { status } = await kit.session.get('/').head();
      if (status === 200) break;
      assert.equal(status, 503);
    }
    await limited.stop();
    await Promise.all([kit.stop(), local.stop()]);
  });
}
