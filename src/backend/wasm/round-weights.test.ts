import assert from "node:assert/strict";
import { test } from "node:test";
import { fromFloat32, toFloat32 } from "../../core/dtype.ts";
import { stream } from "../../core/random.ts";
import { blockElements, quantizedFormats, quantizeRows } from "../quantized.ts";
import { Alone } from "./alone.ts";
import { Module } from "./assembler.ts";
import { floatTypes, type FloatType, roundArgs, type RoundedDType, roundWeights } from "./round-weights.ts";

const m = new Module();
const types = Object.keys(floatTypes) as readonly FloatType[], dtypes = ["int8", "uint4"] as const satisfies readonly RoundedDType[];
for (const dtype of dtypes) for (const type of types) roundWeights(m, dtype, type);

/** The blocks that the kernel makes of `values`, and what it says of them. */
function rounded(dtype: RoundedDType, type: FloatType, values: Float32Array): { readonly packed: Uint8Array; readonly refused: number; readonly expected: () => Uint8Array } {
  const bytes = fromFloat32(values, floatTypes[type]), numBlocks = values.length / blockElements, packedBytes = numBlocks * quantizedFormats[dtype].blockBytes;
  const bed = new Alone(m);
  const from = bed.place(new Uint16Array(bytes.buffer, 0, bytes.length / 2), 4), to = bed.place(new Uint16Array(packedBytes / 2), 2);
  bed.run(`round_${dtype}_${type}`, roundArgs, { from, to, blocks: numBlocks, refused: 0 });
  assert.ok(bed.guardsIntact);
  return { packed: bed.bytes(to, packedBytes), refused: bed.argument(roundArgs.refused), expected: () => quantizeRows(toFloat32(bytes, floatTypes[type]), dtype, values.length) };
}

for (const dtype of dtypes) for (const type of types) {
  test(`${type} weights become the packed ${dtype} blocks of the definition, bit by bit, from the smallest to the largest scale`, () => {
    const random = stream(7);
    const values = Float32Array.from({ length: 1025 * blockElements }, (_, i) => {
      const block = Math.floor(i / blockElements);
      if (block % 17 === 3) return 0;
      const offset = [0, 0, 1, -1, 0.3][block % 5]!; // blocks on one side of zero, too
      return (random() * 2 - 1 + offset) * 2 ** ((block % 40) - 25); // scales below f16's normal range, and up to 2^7
    });
    const { packed, refused, expected } = rounded(dtype, type, values);
    assert.equal(refused, 0);
    assert.deepEqual(packed, expected());
  });

  test(`${type} weights that are not finite are refused where ${dtype} is made of them`, () => {
    for (const wrong of [NaN, Infinity, -Infinity]) {
      const values = new Float32Array(3 * blockElements).fill(1);
      values[blockElements + 5] = wrong;
      const { refused, expected } = rounded(dtype, type, values);
      assert.equal(refused, 1);
      assert.throws(expected, RangeError);
    }
  });
}
