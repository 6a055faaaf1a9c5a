/**
 * A typed array with a shape: what flexAttention takes and gives, and how a mod captures a table of two or more dimensions.
 *
 * Elements are row-major and stay the caller's: nothing is copied here.
 */
import { toFloat32, type DType } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";

export type TypedArray = Float32Array | Float64Array | Int32Array | Int16Array | Int8Array | Uint8Array | Uint16Array | Uint8ClampedArray;
export type TensorDType = DType | "i16" | "i8" | "u16" | "f64";

export interface Tensor {
  readonly data: TypedArray;
  readonly shape: readonly number[];
  readonly dtype: TensorDType;
}

/** The dtype of an array whose caller named none. */
const natural: Readonly<Record<string, TensorDType>> = {
  Float32Array: "f32", Float64Array: "f64", Int32Array: "i32", Int16Array: "i16", Int8Array: "i8", Uint8Array: "u8", Uint8ClampedArray: "u8", Uint16Array: "u16",
};

/**
 * `data` seen as an array of `shape`. A Uint16Array holds integers unless `dtype` says "f16" or "bf16".
 * @throws UsageError when the sizes do not agree.
 */
export function tensor(data: TypedArray, shape: readonly number[], dtype?: TensorDType): Tensor {
  const found = natural[data.constructor.name];
  if (!found) throw new UsageError(`tensor() does not take a ${data.constructor.name}; it takes ${Object.keys(natural).join(", ")}`);
  const size = shape.reduce((a, b) => a * b, 1);
  if (!shape.every((n) => Number.isInteger(n) && n >= 0)) throw new UsageError(`shape [${shape.join(", ")}] must hold whole numbers`);
  if (size !== data.length) throw new UsageError(`shape [${shape.join(", ")}] has ${size} elements, the ${data.constructor.name} has ${data.length}`);
  const half = dtype === "f16" || dtype === "bf16";
  if (dtype !== undefined && dtype !== found && !(half && found === "u16")) {
    throw new UsageError(`a ${data.constructor.name} cannot be read as ${dtype}${half ? "; put the bits in a Uint16Array" : ""}`);
  }
  return { data, shape: [...shape], dtype: dtype ?? found };
}

export function isTensor(x: unknown): x is Tensor {
  return typeof x === "object" && x !== null && "data" in x && ArrayBuffer.isView(x.data) && "shape" in x && Array.isArray(x.shape) && "dtype" in x;
}

/** The elements as f32: the array itself where it is one. */
export function floats(t: Tensor): Float32Array {
  if (t.data instanceof Float32Array) return t.data;
  if (t.dtype === "f16" || t.dtype === "bf16") return toFloat32(new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength), t.dtype);
  return Float32Array.from(t.data);
}

/** `t` as nested arrays, t[i][j]..., whose innermost arrays share the tensor's memory. */
export function nested(t: Tensor): unknown {
  const level = (dim: number, start: number, length: number): unknown => {
    if (dim === t.shape.length - 1) return t.data.subarray(start, start + length);
    const n = t.shape[dim]!, step = n === 0 ? 0 : length / n;
    return Array.from({ length: n }, (_, i) => level(dim + 1, start + i * step, step));
  };
  return level(0, 0, t.data.length);
}
