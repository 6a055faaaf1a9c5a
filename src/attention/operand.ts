/**
 * A tensor [batch, heads, length, dim] as a kernel reads it: bytes to put in a backend's memory, and strides.
 *
 * A view whose last dimension is contiguous goes as it lies, with its strides; any other is copied once, row-major. Keys and values keep
 * their format: the kernel widens them as it reads. It knows no backend and no mask.
 */
import type { KvFormat } from "../ir/plan.ts";
import { contiguous, rowMajor, type Tensor, type TensorDType } from "./tensor.ts";

/** Strides in elements, from the first byte on. */
export interface Operand {
  readonly bytes: Uint8Array;
  readonly sequenceStride: number;
  readonly headStride: number;
  readonly rowStride: number;
}

/** The kernel's format of keys and values of a dtype; other dtypes are none. */
export const kvFormats: Readonly<Partial<Record<TensorDType, KvFormat>>> = { f32: "f32", f16: "f16", bf16: "bf16", i8: "int8", fp8: "fp8" };

/** A view that takes up more of its array than this times its own size is copied: there is less to move then. */
const sparsest = 2;

export function operandOf(t: Tensor): Operand {
  const strides = t.strides ?? rowMajor(t.shape), size = t.shape.reduce((a, b) => a * b, 1);
  const span = size === 0 ? 0 : strides.reduce((n, stride, i) => n + stride * (t.shape[i]! - 1), 1);
  const asItLies = (strides[3] === 1 || t.shape[3] === 1) && strides.every((stride) => stride >= 0) && span <= sparsest * size;
  if (!asItLies) return operandOf(contiguous(t));
  const { data, offset = 0 } = t;
  const [sequenceStride, headStride, rowStride] = strides as [number, number, number];
  return { bytes: new Uint8Array(data.buffer, data.byteOffset + offset * data.BYTES_PER_ELEMENT, span * data.BYTES_PER_ELEMENT), sequenceStride, headStride, rowStride };
}
