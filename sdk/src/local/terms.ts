/**
 * What callers say about the local side, and what they are told of it. Nothing here needs a
 * runtime's own types, so that neither do the package's declarations.
 */

/**
 * A local server: `3000`, `'localhost:3000'`, `'host:port'`, `'http://host:port/path'` whose path then
 * stands in front of each request's, `'https://host:port'`, or `'unix:/run/app.sock'`. A port alone is
 * one of `localhost`, of which both addresses are tried.
 */
export type LocalAddress =
  | number
  | string
  | { host: string; port: number }
  | { /** The path of a Unix socket. */ socketPath: string };

/** How a server that speaks TLS is trusted. */
export interface UpstreamTrust {
  /** Certificates of authorities (PEM text), in place of the runtime's own. */
  ca: string | string[] | undefined;
  /** Whoever answers is trusted. */
  insecure: boolean;
}

/** What the local server gets as Host: its own address, what the visitor sent, or a fixed name. */
export type HostHeader = 'rewrite' | 'keep' | (string & {});

/** The version of HAProxy's PROXY protocol in which a server is told who is calling. */
export type ProxyProtocol = 1 | 2;

/** The binding that a request came to. */
export interface HandlerBinding {
  readonly bindId: number;
  readonly containerPort: number;
  readonly publicUrl: string | null;
}

/** What a handler is told beside the request. */
export interface HandlerInfo {
  /** The visitor's address and port, where the kit says them. */
  remoteAddr: string | undefined;
  binding: HandlerBinding;
}

/** A function that answers requests. */
export type FetchHandler = (request: Request, info: HandlerInfo) => Response | Promise<Response>;

/**
 * A function that is told what a handler threw, or what came of its response, and may answer in its
 * place. An answer that comes behind the head of another one is not taken.
 */
export type ErrorHandler =
  | ((error: unknown, request: Request) => void)
  | ((error: unknown, request: Request) => Response | undefined | Promise<Response | undefined>);

/** One exchange, told when it is over. */
export interface ExchangeReport {
  kind: 'http' | 'tcp';
  bindId: number | undefined;
  containerPort: number | undefined;
  remoteAddr: string | undefined;
  /** Empty for TCP. */
  method: string;
  /** Empty for TCP. */
  target: string;
  /** The status that was sent; 0 when none was, and for TCP. */
  status: number;
  /** Body bytes from the visitor. */
  bytesIn: number;
  /** Body bytes to the visitor. */
  bytesOut: number;
  durationMs: number;
  /** Why it did not end well; undefined when it did. */
  error: string | undefined;
}

/** How large an answer's head may be. */
export interface HeadLimits {
  readonly bytes: number;
  readonly fields: number;
}

/** What there is too little of on this machine. */
export type Shortage = 'connections' | 'descriptors' | 'handlers';

/** How many visitors could not be served since the last word, and for what reason. */
export interface Overload {
  reason: Shortage;
  refused: number;
  /** What to do about it. */
  message: string;
}
