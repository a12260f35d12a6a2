/**
 * Prometheus text, version 0.0.4, as samples.
 */

/** One line of the metrics. */
export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** A reading of the kit's metrics. */
export interface Metrics {
  /** The text as the kit sent it. */
  text: string;
  samples: Sample[];
  /** The value of a metric, summed over the samples that have these labels; undefined if none. */
  value(name: string, labels?: Record<string, string>): number | undefined;
}

const LINE = /^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$/;
const LABEL = /([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"/g;

/** Parses what the metrics endpoint answered. */
export function parseMetrics(text: string): Metrics {
  const samples: Sample[] = [];
  for (const line of text.split('\n')) {
    const match = LINE.exec(line.trim());
    if (match === null) continue;
    const [, name = '', labels = '', value = ''] = match;
    samples.push({ name, labels: parseLabels(labels), value: parseValue(value) });
  }
  return {
    text,
    samples,
    value: (name, labels = {}) => sum(samples.filter((sample) => fits(sample, name, labels))),
  };
}

function fits(sample: Sample, name: string, labels: Record<string, string>): boolean {
  const wanted = Object.entries(labels);
  return sample.name === name && wanted.every(([key, value]) => sample.labels[key] === value);
}

function sum(samples: Sample[]): number | undefined {
  if (samples.length === 0) return undefined;
  return samples.reduce((total, { value }) => total + value, 0);
}

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const [, name = '', value = ''] of text.matchAll(LABEL)) {
    labels[name] = value.replace(/\\(.)/g, (_, char: string) => (char === 'n' ? '\n' : char));
  }
  return labels;
}

function parseValue(text: string): number {
  if (text === '+Inf') return Infinity;
  if (text === '-Inf') return -Infinity;
  return Number(text);
}
