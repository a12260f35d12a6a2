/**
 * Two names of one server: what visitors call it, and what it is told that it is called.
 *
 * Whoever rewrites `Host` has the rest follow, or the server speaks of itself by a name that its
 * visitors cannot reach. What names the visitor's own scheme and host on the way in gets the local
 * name, and what names the local authority on the way out gets the visitor's. Other hosts, and other
 * ports of the same, stay what they are; so does all in bodies.
 */
import type { Headers } from '../wire/control.js';
import { firstOf } from './head.js';
import { climbs, putOn, stays, takeOff } from './prefix.js';

/** What a server is told of itself. */
export interface LocalName {
  /** What it gets as Host. */
  authority: string;
  /** It speaks TLS. */
  secure: boolean;
  /** What stands in front of each path: nothing, or `/path`. */
  prefix: string;
  /** That Host is the one that the visitor asked: no name is rewritten. */
  kept: boolean;
}

/** What a request says of what its visitor calls the server, and how it came. */
export interface AskedAs {
  host: string | undefined;
  forwardedHost: string | undefined;
  forwardedProto: string | undefined;
  publicUrl: string | null;
  upgrade: boolean;
  origin: string | undefined;
  contentType: string | undefined;
}

type Scheme = 'http' | 'https';

const AUTHORITY = /^[A-Za-z0-9\-._~!$&'()*+,;=%:[\]]+$/;
const URL_PARTS = /^(?:(https?):)?\/\/([^/?#\\]*)(.*)$/is;
/** What a page of anybody may send without being asked (Fetch, "CORS-safelisted request-header"). */
const FORM =
  /^[\t ]*(?:application\/x-www-form-urlencoded|multipart\/form-data|text\/plain)[\t ]*(?:;|$)/i;
/** HTML, "shared declarative refresh steps". */
const REFRESH = /^([0-9.\t ]+[;,][\t ]*(?:url[\t ]*=[\t ]*)?["']?)(.*)$/is;

/** The names that one exchange is rewritten by. */
export class Names {
  private readonly own: string[];
  private readonly scheme: Scheme;
  /** It brings a form of one of the server's own pages. */
  private readonly ownForm: boolean;

  constructor(
    private readonly local: LocalName,
    private readonly asked: AskedAs,
  ) {
    const address = asked.publicUrl === null ? undefined : split(asked.publicUrl);
    const forwarded = first(asked.forwardedHost);
    const named = [
      forwarded !== undefined && AUTHORITY.test(forwarded) ? forwarded : undefined,
      asked.host,
      address?.authority,
    ];
    this.own = named.filter((name): name is string => name !== undefined && name !== '');
    const called = this.own[0];
    const byAddress =
      called !== undefined && same(address?.authority, called) ? address?.scheme : undefined;
    const said = first(asked.forwardedProto)?.toLowerCase();
    const secure = byAddress === 'https' || said === 'https' || said === 'wss';
    this.scheme = secure ? 'https' : 'http';
    const { origin, contentType } = asked;
    const isOwn = origin !== undefined && this.inwards('origin', origin) !== origin;
    this.ownForm = isOwn && contentType !== undefined && FORM.test(contentType);
  }

  /** What a field of the request becomes. */
  inwards(name: string, value: string): string {
    const field = name.toLowerCase();
    // Servers that let this field count hold it against Origin, where forged requests are to be told
    // apart: those that a form can make. All else learns from it where it is.
    if (field === 'x-forwarded-host')
      return this.ownForm && !this.local.kept ? this.local.authority : value;
    // A socket of a page of the same host is its own, whatever scheme the page has: the edge that
    // ended TLS may not have said so. Where a resource goes is no question of trust at all.
    const lenient = field === 'destination' || (field === 'origin' && this.asked.upgrade);
    if (!lenient && field !== 'origin' && field !== 'referer') return value;
    const { kept, secure, authority } = this.local;
    const prefix = field === 'origin' ? '' : this.local.prefix;
    const url = split(value);
    if (url === undefined) {
      return field === 'destination' && value.startsWith('/') ? prefix + value : value;
    }
    if (url.scheme === undefined) return value;
    const isOwn = this.own.some((name) => same(name, url.authority));
    const fits = isOwn && (lenient || url.scheme === this.scheme);
    if (!fits) return value;
    const rest = prefix === '' ? url.rest : putOn(prefix, url.rest);
    if (kept) return prefix === '' ? value : `${url.scheme}://${url.authority}${rest}`;
    return `${secure ? 'https' : 'http'}://${authority}${rest}`;
  }

  /** What the server is asked for; undefined where that would lead out of its prefix. */
  target(target: string): string | undefined {
    const { prefix } = this.local;
    if (prefix === '') return target;
    return target.startsWith('/') && !climbs(target) ? putOn(prefix, target) : undefined;
  }

  /** Whether a field of the request would have something done outside the prefix. */
  leadsOut(name: string, value: string): boolean {
    if (this.local.prefix === '' || name.toLowerCase() !== 'destination') return false;
    return climbs(split(value)?.rest ?? value);
  }

  /** What a field of the answer becomes. */
  outwards(name: string, value: string): string {
    switch (name.toLowerCase()) {
      case 'location':
      case 'content-location':
        return this.url(value);
      case 'refresh': {
        const [, before, url] = REFRESH.exec(value) ?? [];
        return before === undefined || url === undefined ? value : before + this.url(url);
      }
      case 'set-cookie':
        return this.cookie(value);
      default:
        return value;
    }
  }

  private url(value: string): string {
    const { authority, kept, prefix } = this.local;
    const url = split(value);
    if (url === undefined) return this.path(value);
    const called = kept ? authority : this.own[0];
    if (called === undefined || !same(url.authority, authority)) return value;
    const rest = takeOff(prefix, url.rest);
    if (rest === undefined || (kept && prefix === '')) return value;
    const scheme = kept ? url.scheme : this.scheme;
    return `${url.scheme === undefined ? '' : `${scheme ?? ''}:`}//${called}${rest}`;
  }

  /** A path of its own that lies behind the prefix. */
  private path(value: string): string {
    if (this.local.prefix === '') return value;
    const path = takeOff(this.local.prefix, value);
    return path !== undefined && stays(path) ? path : value;
  }

  /**
   * A cookie of the local name is one of whatever host the visitor asked: it has no Domain. One of a
   * path behind the prefix is one of what visitors ask there.
   */
  private cookie(value: string): string {
    const host = this.local.authority.replace(/:[0-9]*$/, '');
    const [cookie, ...attributes] = value.split(';');
    const ours = attributes.filter((attribute) => {
      const [, domain] = /^[\t ]*domain[\t ]*=[\t ]*\.?(.*?)[\t ]*$/is.exec(attribute) ?? [];
      const isLocal = same(domain, 'localhost') || same(domain, host);
      return this.local.kept || domain === undefined || !isLocal;
    });
    const named = ours.map((attribute) => {
      const [, before, path] = /^([\t ]*path[\t ]*=)[\t ]*(.*?)[\t ]*$/is.exec(attribute) ?? [];
      if (before === undefined || path === undefined) return attribute;
      const became = this.path(path);
      return became === path ? attribute : before + became;
    });
    return [cookie, ...named].join(';');
  }
}

/** Has the fields of an answer follow the names, in place. */
export function namedOutwards(headers: Headers, names: Names | undefined): Headers {
  if (names === undefined) return headers;
  for (const field of headers) field[1] = names.outwards(field[0], field[1]);
  return headers;
}

/** What of a request's names is rewritten. */
export interface Naming {
  /** What the local server gets as Host; undefined for what the visitor sent. */
  host: string | undefined;
  prefix: string;
  secure: boolean;
  publicUrl: string | null;
}

/** The names for a request; none where nothing of it is rewritten. */
export function namesFor(headers: Headers, naming: Naming, upgrade: boolean): Names | undefined {
  const { prefix, secure, publicUrl } = naming;
  const kept = naming.host === undefined;
  if (kept && prefix === '') return undefined;
  const asked = firstOf(headers, 'host');
  const local = { authority: naming.host ?? asked ?? '', secure, prefix, kept };
  return new Names(local, {
    host: asked,
    forwardedHost: firstOf(headers, 'x-forwarded-host'),
    forwardedProto: firstOf(headers, 'x-forwarded-proto'),
    publicUrl,
    upgrade,
    origin: firstOf(headers, 'origin'),
    contentType: firstOf(headers, 'content-type'),
  });
}

function split(
  url: string,
): { scheme: Scheme | undefined; authority: string; rest: string } | undefined {
  const [, scheme, authority, rest] = URL_PARTS.exec(url) ?? [];
  if (authority === undefined || rest === undefined) return undefined;
  const lower = scheme?.toLowerCase();
  return { scheme: lower === 'http' || lower === 'https' ? lower : undefined, authority, rest };
}

function first(list: string | undefined): string | undefined {
  const one = list?.split(',')[0]?.trim();
  return one === '' ? undefined : one;
}

function same(one: string | undefined, other: string): boolean {
  return one?.toLowerCase() === other.toLowerCase();
}
