/**
 * A client in a process of its own, to be killed or measured: exposes what its argument says.
 */
import { TunnelSession, type LocalAddress } from '../../../src/index.js';

interface Argument {
  url: string;
  token: string;
  to: LocalAddress;
}

const { url, token, to } = JSON.parse(process.argv[2] ?? '{}') as Argument;
const session = new TunnelSession({ url, token, reconnect: true });
await session.connect();
const web = await session.bind({ mode: 'expose', containerPort: 0, to });
console.log(`session ${session.id ?? ''}`);
console.log(`port ${web.containerPort}`);
let peak = 0;
setInterval(() => {
  peak = Math.max(peak, process.memoryUsage.rss());
  console.log(`peak ${Math.round(peak / 1024)} KiB`);
}, 100);
