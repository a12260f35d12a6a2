/**
 * A session with a fixture kit that exposes a local port, for the length of a test.
 */
import { TunnelSession, type BindOptions, type SessionOptions } from '../../src/index.js';
import { FixtureKit, type KitConfig } from './kit.js';

export interface Exposed {
  kit: FixtureKit;
  session: TunnelSession;
}

export interface ExposedWith {
  bind?: Partial<BindOptions>;
  kit?: KitConfig;
  session?: Partial<SessionOptions>;
}

export async function exposing(
  port: number | undefined,
  body: (exposed: Exposed) => Promise<void>,
  more: ExposedWith = {},
): Promise<void> {
  const kit = await FixtureKit.start(more.kit);
  const session = new TunnelSession({ url: kit.url, ...more.session });
  try {
    await session.connect();
    const to = port === undefined ? {} : { to: { host: '127.0.0.1', port } };
    await session.bind({ mode: 'expose', containerPort: 3000, ...to, ...more.bind });
    await body({ kit, session });
  } finally {
    await session.close({ graceMs: 0 });
    await kit.stop();
  }
}
