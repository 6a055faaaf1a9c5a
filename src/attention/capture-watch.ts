/**
 * What changed among the values a mask captured, down to the stretch of a table: so that a table written in place never meets a
 * stale block mask, and a growing one costs what it grew by.
 *
 * Tables are compared by hashes of their stretches, or by a `version` where the captured tensor has one, which its writer bumps. It knows no blocks.
 */
import { type Expr } from "../ir/expr.ts";
import type { Table } from "../ir/interpret.ts";
import { type Box, postOrder, type Range } from "../ir/range.ts";
import { contentHash } from "../ir/table-stats.ts";
import type { MaskMod } from "./mod.ts";

/** Elements under one hash. */
const stretch = 256;

/** The first and last element of each table that may differ. */
export type Stretches = ReadonlyMap<string, readonly [first: number, last: number]>;
export type Change = "none" | "all" | Stretches;

interface Seen {
  readonly data: ArrayLike<number>;
  readonly version: number | undefined;
  readonly shape: readonly number[];
  readonly hashes: Float64Array;
}

export class CaptureWatch {
  readonly #mask: MaskMod;
  #expr: Expr;
  #uniforms: Readonly<Record<string, number>>;
  #tables: ReadonlyMap<string, Seen>;

  constructor(mask: MaskMod) {
    this.#mask = mask;
    const { uniforms, tables } = mask.values();
    this.#expr = mask.expr();
    this.#uniforms = uniforms;
    this.#tables = new Map(Object.entries(tables).map(([name, table]) => [name, look(table)]));
  }

  /** What changed since the last `renew`. */
  change(): Change {
    const { uniforms, tables } = this.#mask.values();
    if (this.#mask.expr() !== this.#expr || Object.entries(uniforms).some(([name, value]) => !Object.is(value, this.#uniforms[name]))) return "all";
    const stretches = new Map<string, readonly [number, number]>();
    for (const [name, table] of Object.entries(tables)) {
      const old = this.#tables.get(name)!;
      const { shape, data } = table, { version } = table as { readonly version?: number };
      const reshaped = shape.some((n, d) => n !== old.shape[d]);
      if (!reshaped && data === old.data && version !== undefined && version === old.version) continue;
      if (reshaped && (shape.some((n, d) => d > 0 && n !== old.shape[d]) || readsExtent(this.#expr, name))) return "all";
      const now = hashesOf(data);
      let first = 0, last = Math.max(now.length, old.hashes.length) - 1;
      while (first <= last && first < now.length && first < old.hashes.length && now[first] === old.hashes[first]) first++;
      while (last >= first && now.length === old.hashes.length && now[last] === old.hashes[last]) last--;
      if (first > last) continue;
      stretches.set(name, [first * stretch, (last + 1) * stretch - 1]);
      if (last - first > now.length / 4 && last - first > 4) return "all";
    }
    return stretches.size === 0 ? "none" : stretches;
  }

  /** Takes what is now as seen. */
  renew(): void {
    const { uniforms, tables } = this.#mask.values();
    this.#expr = this.#mask.expr();
    this.#uniforms = uniforms;
    this.#tables = new Map(Object.entries(tables).map(([name, table]) => [name, look(table)]));
  }
}

function look(table: Table): Seen {
  return { data: table.data, version: (table as { readonly version?: number }).version, shape: [...table.shape], hashes: hashesOf(table.data) };
}

function hashesOf(data: ArrayLike<number>): Float64Array {
  const hashes = new Float64Array(Math.ceil(data.length / stretch));
  const isTyped = ArrayBuffer.isView(data);
  for (let i = 0, at = 0; i < hashes.length; i++, at += stretch) {
    hashes[i] = contentHash(isTyped ? (data as unknown as Int32Array).subarray(at, at + stretch) : Array.prototype.slice.call(data, at, at + stretch) as number[]);
  }
  return hashes;
}

function readsExtent(e: Expr, table: string): boolean {
  return postOrder(e).some((node) => node.kind === "extent" && node.table === table);
}

/**
 * Whether the mask may read a changed element anywhere in a box. If not, it is there what it was: its innermost loads find what they
 * found, so the loads they lead to look where they looked, and so on.
 */
export function mayRead(ranges: ReadonlyMap<Expr, Range>, tables: Readonly<Record<string, Table>>, changed: Stretches): boolean {
  for (const node of ranges.keys()) {
    if (node.kind !== "load") continue;
    const there = changed.get(node.table);
    if (!there) continue;
    const { shape } = tables[node.table]!;
    let first = 0, last = 0;
    node.indices.forEach((index, d) => {
      // Beyond the end of the first dimension a table may have had elements, which are gone.
      const { lo, hi } = ranges.get(index)!, top = d === 0 ? Infinity : shape[d]! - 1;
      first = first * shape[d]! + Math.min(Math.max(lo, 0), top);
      last = last * shape[d]! + Math.min(Math.max(hi, 0), top);
    });
    if (first <= there[1] && last >= there[0]) return true;
  }
  return false;
}

/** A box of one sequence and head. */
export function boxOf(b: number, h: number, q0: number, q1: number, kv0: number, kv1: number): Box {
  return { b: [b, b], h: [h, h], q: [q0, q1], kv: [kv0, kv1] };
}
