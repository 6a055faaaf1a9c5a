/**
 * Element types of tensors in memory, their sizes, and the conversions between them and f32.
 *
 * bf16 is the upper half of an f32. f16 is IEEE binary16. Both round to nearest, ties to even.
 */
export type DType = "f32" | "f16" | "bf16" | "i32" | "u8";

export const bytesPerElement: Readonly<Record<DType, number>> = { f32: 4, f16: 2, bf16: 2, i32: 4, u8: 1 };
/** The largest number that an f32 holds. */
export const greatestFloat32 = 3.4028234663852886e38;

const word = new DataView(new ArrayBuffer(4));

/** The bits of `x` as bf16, rounded to nearest even; a NaN stays a (quiet) NaN. */
export function toBf16(x: number): number {
  word.setFloat32(0, x);
  const bits = word.getUint32(0);
  if (Number.isNaN(x)) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number whose bf16 bits are `bits`. Exact. */
export function fromBf16(bits: number): number {
  word.setUint32(0, (bits & 0xffff) << 16);
  return word.getFloat32(0);
}

/** The bits of `x` as f16, rounded to nearest even; overflow gives infinity. */
export function toF16(x: number): number {
  word.setFloat32(0, x);
  const bits = word.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal in f16: its unit is 2^-24, and Math.round's ties are mended to even.
    const scaled = Math.abs(x) * 2 ** 24;
    const floor = Math.floor(scaled);
    const rest = scaled - floor;
    return sign | (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor);
  }
  const rebased = magnitude - 0x38000000;
  return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
}

/** Every f16, by its bits; made when first asked for. */
let halves: Float32Array | undefined;

/** The number whose f16 bits are `bits`. Exact. */
export function fromF16(bits: number): number {
  halves ??= Float32Array.from({ length: 65536 }, (_, code) => decodeF16(code));
  return halves[bits & 0xffff]!;
}

function decodeF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The number whose fp8 bits (e4m3: bias 7, largest 448, no infinities, 0x7f is NaN) are `bits`. Exact. */
export function fromFp8(bits: number): number {
  const sign = bits & 0x80 ? -1 : 1;
  const exponent = (bits >>> 3) & 15, fraction = bits & 7;
  if (exponent === 15 && fraction === 7) return NaN;
  return exponent === 0 ? sign * fraction * 2 ** -9 : sign * (1 + fraction / 8) * 2 ** (exponent - 7);
}

/** The fp8 (e4m3) bits nearest to `x`, ties to even; beyond 448 the largest. */
export function toFp8(x: number): number {
  if (Number.isNaN(x)) return 0x7f;
  const sign = x < 0 || Object.is(x, -0) ? 0x80 : 0;
  const magnitude = Math.min(Math.abs(x), 448);
  // Spacing of the numbers around: 2^-9 for subnormals, an eighth of the power of two below otherwise.
  const exponent = Math.max(-6, Math.floor(Math.log2(magnitude || 1e-30)));
  const step = 2 ** (exponent - 3);
  const floor = Math.floor(magnitude / step), rest = magnitude / step - floor;
  const units = rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
  return sign | (units < 8 && exponent === -6 ? units : units === 16 ? (exponent + 8) << 3 : ((exponent + 7) << 3) | (units - 8));
}

/** `bytes` read as `dtype`, widened to f32. `bytes` need not be aligned. */
export function toFloat32(bytes: Uint8Array, dtype: DType): Float32Array<ArrayBuffer> {
  // Models have billions of these: whole words, without a view's checks.
  if (dtype === "f32" && bytes.byteOffset % 4 === 0) return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 2).slice();
  if (dtype === "bf16" && bytes.byteOffset % 2 === 0) {
    const words = Uint32Array.from(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 1));
    for (let i = 0; i < words.length; i++) words[i]! <<= 16;
    return new Float32Array(words.buffer);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const out = new Float32Array(bytes.byteLength / bytesPerElement[dtype]);
  const at: Readonly<Record<DType, (i: number) => number>> = {
    f32: (i) => view.getFloat32(4 * i, true),
    f16: (i) => fromF16(view.getUint16(2 * i, true)),
    bf16: (i) => fromBf16(view.getUint16(2 * i, true)),
    i32: (i) => view.getInt32(4 * i, true),
    u8: (i) => view.getUint8(i),
  };
  const get = at[dtype];
  for (let i = 0; i < out.length; i++) out[i] = get(i);
  return out;
}

/** The elements of `values` as little-endian bytes of `dtype`. */
export function fromFloat32(values: ArrayLike<number>, dtype: DType): Uint8Array<ArrayBuffer> {
  if (dtype === "bf16" && values instanceof Float32Array) {
    const words = new Uint32Array(values.buffer, values.byteOffset, values.length), out = new Uint16Array(values.length);
    for (let i = 0; i < out.length; i++) {
      const bits = words[i]!, isNaN = (bits & 0x7fffffff) > 0x7f800000;
      out[i] = isNaN ? (bits >>> 16) | 0x40 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
    }
    return new Uint8Array(out.buffer);
  }
  const out = new Uint8Array(values.length * bytesPerElement[dtype]);
  const view = new DataView(out.buffer);
  const put: Readonly<Record<DType, (i: number, x: number) => void>> = {
    f32: (i, x) => view.setFloat32(4 * i, x, true),
    f16: (i, x) => view.setUint16(2 * i, toF16(x), true),
    bf16: (i, x) => view.setUint16(2 * i, toBf16(x), true),
    i32: (i, x) => view.setInt32(4 * i, x, true),
    u8: (i, x) => view.setUint8(i, x),
  };
  const set = put[dtype];
  for (let i = 0; i < values.length; i++) set(i, values[i]!);
  return out;
}
