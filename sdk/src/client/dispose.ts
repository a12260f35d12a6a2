/**
 * `Symbol.asyncDispose` for runtimes that came before it, so that `await using` works. One that is
 * there is never touched.
 */
if (typeof (Symbol as { asyncDispose?: symbol }).asyncDispose !== 'symbol') {
  Object.defineProperty(Symbol, 'asyncDispose', {
    value: Symbol.for('Symbol.asyncDispose'),
    configurable: false,
    enumerable: false,
    writable: false,
  });
}

export {};
