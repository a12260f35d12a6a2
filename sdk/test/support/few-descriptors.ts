/**
 * A program with a session, run under a small limit of descriptors: told by a word a line to take
 * all that are left, and to give them back. It prints what its session tells.
 */
import { closeSync, openSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { TunnelSession } from '../../src/index.js';

const [url = '', host = '', port = ''] = process.argv.slice(2);
const taken: number[] = [];

function takeAll(): void {
  try {
    for (;;) taken.push(openSync('/dev/null', 'r'));
  } catch {
    say('full');
  }
}

function say(...what: unknown[]): void {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

const session = new TunnelSession({ url });
session.addEventListener('overloaded', ({ detail }) => say('overloaded', detail));
await session.connect();
const to = { host, port: Number(port) };
await session.bind({ mode: 'expose', containerPort: 3000, to });
say('bound');

createInterface(process.stdin).on('line', (line) => {
  if (line === 'take') takeAll();
  else if (line === 'give') {
    for (const fd of taken.splice(0)) closeSync(fd);
    say('empty');
  }
});
process.stdin.on('end', () => process.exit());
