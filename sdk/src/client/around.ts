/**
 * What stands around a link: the session above it, and what it goes on from.
 */
import type { StreamOpen } from '../wire/control.js';
import type { Frame } from '../wire/frame.js';
import type { MuxStream } from '../mux/stream.js';
import type { LinkEnd } from './ends.js';
import type { Link } from './link.js';
import type { Memory } from './memory.js';
import type { Ways } from './ways.js';

/** Whether any session will do, the one of before while there is hope for it, or that one alone. */
export type Wants = 'any' | 'before' | 'before alone';

/** What a link goes on from. */
export interface Around {
  ways: Ways;
  memory: Memory | undefined;
  before: Link | undefined;
  /** How much the session of before, and no other, is wanted. */
  wants: Wants;
}

/** What a link asks of the session above it. */
export interface LinkHost {
  /** HELLO_OK came; told before any other frame. */
  online(link: Link): void;
  accept(stream: MuxStream, open: StreamOpen): void;
  control(frame: Frame): void;
  /** The primary is lost, and the session goes on without it until there is another. */
  limps(link: Link): void;
  ended(link: Link, end: LinkEnd): void;
}
