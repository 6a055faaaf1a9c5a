/**
 * What a mod may capture, how each kind is typed, and how its values are read again at every call.
 *
 *   number           a uniform: i32 if it is a whole number of 32 bits, else f32; a boolean is an i32 of 0 or 1
 *   typed array      a table of one dimension: f32 from Float32Array and Float64Array, i32 from the others
 *   tensor(d, s)     a table of as many dimensions as s has
 *   fixed(n)         a number known when the mod is compiled
 *   a mod            inlined
 *
 * Values may change between calls without a new kernel. A type may change too (1024 becomes 0.5): the mod is then lowered anew.
 */
import { UsageError } from "../core/errors.ts";
import type { CaptureEnv, Table } from "../ir/interpret.ts";
import type { CaptureSlot } from "../ir/plan.ts";
import { isTensor, nested, type Tensor, type TypedArray } from "./tensor.ts";

/** A compile-time number, made by `fixed`. */
export interface Fixed {
  readonly fixed: number;
}

/** `n` as part of the kernel itself: loop bounds may use it, and another value is another kernel. Seen as a plain number in the mod. */
export function fixed(n: number): Fixed {
  if (typeof n !== "number") throw new UsageError(`fixed() takes a number, not ${typeof n}`);
  return { fixed: n };
}

/** Marks a callable that the compiler inlines. */
export const inlineKey: unique symbol = Symbol.for("tessera.mod");

export type Capture = number | boolean | readonly number[] | TypedArray | Tensor | Fixed | ((...args: never) => unknown);
export type Captures = Readonly<Record<string, Capture>>;

/** An element of a captured tensor: a number, or a row to index again. */
export type Cell = number & { readonly [i: number]: Cell; readonly length: number };
/** What the mod's function sees of a capture. */
export type Seen<C> = {
  readonly [K in keyof C]: C[K] extends Fixed ? number : C[K] extends Tensor ? Cell : C[K];
};

export type CaptureType =
  | { readonly kind: "uniform"; readonly type: "i32" | "f32"; readonly boolean: boolean }
  | { readonly kind: "table"; readonly type: "i32" | "f32"; readonly rank: number }
  | { readonly kind: "fixed"; readonly value: number }
  | { readonly kind: "function" }
  | { readonly kind: "refused"; readonly found: string; readonly remedy: string };

/** How a captured value is typed. */
export function typeOf(value: unknown): CaptureType {
  if (typeof value === "boolean") return { kind: "uniform", type: "i32", boolean: true };
  if (typeof value === "number") return { kind: "uniform", type: Object.is(value | 0, value) ? "i32" : "f32", boolean: false };
  if (typeof value === "function") return { kind: "function" };
  if (typeof value === "object" && value !== null && "fixed" in value && typeof value.fixed === "number") return { kind: "fixed", value: value.fixed };
  if (isTensor(value)) {
    if (value.strides) return { kind: "refused", found: "a tensor with strides", remedy: "capture contiguous(t)" };
    if (value.dtype === "f16" || value.dtype === "bf16" || value.dtype === "fp8") return { kind: "refused", found: `a tensor of ${value.dtype}`, remedy: "convert it to a Float32Array first" };
    if (value.shape.length === 0) return { kind: "refused", found: "a tensor without dimensions", remedy: "capture the number itself" };
    return { kind: "table", type: elementType(value.data), rank: value.shape.length };
  }
  if (value instanceof Uint32Array || value instanceof BigInt64Array || value instanceof BigUint64Array) {
    return { kind: "refused", found: `a ${value.constructor.name}`, remedy: "use an Int32Array" };
  }
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return { kind: "table", type: elementType(value as TypedArray), rank: 1 };
  if (Array.isArray(value) && value.every((x) => typeof x === "number" || typeof x === "boolean")) {
    return { kind: "table", type: value.every((x) => Object.is(Number(x) | 0, Number(x))) ? "i32" : "f32", rank: 1 };
  }
  if (Array.isArray(value)) return { kind: "refused", found: "an array of arrays or objects", remedy: "use tensor(new Int32Array([...]), [rows, columns])" };
  return { kind: "refused", found: value === undefined ? "no value" : `a ${typeof value}`, remedy: "capture numbers, typed arrays, tensor(data, shape), fixed(n) or other mods" };
}

