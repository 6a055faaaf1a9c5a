import assert from "node:assert/strict";
import { test } from "node:test";
import { fromFloat32, toFloat32 } from "../../core/dtype.ts";
import { stream } from "../../core/random.ts";
import { blockElements, quantizedFormats, quantizeRows } from "../quantized.ts";
import { Alone } from "./alone.ts";
import { Module } from "./assembler.ts";
import { floatTypes, type FloatType, roundArgs, roundWeights } from "./round-weights.ts";

const m = new Module();
for (const type of Object.keys(floatTypes) as FloatType[]) roundWeights(m, type);

/** The blocks that the kernel makes of `values`, and what it says of them. */
function rounded(type: FloatType, values: Float32Array): { readonly packed: Uint8Array; readonly refused: number; readonly expected: () => Uint8Array } {
  const bytes = fromFloat32(values, floatTypes[type]), numBlocks = values.length / blockElements, packedBytes = numBlocks * quantizedFormats.int8.blockBytes;
  const bed = new Alone(m);
  const from = bed.place(new Uint16Array(bytes.buffer, 0, bytes.length / 2), 4), to = bed.place(new Uint16Array(packedBytes / 2), 2);
  bed.run(`round_int8_${type}`, roundArgs, { from, to, blocks: numBlocks, refused: 0 });
  assert.ok(bed.guardsIntact);
  return { packed: bed.bytes(to, packedBytes), refused: bed.argument(roundArgs.refused), expected: () => quantizeRows(toFloat32(bytes, floatTypes[type]), "int8", values.length) };
}

for (const type of Object.keys(floatTypes) as FloatType[]) {
  test(`${type} weights become the packed int8 blocks of the definition, bit by bit, from the smallest to the largest scale`, () => {
    const random = stream(7);
    const values = Float32Array.from({ length: 1025 * blockElements }, (_, i) => {
      const block = Math.floor(i / blockElements);
      if (block % 17 === 3) return 0;
      return (random() * 2 - 1) * 2 ** ((block % 40) - 25); // scales below f16's normal range, and up to 2^7
    });
    const { packed, refused, expected } = rounded(type, values);
    assert.equal(refused, 0);
    assert.deepEqual(packed, expected());
  });

  test(`${type} weights that are not finite are refused`, () => {
    for (const wrong of [NaN, Infinity, -Infinity]) {
      const values = new Float32Array(3 * blockElements).fill(1);
      values[blockElements + 5] = wrong;
      const { refused, expected } = rounded(type, values);
      assert.equal(refused, 1);
      assert.throws(expected, RangeError);
    }
  });
}
