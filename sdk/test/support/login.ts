/**
 * A server that logs *connections* in, as NTLM does: the first message gets a challenge, the second
 * proves who somebody is, and whatever comes on that connection later is served as that person.
 */
import { listen, type LocalServer } from './local.js';

export async function loginServer(scheme = 'NTLM'): Promise<LocalServer> {
  let challenges = 0;
  return listen((socket) => {
    let user = 'nobody';
    let challenge = '';
    let pending = '';
    const answer = (status: string, body: string, more = ''): void => {
      const head = `HTTP/1.1 ${status}\r\ncontent-length: ${body.length}\r\n${more}\r\n`;
      socket.write(head + body);
    };
    const serve = (head: string): void => {
      const [, said, text = ''] =
        /^authorization: *(\S+) *(.*)$/im.exec(head)?.map((part) => part.trim()) ?? [];
      const ours = said?.toLowerCase() === scheme.toLowerCase();
      if (ours && text === 'hello') {
        challenge = `challenge-${++challenges}`;
        answer('401 Unauthorized', '', `WWW-Authenticate: ${scheme} ${challenge}\r\n`);
      } else if (ours && challenge !== '' && text.endsWith(challenge)) {
        // Only who was challenged on this very connection can prove anything.
        user = text.slice(0, text.indexOf(' '));
        answer('200 OK', user);
      } else if (head.includes(' /private') && user === 'nobody') {
        answer('401 Unauthorized', '', `WWW-Authenticate: ${scheme}\r\n`);
      } else answer('200 OK', user);
    };
    socket.on('data', (chunk) => {
      pending += chunk.toString('latin1');
      for (let end = pending.indexOf('\r\n\r\n'); end >= 0; end = pending.indexOf('\r\n\r\n')) {
        serve(pending.slice(0, end));
        pending = pending.slice(end + 4);
      }
    });
    socket.on('end', () => socket.end());
  });
}