function elementType(data: TypedArray): "i32" | "f32" {
  return data instanceof Float32Array || data instanceof Float64Array || data.constructor.name === "Float16Array" ? "f32" : "i32";
}

/** A capture that a kernel reads: its slot, and where its value is looked up at each call. */
export interface Binding {
  readonly slot: CaptureSlot;
  readonly owner: Captures;
  readonly key: string;
}

/** The slots of one kernel, in order of first use. A capture reached on two ways, and a table captured twice, has one slot. */
export class CaptureSlots {
  readonly bindings: Binding[] = [];
  /** Every capture looked at, with the type it had: what has to hold for the lowering to stay valid. */
  readonly #seen: { readonly owner: Captures; readonly key: string; readonly signature: string }[] = [];
  /** Whether two captures that share a table still do. */
  readonly #shared: (() => boolean)[] = [];

  /** The slot's name, unique in the kernel: the capture's own, with a number when two mods use the same. */
  slotName(owner: Captures, key: string, type: Extract<CaptureType, { kind: "uniform" | "table" }>): string {
    const value = owner[key];
    const same = this.bindings.find((b) => b.owner === owner && b.key === key);
    if (same) return same.slot.name;
    const shared = type.kind === "table" ? this.bindings.find((b) => b.owner[b.key] === value) : undefined;
    if (shared) {
      this.#shared.push(() => shared.owner[shared.key] === owner[key]);
      return shared.slot.name;
    }
    let name = key;
    for (let n = 2; this.bindings.some((b) => b.slot.name === name); n++) name = `${key}${n}`;
    this.bindings.push({
      slot: type.kind === "uniform" ? { kind: "uniform", name, type: type.type } : { kind: "table", name, type: type.type, rank: type.rank },
      owner, key,
    });
    return name;
  }

  /** The type of a capture, remembered for `stillValid`. */
  look(owner: Captures, key: string): CaptureType {
    const type = typeOf(owner[key]);
    this.#seen.push({ owner, key, signature: signature(owner[key], type) });
    return type;
  }

  /** Whether all captures still have the types (and compile-time values) they had. */
  stillValid(): boolean {
    return this.#seen.every(({ owner, key, signature: before }) => signature(owner[key], typeOf(owner[key])) === before) && this.#shared.every((still) => still());
  }
}

const identities = new WeakMap<object, number>();
let nextIdentity = 1;

function signature(value: unknown, type: CaptureType): string {
  if (type.kind !== "function") return JSON.stringify(type);
  const known = identities.get(value as object) ?? nextIdentity++;
  identities.set(value as object, known);
  return `function ${known}`;
}

/** The present values of a kernel's captures, for the interpreter and for range analysis. Tables are not copied. */
export function readCaptures(bindings: readonly Binding[]): CaptureEnv {
  const uniforms: Record<string, number> = {};
  const tables: Record<string, Table> = {};
  for (const { slot, owner, key } of bindings) {
    if (slot.kind === "uniform") uniforms[slot.name] = Number(owner[key]);
    else tables[slot.name] = readTable(owner[key]);
  }
  return { uniforms, tables };
}

/** As `readCaptures`, with tables copied: what a call goes by that is not waited for, whatever is written meanwhile. */
export function copyCaptures(bindings: readonly Binding[]): CaptureEnv {
  const { uniforms, tables } = readCaptures(bindings);
  const copied = Object.entries(tables).map(([name, { data, shape }]) => [name, { data: ArrayBuffer.isView(data) ? (data as TypedArray).slice() : data, shape: [...shape] }]);
  return { uniforms, tables: Object.fromEntries(copied) as Record<string, Table> };
}

function readTable(value: unknown): Table {
  if (isTensor(value)) return value;
  if (Array.isArray(value)) return { data: value.map(Number), shape: [value.length] };
  const data = value as TypedArray;
  return { data, shape: [data.length] };
}

const views = new WeakMap<Tensor, unknown>();

/** The captures as the mod's own function sees them when it is called as a plain function. */
export function seenCaptures(captures: Captures): Record<string, unknown> {
  const seen: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(captures)) {
    const type = typeOf(value);
    if (type.kind === "fixed") seen[key] = type.value;
    else if (isTensor(value)) {
      if (!views.has(value)) views.set(value, nested(value));
      seen[key] = views.get(value);
    } else seen[key] = value;
  }
  return seen;
}
