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
/**
 * The same where it cannot be told what lies in the buffers of the system. It takes bytes again when
 * a third of a buffer is free, and one has up to 4 MiB: at 10 KB/s that is some 140 s.
 */
export const CUT_BLIND_AFTER_MS = 150_000;
/** Milliseconds between two looks into the buffers of the system, for it tells of all at once. */
export const LOOK_EVERY_MS = 3000;
/**
 * Bytes that a sender which shares its session's credit may have outstanding on each stream as long
 * as the early budget suffices, however many they are.
 */
export const EARLY_KEEPS_PIECES_OF = 64 * KIB;
/** Bytes of a peer's session credit below which it counts as used up. */
export const DRY_BELOW = 16 * KIB;
/** Milliseconds for which it must be used up before newcomers are refused rather than kept waiting. */
export const DRY_AFTER_MS = 500;
/** Bytes of session credit that are worth a WINDOW where the peer has none left. */
export const CLAIM_LEAST = 4 * KIB;
/** Bytes of a stream's credit that are worth a WINDOW where its session is contended. */
export const CLAIM_LEAST_OF_STREAM = 256;
/** An exchange of so many bytes in all is small: it may use the last part of the credit. */
export const SMALL_BYTES = KIB;
/**
 * That part of the session's window. An older peer may withhold so much of it that a thousand who
 * come at once would use up the rest.
 */
export const KEPT_FOR_SMALL_PART = 256;
/** Of what is left of a session's credit, a stream that holds nothing may always have this part. */
export const SHARE_LEAST_PART = 128;
/**
 * Milliseconds that a stream's credit may be withheld without a word while its local side takes
 * bytes: what the kit hears of them is how it tells a slow exchange from one that stands still.
 */
export const PROGRESS_UNSAID_MS = 2000;
/** Streams whose progress is told in one sweep, who waited longest first: kits count WINDOWs. */
export const PROGRESS_AT_ONCE = 128;
/** A stream that waits is called when it may send so much, or half of its share. */
export const CALL_BYTES = 16 * KIB;
/**
 * Bytes that wait in a carrier above which streams hold their data back, and wait in turn. What waits
 * below, in the buffers of the system, keeps the link busy; more here would only delay who sends
 * little.
 */
export const LANE_BULK_MAX = 128 * KIB;
/** A carrier whose backlog falls to this has room again, and says so. */
export const LANE_ROOM_AT = LANE_BULK_MAX / 2;

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
  /** ACK; a peer tells what it took every 64 frames of ours, or 256 KiB. */
  ack: { burst: 65_536, perSecond: 16_384 },
  /** DATA without a byte. */
  emptyData: { burst: 256, perSecond: 50 },
  /** STREAM_OPEN past what was granted. */
  open: { burst: 1024, perSecond: 200 },
  /** Session frames, and frames on streams that never were. */
  asking: { burst: 2048, perSecond: 100 },
} as const satisfies Record<string, Allowance>;

/** WINDOW frames that one DATA frame of ours explains. */
export const WINDOWS_PER_DATA = 4;

/**
 * Milliseconds within which what was said before a stream broke must have left; as long as an exchange
 * may stand still that is half closed (PROTOCOL §4).
 */
export const BREAKS_WITHIN_MS = 300_000;

/** Bytes that a local side holds above which what comes in small pieces gathers for it. */
export const GATHER_ABOVE = 4 * KIB;
/** What gathers at the most before it is handed on. */
export const GATHER_BYTES = 16 * KIB;

/** How much more than the quarter of its window that an old peer withholds it may then hold. */
export const OLD_MARGIN = 64 * KIB;

/** Bytes that may come before what was taken is told (PROTOCOL §9). */
export const ACK_BYTES = 256 * KIB;
/** Frames that may. */
export const ACK_FRAMES = 64;
/** Milliseconds after a frame within which it is told; the protocol allows 50. */
export const ACK_WITHIN_MS = 25;
/** Bytes that a lane keeps until they are acknowledged, where nobody says how many. */
export const REPLAY_BUFFER = 4 * MIB;
/** A kit does not keep less. */
export const REPLAY_BUFFER_LEAST = 512 * KIB;

/** Windows and bounds that HELLO_OK named. */
export interface MuxLimits {
  streamWindow: number;
  sessionWindow: number;
  maxStreams: number;
  /** Field names travel as they were written. */
  headerCase?: boolean;
  /** Trailers travel. */
  trailers?: boolean;
  /** Heads may be larger than a frame. */
  longHeads?: boolean;
  /** We may open streams to what the kit reaches. */
  forward?: boolean;
}
