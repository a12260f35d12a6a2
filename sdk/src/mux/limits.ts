/**
 * The bounds of a session, and who yields when each is reached.
 */

const KIB = 1024;
const MIB = 1024 * KIB;

/** The largest windows that a kit is believed; one that sends past them breaks the protocol. */
export const MAX_STREAM_WINDOW = 16 * MIB;
/** See `MAX_STREAM_WINDOW`. */
export const MAX_SESSION_WINDOW = 64 * MIB;
/** Streams at once; what is opened past them is refused, and its visitor gets a 503. */
export const MAX_STREAMS = 4096;
/**
 * Bytes of request heads (as JSON) whose answers have not begun; what is opened past them is
 * refused, and its visitor gets a 503.
 */
export const HEADS_MAX = 16 * MIB;
/**
 * Bytes that local sides hold beyond the session window, so that those who are slow do not stop the
 * others. Past it credit is withheld, and who took nothing for `CUT_AFTER_MS` is reset.
 */
export const EARLY_BUDGET = 32 * MIB;
/** Milliseconds without a byte taken after which a stream may be reset, if others are short. */
export const CUT_AFTER_MS = 30_000;
/** A stream that waits is called when it may send so much, or half of its share. */
export const CALL_BYTES = 16 * KIB;
/**
 * Bytes that wait in a lane above which we stop reading from its peer. Bulk stops long before, so
 * what fills the rest answers a kit that asks and does not read.
 */
export const LANE_QUEUE_MAX = 2 * MIB;

/**
 * Bytes that wait in a lane above which its session ends: reading has stopped long before, where the
 * runtime can, so that a kit which does not read for so long takes memory for nothing.
 */
export const LANE_QUEUE_END = 16 * MIB;

/** A bucket's size: how many at once, and how many more a second. */
export interface Allowance {
  burst: number;
  perSecond: number;
}

/** Frames that cost us more than the kit. The session ends at the first one too many. */
export const FLOODS = {
  /** PING, of the tunnel or of the WebSocket. */
  ping: { burst: 64, perSecond: 10 },
  /** WINDOW that DATA of ours does not explain; each explains so many (PROTOCOL §5). */
  window: { burst: 4096, perSecond: 500 },
  /** DATA without a byte. */
  emptyData: { burst: 256, perSecond: 50 },
  /** STREAM_OPEN past what was granted. */
  open: { burst: 1024, perSecond: 200 },
  /** Session frames, and frames on streams that never were. */
  asking: { burst: 2048, perSecond: 100 },
} as const satisfies Record<string, Allowance>;

/** WINDOW frames that one DATA frame of ours explains. */
export const WINDOWS_PER_DATA = 4;
