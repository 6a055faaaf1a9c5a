import assert from "node:assert/strict";
import { test } from "node:test";
import { blocksOf, dequantizeRow, packedRowBytes, quantizedFormats, type QuantizedDType, quantizeRows } from "../backend/quantized.ts";
import { fromF16 } from "../core/dtype.ts";
import { stream } from "../core/random.ts";
import { type BlockType, blockFormats } from "./block-formats.ts";
import { packedAs, packer } from "./packed-blocks.ts";

/** Bytes of a block's f16 numbers. */
const f16At: Readonly<Partial<Record<BlockType, readonly number[]>>> = {
  Q8_0: [0], Q4_0: [0], Q4_1: [0, 2], Q5_0: [0], Q5_1: [0, 2], Q4_K: [0, 2], Q5_K: [0, 2], Q6_K: [208],
};
const numBlocks = 200;

/** Random bits but for one: f16 numbers have no bit 14, so they are finite, below 2 in magnitude, negative and subnormal ones among them. */
function randomBlocks(type: BlockType): Uint8Array<ArrayBuffer> {
  const random = stream(blockFormats[type].id + 1), { blockBytes } = blockFormats[type];
  const bytes = Uint8Array.from({ length: numBlocks * blockBytes }, () => Math.floor(256 * random()));
  for (let block = 0; block < numBlocks; block++) {
    for (const at of f16At[type]!) {
      const upper = block * blockBytes + at + 1;
      // Every eighth is zero or subnormal.
      bytes[upper]! &= block % 8 === 0 ? 0x83 : 0xbf;
    }
  }
  return bytes;
}

/** What rows of a type mean, and what they mean when packed, with the packed bytes. */
function packed(type: BlockType, dtype: QuantizedDType, columns: number): { expected: Float32Array; actual: Float32Array; bytes: Uint8Array } {
  const source = randomBlocks(type), expected = blockFormats[type].toFloat32(source);
  const bytes = packer(type, dtype)?.(source) ?? quantizeRows(expected, dtype, columns), rowBytes = packedRowBytes(dtype, columns), rows = expected.length / columns;
  assert.equal(bytes.length, rows * rowBytes);
  const actual = new Float32Array(expected.length);
  for (let row = 0; row < rows; row++) actual.set(dequantizeRow(bytes.subarray(row * rowBytes, (row + 1) * rowBytes), dtype, columns), row * columns);
  return { expected, actual, bytes };
}

for (const type of ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"] as const) {
  test(`${type}, packed, is exactly what its blocks mean`, () => {
    const { expected, actual } = packed(type, packedAs[type]!, 4 * blockFormats[type].blockElements);
    expected.forEach((want, i) => assert.ok(actual[i] === want, `element ${i} is ${actual[i]}, ${want} wanted`));
    assert.ok(new Set(expected).size > 1000 && expected.some((x) => x < 0));
  });
}

/** f16 rounds a normal number by at most 2^-11 of it, a subnormal one by 2^-25. */
const f16Error = (x: number): number => Math.max(Math.abs(x) * 2 ** -11, 2 ** -25);

for (const type of ["Q4_K", "Q5_K"] as const) {
  test(`${type}, packed, is what its blocks mean but for the rounding of scale and minimum to f16`, () => {
    const dtype = packedAs[type]!, mostCode = type === "Q4_K" ? 15 : 31;
    const { expected, actual, bytes } = packed(type, dtype, 512);
    let exact = 0;
    expected.forEach((want, i) => {
      const at = Math.floor(i / 32) * quantizedFormats[dtype].blockBytes;
      const [scale, min] = [0, 2].map((byte) => fromF16(bytes[at + byte]! | (bytes[at + byte + 1]! << 8))) as [number, number];
      // The rounded numbers stand in for the true ones, which are within a rounding of them; and the oracle itself rounds once.
      const bound = 1.01 * (mostCode * f16Error(scale) + f16Error(min)) + Math.abs(want) * 2 ** -24;
      assert.ok(Math.abs(actual[i]! - want) <= bound, `element ${i} is ${actual[i]}, ${want} wanted, within ${bound}`);
      if (actual[i] === want) exact++;
    });
    assert.ok(exact > expected.length / 100 && exact < expected.length, "some runs' scales need no rounding, most do");
  });
}

/** Checks that elements are within half a step of what is wanted, a block's step being its scale. */
function withinHalfAStep({ expected, actual, bytes }: ReturnType<typeof packed>, dtype: QuantizedDType): void {
  expected.forEach((want, i) => {
    const at = Math.floor(i / 32) * quantizedFormats[dtype].blockBytes;
    const step = Math.abs(fromF16(bytes[at]! | (bytes[at + 1]! << 8)));
    assert.ok(Math.abs(actual[i]! - want) <= 0.5001 * step + 127 * 2 ** -25, `element ${i} is ${actual[i]}, ${want} wanted, within half of ${step}`);
  });
}

test("Q6_K, rounded to int8, is within half a step of what its blocks mean, and a step is the 127th of a block's largest", () => {
  assert.equal(packer("Q6_K", "int8"), undefined, "rounded anew");
  const result = packed("Q6_K", "int8", 256);
  withinHalfAStep(result, "int8");
  for (let block = 0; block < blocksOf(result.expected.length); block++) {
    const largest = Math.max(...result.expected.subarray(32 * block, 32 * block + 32).map(Math.abs));
    const at = block * quantizedFormats.int8.blockBytes, scale = fromF16(result.bytes[at]! | (result.bytes[at + 1]! << 8));
    assert.ok(Math.abs(scale - largest / 127) <= f16Error(largest / 127), `block ${block}: scale ${scale}, largest ${largest}`);
  }
});

test("a negative scale of Q5_0 goes into the codes: int8 scales have no sign", () => {
  const { bytes } = packed("Q5_0", "int8", 64), { blockBytes } = quantizedFormats.int8;
  assert.ok(randomBlocks("Q5_0").some((byte, i) => i % blockFormats.Q5_0.blockBytes === 1 && byte >= 128), "there are negative scales");
  for (let at = 0; at < bytes.length; at += blockBytes) assert.ok(bytes[at + 1]! < 128, `the scale at byte ${at} is negative`);
});

test("a type that is asked for in another format is rounded to it", () => {
  assert.equal(packer("Q5_K", "int8"), undefined);
  withinHalfAStep(packed("Q5_K", "int8", 512), "int8");
  withinHalfAStep(packed("Q4_1", "int8", 64), "int8");
});

test("bytes of a type that is kept as it is are not copied", () => {
  const bytes = randomBlocks("Q8_0");
  assert.equal(packer("Q8_0", "int8")!(bytes), bytes);
});
