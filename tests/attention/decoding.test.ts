/** The examples of decoding: every step of every way over every cache, against the formula over everything again. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { dim, heads, kvHeads, size, steps, token, type Way } from "../../examples/decoding.ts";
import { index } from "../../examples/decoding-index.ts";
import { mutate } from "../../examples/decoding-mutate.ts";
import { recompute } from "../../examples/decoding-recompute.ts";

/** [heads, dim] in doubles: softmax over the sequence's last `size` tokens. */
function formula(sequence: number, position: number): Float64Array {
  const out = new Float64Array(heads * dim), q = token("query", sequence, position);
  for (let h = 0; h < heads; h++) {
    const g = Math.floor(h / (heads / kvHeads)), seen: { readonly weight: number; readonly value: Float32Array }[] = [];
    for (let kv = Math.max(0, position - size + 1); kv <= position; kv++) {
      const k = token("key", sequence, kv);
      let dot = 0;
      for (let d = 0; d < dim; d++) dot += q[h * dim + d]! * k[g * dim + d]!;
      seen.push({ weight: Math.exp(dot / Math.sqrt(dim)), value: token("value", sequence, kv) });
    }
    const total = seen.reduce((sum, { weight }) => sum + weight, 0);
    for (const { weight, value } of seen) for (let d = 0; d < dim; d++) out[h * dim + d]! += (weight / total) * value[g * dim + d]!;
  }
  return out;
}

for (const [name, way] of Object.entries({ recompute, mutate, index } satisfies Readonly<Record<string, Way>>)) {
  for (const [cache, run] of Object.entries(way)) {
    test(`decoding by ${name}, ${cache} cache: each step is what full recomputation gives`, async () => {
      let count = 0;
      for await (const step of run()) {
        assert.deepEqual(step.map((s) => s.sequence), [0, 1]);
        for (const { sequence, position, out } of step) formula(sequence, position).forEach((want, i) => assert.ok(Math.abs(out[i]! - want) < 1e-5, `step ${count}, sequence ${sequence}: element ${i} is ${out[i]}, not ${want}`));
        count++;
      }
      assert.equal(count, steps);
    });
  }
  test(`examples/decoding-${name}.ts runs by itself and says how far it is off`, async () => {
    const { stdout } = await promisify(execFile)(process.execPath, [`examples/decoding-${name}.ts`], { cwd: new URL("../..", import.meta.url).pathname });
    const distances = [...stdout.matchAll(new RegExp(`^${name}, (?:static|packed|paged) cache: 28 tokens, at most (\\S+) from`, "gm"))].map((m) => Number(m[1]));
    assert.equal(distances.length, 3);
    assert.ok(distances.every((x) => x < 1e-5));
  });
}
