import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { TunnelSession } from '../../src/index.js';
import { FileLock } from '../../src/client/lock.js';
import { FixtureKit } from '../support/kit.js';

const MODULE = new URL('../../src/client/lock.js', import.meta.url).href;

/** Another process that has the lock of a file; resolves when it has. */
async function other(file: string): Promise<ChildProcess> {
  const program = `
    import { FileLock } from ${JSON.stringify(MODULE)};
    const lock = FileLock.take(${JSON.stringify(file)});
    console.log(lock instanceof FileLock ? 'has it' : 'has not');
    setInterval(() => undefined, 1000);`;
  const script = `${file}.holder.mjs`;
  writeFileSync(script, program);
  const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  assert.equal(said.toString().trim(), 'has it');
  return child;
}

async function withFile(body: (file: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'lock-'));
  try {
    await body(join(folder, 'state.json'));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('a second process makes its own session, until the first one has died', async () => {
  const kit = await FixtureKit.start();
  await withFile(async (state) => {
    const holder = await other(state);
    const text = JSON.stringify({ kit: 'x', sessionId: 'S-of-the-first', bindings: [] });
    writeFileSync(state, text, { mode: 0o600 });
    const session = new TunnelSession({ url: kit.url, state });
    const unsaved: string[] = [];
    session.addEventListener('unsaved', ({ detail }) => unsaved.push(detail.message));
    await session.connect();
    await session.close();
    assert.match(unsaved.join(), new RegExp(`in use by process ${String(holder.pid)}:`));
    assert.equal(readFileSync(state, 'utf8'), text);
    holder.kill('SIGKILL');
    await once(holder, 'exit');
    const next = new TunnelSession({ url: kit.url, state });
    next.addEventListener('unsaved', ({ detail }) => unsaved.push(detail.message));
    await next.connect();
    assert.ok(readFileSync(state, 'utf8').includes(next.id ?? '?'));
    assert.equal(unsaved.length, 1);
    await next.close();
    assert.ok(!existsSync(state) && !existsSync(`${state}.lock`));
  });
  await kit.stop();
});

test('a lock is stale when its pid is nobody, or somebody else, or it says nothing', async () => {
  await withFile(async (file) => {
    const holder = await other(file);
    const text = readFileSync(`${file}.lock`, 'utf8');
    assert.equal(FileLock.take(file), holder.pid);
    const wrong = process.platform === 'linux' ? [text.replace(/ .* /, ' 1 ')] : [];
    for (const stale of ['', 'nonsense\n', '0  0\n', `${2 ** 30} 5 0\n`, ...wrong]) {
      writeFileSync(`${file}.lock`, stale);
      const lock = FileLock.take(file);
      assert.ok(lock instanceof FileLock, stale);
      lock.release();
      lock.release();
      assert.ok(!existsSync(`${file}.lock`));
    }
    holder.kill('SIGKILL');
    await once(holder, 'exit');
    const left = readdirSync(join(file, '..'));
    assert.deepEqual(left, ['state.json.holder.mjs']);
  });
});

test('all objects of a process share its lock, and the last one gives it back', async () => {
  await withFile((file) => {
    const [one, two] = [FileLock.take(file), FileLock.take(file)];
    assert.ok(one instanceof FileLock && two instanceof FileLock);
    one.release();
    assert.ok(existsSync(`${file}.lock`));
    two.release();
    assert.ok(!existsSync(`${file}.lock`));
    return Promise.resolve();
  });
});
