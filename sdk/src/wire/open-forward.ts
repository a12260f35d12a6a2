/** What a stream of ours is to reach from the container (PROTOCOL §8). */
export type OpenForward = { kind: 'tcp'; mode: 'forward' } & (
  { host: string; port: number } | { unix: string }
);
