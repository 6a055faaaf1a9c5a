import assert from "node:assert/strict";
import { test } from "node:test";
import { createBlockMask, flexAttention, type MaskMod, type ScoreMod, tensor, type Tensor } from "../../src/attention/index.ts";
import { stream } from "../../src/core/random.ts";
import { length, masks, scores } from "./cases.ts";
import { gold } from "./gold.ts";

function random(seed: number, ...shape: readonly number[]): Tensor {
  const next = stream(seed);
  return tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => next() * 2 - 1), shape);
}
const query = random(1, 2, 4, length, 16), key = random(2, 2, 2, length, 16), value = random(3, 2, 2, length, 8);

function close(got: ArrayLike<number>, want: ArrayLike<number>, within: number, what: string): void {
  for (let i = 0; i < want.length; i++) assert.ok(got[i] === want[i] || Math.abs(got[i]! - want[i]!) <= within * (1 + Math.abs(want[i]!)), `${what}[${i}] is ${got[i]}, not ${want[i]}`);
}

async function compare(mods: { readonly maskMod?: MaskMod; readonly scoreMod?: ScoreMod }, within: number): Promise<void> {
  const want = gold(query, key, value, mods);
  for (const device of ["reference", "cpu"] as const) {
    const { out, lse } = await flexAttention(query, key, value, { ...mods, device, aux: ["lse"] });
    close(out.data, want.out, within, `${device} out`);
    close(lse.data, want.lse, within, `${device} lse`);
  }
}

for (const [name, maskMod] of Object.entries(masks)) {
  test(`mask, ${name}: the function, its blocks and every backend agree`, async () => {
    const blocks = createBlockMask(maskMod, { batch: 2, heads: 4, queryLength: length, kvLength: length, blockSize: 8 });
    const states = blocks.toDense().data;
    let at = 0;
    for (let b = 0; b < 2; b++) for (let h = 0; h < 4; h++) for (let r = 0; r < 9; r++) for (let c = 0; c < 9; c++) {
      const state = states[at++]!;
      if (state === 1) continue;
      for (const [q, kv] of [[0, 0], [7, 7], [0, 7], [7, 0], [3, 4]]) assert.equal(Boolean(maskMod(b, h, r * 8 + q!, c * 8 + kv!)), state === 2);
    }
    await compare({ maskMod }, 1e-5);
  });
}

for (const [name, scoreMod] of Object.entries(scores)) {
  test(`score, ${name}: every backend agrees with the formula`, () => compare({ scoreMod }, 5e-5));
}
