// The client of the bench's SDK row: one session, HTTP through EXPOSE and raw TCP through PULL.
//
//     node bench/sdk-client.mjs URL expose:TARGET=PORT … pull:TARGET=PORT …
import { TunnelSession } from '../sdk/dist/index.js';

const [url, ...words] = process.argv.slice(2);
const session = new TunnelSession({ url, reconnect: true });
await session.connect();
for (const word of words) {
  const [mode, pair] = word.split(':');
  const [target, containerPort] = pair.split('=').map(Number);
  const kind = mode === 'expose' ? 'http' : 'tcp';
  await session.bind({ kind, mode, containerPort, to: { host: '127.0.0.1', port: target } });
}
console.log('ready');
