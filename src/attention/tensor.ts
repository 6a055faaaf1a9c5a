/**
 * A typed array with a shape: what flexAttention takes and gives, and how a mod captures a table of two or more dimensions.
 *
 * Elements are row-major, or lie where strides say; they stay the caller's: `tensor` copies nothing.
 */
import { fromFp8, toFloat32, type DType } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";

export type TypedArray = Float32Array | Float64Array | Int32Array | Int16Array | Int8Array | Uint8Array | Uint16Array | Uint8ClampedArray;
/** fp8 is e4m3, without infinities. */
export type TensorDType = DType | "i16" | "i8" | "u16" | "f64" | "fp8";

export interface Tensor {
  readonly data: TypedArray;
  readonly shape: readonly number[];
  readonly dtype: TensorDType;
  /** Of a view: element [i, j, ...] is data[offset + i * strides[0] + j * strides[1] + ...]. Without it: row-major from 0. */
  readonly strides?: readonly number[];
  readonly offset?: number;
}

/** How a tensor lies in its array, and what its elements are. */
export interface TensorOptions {
  readonly dtype?: TensorDType;
  /** In elements, one for each dimension, of any sign; 0 repeats. Row-major when left out. */
  readonly strides?: readonly number[];
  /** Where element [0, 0, ...] is. */
  readonly offset?: number;
}

/** The dtype of an array whose caller named none. */
const natural: Readonly<Record<string, TensorDType>> = {
  Float32Array: "f32", Float64Array: "f64", Int32Array: "i32", Int16Array: "i16", Int8Array: "i8", Uint8Array: "u8", Uint8ClampedArray: "u8", Uint16Array: "u16",
};

/** dtypes that an array holds only when its caller says so. */
const named: Readonly<Partial<Record<TensorDType, { readonly bits: TensorDType; readonly remedy: string }>>> = {
  f16: { bits: "u16", remedy: "put the bits in a Uint16Array" }, bf16: { bits: "u16", remedy: "put the bits in a Uint16Array" }, fp8: { bits: "u8", remedy: "put the bits in a Uint8Array" },
};

/**
 * `data` seen as an array of `shape`. A Uint16Array holds integers unless `dtype` says "f16" or "bf16", a Uint8Array unless it says "fp8".
 * With `strides` or `offset` it is a view: a transpose, a slice, one part of a packed array.
 * @throws UsageError when the sizes do not agree, or a view leaves its array.
 */
export function tensor(data: TypedArray, shape: readonly number[], options: TensorDType | TensorOptions = {}): Tensor {
  const { dtype, strides, offset = 0 } = typeof options === "string" ? { dtype: options } : options;
  const found = natural[data.constructor.name];
  if (!found) throw new UsageError(`tensor() does not take a ${data.constructor.name}; it takes ${Object.keys(natural).join(", ")}`);
  const size = shape.reduce((a, b) => a * b, 1);
  if (!shape.every((n) => Number.isInteger(n) && n >= 0)) throw new UsageError(`shape [${shape.join(", ")}] must hold whole numbers`);
  if (dtype !== undefined && dtype !== found && named[dtype]?.bits !== found) {
    throw new UsageError(`a ${data.constructor.name} cannot be read as ${dtype}${named[dtype] ? `; ${named[dtype].remedy}` : ""}`);
  }
  const plain = { data, shape: [...shape], dtype: dtype ?? found };
  if (strides === undefined && offset === 0) {
    if (size !== data.length) throw new UsageError(`shape [${shape.join(", ")}] has ${size} elements, the ${data.constructor.name} has ${data.length}`);
    return plain;
  }
  const steps = strides ?? rowMajor(shape);
  if (steps.length !== shape.length || ![...steps, offset].every(Number.isInteger)) {
    throw new UsageError(`strides [${steps.join(", ")}] and offset ${offset} must be whole numbers, one stride for each of the ${shape.length} dimensions`);
  }
  const reach = (sign: 1 | -1): number => steps.reduce((at, step, i) => at + (step * sign > 0 ? step * Math.max(0, shape[i]! - 1) : 0), offset);
  if (size > 0 && (reach(-1) < 0 || reach(1) >= data.length)) {
    throw new UsageError(`shape [${shape.join(", ")}] with strides [${steps.join(", ")}] from ${offset} reads elements ${reach(-1)} to ${reach(1)}; the ${data.constructor.name} has ${data.length}`);
  }
  return { ...plain, strides: [...steps], offset };
}

/** Strides of an array without gaps, last dimension innermost. */
export function rowMajor(shape: readonly number[]): number[] {
  return shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
}

/** `t` without strides: itself, or a copy of a view's elements. */
export function contiguous(t: Tensor): Tensor {
  const { strides, offset = 0 } = t;
  if (!strides) return t;
  const out = new (t.data.constructor as new (length: number) => TypedArray)(t.shape.reduce((a, b) => a * b, 1));
  const last = t.shape.length - 1, inner = t.shape[last] ?? 1, step = strides[last] ?? 1;
  let to = 0;
  const copy = (dim: number, from: number): void => {
    if (dim < last) for (let i = 0; i < t.shape[dim]!; i++) copy(dim + 1, from + i * strides[dim]!);
    else if (step === 1) out.set(t.data.subarray(from, from + inner), (to += inner) - inner);
    else for (let i = 0; i < inner; i++) out[to++] = t.data[from + i * step]!;
  };
  if (out.length > 0) copy(0, offset);
  return { data: out, shape: t.shape, dtype: t.dtype };
}

export function isTensor(x: unknown): x is Tensor {
  return typeof x === "object" && x !== null && "data" in x && ArrayBuffer.isView(x.data) && "shape" in x && Array.isArray(x.shape) && "dtype" in x;
}

/** The elements as f32, row-major: the array itself where it is that. */
export function floats(t: Tensor): Float32Array {
  if (t.strides) return floats(contiguous(t));
  if (t.data instanceof Float32Array) return t.data;
  if (t.dtype === "f16" || t.dtype === "bf16") return toFloat32(new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength), t.dtype);
  return Float32Array.from(t.data, t.dtype === "fp8" ? fromFp8 : undefined);
}

/** `t`, which is no view, as nested arrays, t[i][j]..., whose innermost arrays share the tensor's memory. */
export function nested(t: Tensor): unknown {
  const level = (dim: number, start: number, length: number): unknown => {
    if (dim === t.shape.length - 1) return t.data.subarray(start, start + length);
    const n = t.shape[dim]!, step = n === 0 ? 0 : length / n;
    return Array.from({ length: n }, (_, i) => level(dim + 1, start + i * step, step));
  };
  return level(0, 0, t.data.length);
}
