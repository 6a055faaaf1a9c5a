/**
 * Least and greatest value of any stretch of a captured table, in about a microsecond.
 *
 * A sorted table (document starts, document ids) answers from its two ends. Any other keeps a tree of minima and maxima
 * over leaves of 16 elements. What is kept is valid for one content: the table's `version` where it has one, else a hash.
 */
import type { Table } from "./interpret.ts";

const leaf = 16;

export interface TableStats {
  /** Sets `lo` and `hi` to the bounds of elements first..last, both within the table. `hi < lo` never; NaN elements set `nan`. */
  query(first: number, last: number): void;
  lo: number;
  hi: number;
  /** Whether any element of the table is NaN. */
  readonly nan: boolean;
}

/** A captured table as loads find it; filled by `bind`. */
export interface TableSlot {
  table: Table;
  stats: TableStats;
  /** Elements. */
  length: number;
}

const known = new WeakMap<object, { readonly stamp: number; readonly stats: TableStats }>();

/** Statistics of the table's present content; made anew only when it changed. */
export function tableStats(table: Table & { readonly version?: number }): TableStats {
  const stamp = table.version ?? contentHash(table.data);
  const old = known.get(table.data);
  if (old && old.stamp === stamp) return old.stats;
  const stats = build(table.data);
  known.set(table.data, { stamp, stats });
  return stats;
}

/** A 53-bit hash of the elements, order included. */
export function contentHash(data: ArrayLike<number>): number {
  const whole = ArrayBuffer.isView(data) && data.byteLength % 4 === 0 && data.byteOffset % 4 === 0;
  const words: ArrayLike<number> = whole ? new Int32Array(data.buffer, data.byteOffset, data.byteLength / 4) : data;
  let a = 0x811c9dc5 ^ data.length, b = 0x2545f491, c = 0x9e3779b1, d = 0x165667b1;
  // Even words go to a and b, odd ones to c and d: two chains that do not wait for each other.
  for (let i = 0; i < words.length; i += 2) {
    const even = whole ? words[i]! : mixed(words[i]!), odd = i + 1 === words.length ? 0 : whole ? words[i + 1]! : mixed(words[i + 1]!);
    a = Math.imul(a ^ even, 0x01000193) ^ (a >>> 15);
    b = Math.imul(b ^ even, 0x85ebca6b) ^ (b >>> 13);
    c = Math.imul(c ^ odd, 0x01000193) ^ (c >>> 15);
    d = Math.imul(d ^ odd, 0x85ebca6b) ^ (d >>> 13);
  }
  a = Math.imul(a ^ c, 0x01000193) ^ (a >>> 15);
  b = Math.imul(b ^ d, 0x85ebca6b) ^ (b >>> 13);
  return (a >>> 0) * 2 ** 21 + (b >>> 11);
}

const wide = new Float64Array(1), wideBits = new Int32Array(wide.buffer);

/** All 64 bits of a number in 32: nothing that differs, Infinity and the smallest fractions included, is left out. */
function mixed(x: number): number {
  wide[0] = x;
  return Math.imul(wideBits[0]!, 0x9e3779b1) ^ wideBits[1]!;
}

function build(data: ArrayLike<number>): TableStats {
  let nan = false, ascending = true, descending = true;
  for (let i = 0; i < data.length; i++) {
    const x = data[i]!;
    if (x !== x) nan = true;
    if (i > 0 && !(data[i - 1]! <= x)) ascending = false;
    if (i > 0 && !(data[i - 1]! >= x)) descending = false;
  }
  if (ascending || descending) {
    return {
      lo: 0, hi: 0, nan,
      query(first, last) {
        this.lo = data[ascending ? first : last]!;
        this.hi = data[ascending ? last : first]!;
      },
    };
  }
  // tree[n + j] bounds leaf j; tree[j] bounds tree[2 j] and tree[2 j + 1].
  const n = Math.ceil(data.length / leaf);
  const lows = new Float64Array(2 * n).fill(Infinity);
  const highs = new Float64Array(2 * n).fill(-Infinity);
  for (let i = 0; i < data.length; i++) {
    const at = n + Math.floor(i / leaf);
    const x = data[i]!;
    if (x < lows[at]!) lows[at] = x;
    if (x > highs[at]!) highs[at] = x;
  }
  for (let i = n - 1; i > 0; i--) {
    lows[i] = Math.min(lows[2 * i]!, lows[2 * i + 1]!);
    highs[i] = Math.max(highs[2 * i]!, highs[2 * i + 1]!);
  }
  return {
    lo: 0, hi: 0, nan,
    query(first, last) {
      let lo = Infinity, hi = -Infinity;
      const firstLeaf = Math.ceil(first / leaf), endLeaf = Math.floor((last + 1) / leaf);
      const scan = (from: number, to: number): void => {
        for (let i = from; i < to; i++) {
          const x = data[i]!;
          if (x < lo) lo = x;
          if (x > hi) hi = x;
        }
      };
      if (firstLeaf >= endLeaf) scan(first, last + 1);
      else {
        scan(first, firstLeaf * leaf);
        scan(endLeaf * leaf, last + 1);
        for (let a = n + firstLeaf, b = n + endLeaf; a < b; a >>= 1, b >>= 1) {
          if (a & 1) { lo = Math.min(lo, lows[a]!); hi = Math.max(hi, highs[a]!); a++; }
          if (b & 1) { b--; lo = Math.min(lo, lows[b]!); hi = Math.max(hi, highs[b]!); }
        }
      }
      this.lo = lo;
      this.hi = hi;
    },
  };
}
