/**
 * Programs that are started anew whenever their author saves them.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { later } from '../support/local.js';
import { PACKAGE, RealKit, RUNTIMES, start } from '../support/real-kit.js';

const NODE = `${RUNTIMES}/node22/bin/node`;
const BUN = `${RUNTIMES}/bun/bin/bun.exe`;

for (const [name, command, flag] of [
  ['node --watch', NODE, '--watch'],
  ['bun --watch', BUN, '--watch'],
  ['bun --hot', BUN, '--hot'],
] as const) {
  test(`under ${name} a program comes back to its port`, { timeout: 60_000 }, async () => {
    const kit = await RealKit.start();
    const folder = mkdtempSync(join(tmpdir(), 'watch-'));
    const app = join(folder, 'app.mjs');
    const write = (version: number): void =>
      writeFileSync(
        app,
        `import { tunnel } from ${JSON.stringify(`${PACKAGE}dist/index.js`)};
         const app = await tunnel.serve({
           ...${JSON.stringify(kit.options)},
           containerPort: 0,
           state: ${JSON.stringify(join(folder, 'state.json'))},
           fetch: () => new Response('version ${version}'),
         });
         console.log('version ${version} on port', app.bind.containerPort);`,
      );
    write(1);
    const program = start(command, [flag, app], { cwd: folder });
    const port = await program.says(/version 1 on port (\d+)/);
    const ask = async (): Promise<string> => (await fetch(`http://127.0.0.1:${port}/`)).text();
    assert.equal(await ask(), 'version 1');
    for (const version of [2, 3]) {
      // Watchers look at the time of a change.
      await later(1100);
      write(version);
      const again = await program.says(new RegExp(`version ${version} on port (\\d+)`));
      assert.equal(again, port, program.output);
      assert.equal(await ask(), `version ${version}`);
    }
    await program.stop();
    await kit.stop();
    rmSync(folder, { recursive: true });
  });
}
