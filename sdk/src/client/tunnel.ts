/**
 * The one-call forms: one binding each, that comes back after every loss.
 */
import { TunnelAdmin } from './admin.js';
import type { Binding } from './binding.js';
import { OptionsError } from './errors.js';
import { ForwardTunnel } from './forward-tunnel.js';
import { checkForward, splitForward, type ForwardCallOptions } from './forward-options.js';
import type { TunnelEvent } from './events.js';
import {
  checkBind,
  checkSession,
  type AdminOptions,
  type Call,
  type ExposeOptions,
  type PullOptions,
  type ServeOptions,
  split,
} from './options.js';
import type { Ending } from './goodbye.js';
import { OneCall } from './one-call.js';
import { binding, forwarding, inSession, type Used } from './shared.js';

/** One binding, in a session that other tunnels may have, too. */
export class Tunnel extends OneCall<Binding> {
  /** @internal */
  constructor(
    used: Used<Binding>,
    private readonly kitHost: string,
    leavesAt: readonly Ending[],
  ) {
    super(used, leavesAt);
    // Whoever took the port over is meant to have it: there is nothing left to do here.
    const takenOver = ({ detail }: TunnelEvent<'takenOver'>): void => {
      if (detail.bindId === this.bind.bindId) void this.close();
    };
    this.session.addEventListener('takenOver', takenOver, { signal: this.over });
  }

  /** Its binding. */
  get bind(): Binding {
    return this.thing;
  }

  /** The address that the kit's URL pattern gives; null when the kit has none. */
  get publicUrl(): string | null {
    return this.bind.publicUrl;
  }

  /** `publicUrl`, or else the kit's own host with the port. */
  get url(): string {
    const scheme = this.bind.kind === 'http' ? 'http' : 'tcp';
    return this.publicUrl ?? `${scheme}://${this.kitHost}:${this.bind.containerPort}`;
  }

  protected override isAbout(detail: object): boolean {
    const about = detail as Record<string, unknown>;
    const { bindId, containerPort, localPort, kind, target } = about;
    // What is forwarded has a port of this machine, and TCP of a binding no target.
    if (localPort !== undefined || (kind === 'tcp' && Boolean(target))) return false;
    if (bindId !== undefined) return bindId === this.bind.bindId;
    return containerPort === undefined || containerPort === this.bind.containerPort;
  }
}

async function open({ session: given, bind, isNew, leavesAt }: Call): Promise<Tunnel> {
  const session = { reconnect: true, ...given };
  const { connectUrl } = checkSession(session, true);
  checkBind(bind);
  const bound = await inSession(session, isNew, binding(bind));
  return new Tunnel(bound, connectUrl.hostname, leavesAt);
}

/** Makes a local HTTP server, or with `kind: 'tcp'` any, reachable at a port in the container. */
async function expose(options: ExposeOptions): Promise<Tunnel> {
  return open(split(options, 'expose', 'tunnel.expose'));
}

/** Makes a local TCP server reachable at a loopback port in the container. */
async function pull(options: PullOptions): Promise<Tunnel> {
  return open(split(options, 'pull', 'tunnel.pull'));
}

/** Makes something that the container reaches available at a port of this machine. */
async function forward(options: ForwardCallOptions): Promise<ForwardTunnel> {
  const { session: given, forward, isNew, leavesAt } = splitForward(options);
  const session = { reconnect: true, ...given };
  checkSession(session, true);
  checkForward(forward);
  return new ForwardTunnel(await inSession(session, isNew, forwarding(forward)), leavesAt);
}

/** Answers the requests that come to a port in the container in this process. */
async function serve(options: ServeOptions): Promise<Tunnel> {
  const parts = split(options, 'expose', 'tunnel.serve');
  if (typeof options.fetch !== 'function') throw new OptionsError('fetch must be a function');
  return open(parts);
}

/** The administrative side of a kit. */
function admin(options: AdminOptions): TunnelAdmin {
  return new TunnelAdmin(options);
}

/** The one-call forms. */
export const tunnel = { expose, pull, forward, serve, admin } as const;
