/**
 * What a session forwards, and where their streams are opened.
 */
import type { Report } from '../local/report.js';
import type { MuxSession } from '../mux/session.js';
import { ForwardError, NOT_GRANTED } from './errors.js';
import type { TunnelEventMap } from './events.js';
import { Forward, type ForwardOwner } from './forward.js';
import { checkForward, type ForwardOptions } from './forward-options.js';
import type { Life } from './life.js';

/** What it asks of the session. */
export interface ForwardsOf {
  /** The streams of the session, while there is a connection for them. */
  mux(): MuxSession | undefined;
  report(): Report;
  failed(detail: TunnelEventMap['forwardFailed']): void;
  /** Throws where the session is not connected yet, or is over. */
  mustBeOpen(): void;
  readonly life: Life;
}

/** See the module. */
export class Forwards {
  private readonly all = new Set<Forward>();
  private readonly owner: ForwardOwner;

  constructor(private readonly session: ForwardsOf) {
    this.owner = {
      open: (open, sinkOf) => {
        const mux = session.mux();
        return mux?.limits.forward === false ? false : mux?.open(open, sinkOf);
      },
      report: () => session.report(),
      failed: (detail) => session.failed(detail),
      left: (forward) => this.all.delete(forward),
      life: session.life,
    };
  }

  /** Those that listen. */
  get list(): Forward[] {
    return [...this.all];
  }

  /** Begins one. */
  async begin(options: ForwardOptions): Promise<Forward> {
    const checked = checkForward(options);
    this.session.mustBeOpen();
    checked.signal?.throwIfAborted();
    if (this.session.mux()?.limits.forward === false) {
      throw new ForwardError('not-granted', `Nothing was forwarded: ${NOT_GRANTED}.`);
    }
    const forward = new Forward(this.owner, checked);
    this.all.add(forward);
    try {
      await forward.listen();
      // It may be over by now.
      this.session.mustBeOpen();
    } catch (error) {
      forward.release();
      throw error;
    }
    return forward;
  }

  /** Nobody new comes in. */
  release(): void {
    for (const forward of this.list) forward.release();
  }
}
