// The client of the bench's SDK row: one session, HTTP through EXPOSE and raw TCP through PULL.
//
//     node bench/sdk-client.mjs URL HTTP_TARGET=PORT STREAM_TARGET=PORT
import { TunnelSession } from '../sdk/dist/index.js';

const [url, ...pairs] = process.argv.slice(2);
const [[http, httpPort], [stream, streamPort]] = pairs.map((pair) => pair.split('=').map(Number));
const session = new TunnelSession({ url });
await session.connect();
const to = (port) => ({ host: '127.0.0.1', port });
await session.bind({ kind: 'http', mode: 'expose', containerPort: httpPort, to: to(http) });
await session.bind({ kind: 'tcp', mode: 'pull', containerPort: streamPort, to: to(stream) });
console.log('ready');
