/** The wasm attention kernel against the reference: every mod, ragged and paged batches, odd shapes; and each row's bits alone. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Backend } from "../../src/backend/backend.ts";
import { open as openReference } from "../../src/backend/reference/open.ts";
import { open as openWasm } from "../../src/backend/wasm/open.ts";
import { stream } from "../../src/core/random.ts";
import { binary, constant, index, load, score, select, unary, uniform, type Expr } from "../../src/ir/expr.ts";
import { attend, type Case } from "./attention-case.ts";

let reference: Backend, wasm: Backend;
before(async () => {
  reference = await openReference();
  wasm = await openWasm({ threads: 2 });
});
after(() => wasm.close());

const q = index("q"), kv = index("kv"), h = index("h");
const causal = binary("ge", q, kv);
const and = (a: Expr, b: Expr): Expr => binary("and", a, b);
const distance = unary("toF32", binary("sub", kv, q));
const documents = Int32Array.from({ length: 400 }, (_, i) => Math.floor(i / 23) + (i > 100 ? 5 : 0));
const mods: Readonly<Record<string, Pick<Case, "scoreMod" | "maskMod" | "captures">>> = {
  none: {},
  causal: { maskMod: causal },
  "sliding window": { maskMod: and(causal, binary("lt", binary("sub", q, kv), uniform("i32", "size"))), captures: [{ name: "size", type: "i32", value: 21 }] },
  "soft cap": { maskMod: causal, scoreMod: binary("mul", constant("f32", 5), unary("tanh", binary("div", score, constant("f32", 5)))) },
  alibi: { maskMod: causal, scoreMod: binary("add", score, binary("mul", load("f32", "slopes", [h]), distance)), captures: [{ name: "slopes", type: "f32", value: { data: [0.5, 0.25, 0.125, 0.0625, 0.03, 0.02, 0.01, 0.005], shape: [8] } }] },
  "prefix-LM": { maskMod: binary("or", binary("lt", kv, uniform("i32", "prefix")), causal), captures: [{ name: "prefix", type: "i32", value: 40 }] },
  document: { maskMod: and(binary("eq", load("i32", "doc", [q]), load("i32", "doc", [kv])), causal), captures: [{ name: "doc", type: "i32", value: { data: documents, shape: [400] } }] },
  "strided with floorMod and a two-dimensional bias": {
    maskMod: and(causal, binary("ne", binary("floorMod", binary("sub", q, kv), constant("i32", 3)), constant("i32", 1))),
    scoreMod: binary("add", score, load("f32", "bias", [h, binary("min", binary("sub", q, kv), constant("i32", 9))])),
    captures: [{ name: "bias", type: "f32", value: { data: Float32Array.from({ length: 80 }, (_, i) => Math.sin(i)), shape: [8, 10] } }],
  },
  "nothing allowed on odd rows": { maskMod: and(causal, binary("eq", binary("bitAnd", q, constant("i32", 1)), constant("i32", 0))) },
  "a guarded load": { maskMod: causal, scoreMod: binary("add", score, select(binary("lt", kv, constant("i32", 4)), load("f32", "first", [kv]), constant("f32", 0))), captures: [{ name: "first", type: "f32", value: { data: [1, 2, 3, 4], shape: [4] } }] },
};

const sequences = [{ rows: 1, before: 0 }, { rows: 1, before: 200 }, { rows: 37, before: 0 }, { rows: 5, before: 64 }, { rows: 0, before: 9 }, { rows: 16, before: 127 }, { rows: 33, before: 95 }];

/** Outputs are averages of values near 1: `absolute` is some roundings of f32. Where weights are not normalised, sums of hundreds of terms round more. */
function close(actual: Float32Array, expected: Float32Array, what: string, absolute = 2e-6): void {
  assert.equal(actual.length, expected.length);
  actual.forEach((x, i) => {
    const e = expected[i]!;
    assert.ok(Object.is(x, e) || x === e || Math.abs(x - e) <= absolute + 1e-5 * Math.abs(e), `${what}[${i}] is ${x}, the reference ${e}`);
  });
}

for (const [name, mod] of Object.entries(mods)) {
  test(`a ragged paged batch under '${name}' is the reference's`, async () => {
    const c: Case = { ...mod, numQueryHeads: 8, numKvHeads: 2, headDimQk: 64, headDimV: 64, pageSize: 16, sequences, seed: 1 };
    const [expected, actual] = [await attend(reference, c), await attend(wasm, c)];
    close(actual.out, expected.out, "out");
    close(actual.lse, expected.lse, "lse");
  });
}

const one = constant("f32", 1);
const hooks: Readonly<Record<string, Partial<Case>>> = {
  "a sink for each head": { denominator: "sink" },
  "softmax plus one": { denominator: "one" },
  "sigmoid weights": { weightMod: binary("div", one, binary("add", one, unary("exp", unary("neg", score)))) },
  "squared relu weights of a capped score": { ...mods["soft cap"], weightMod: binary("mul", binary("max", score, constant("f32", 0)), binary("max", score, constant("f32", 0))) },
  "an output gate by head and element": {
    outputMod: binary("mul", score, load("f32", "gate", [h, kv])), captures: [{ name: "gate", type: "f32", value: { data: Float32Array.from({ length: 8 * 66 }, (_, i) => Math.cos(i)), shape: [8, 66] } }],
  },
  "an output mod by row": { outputMod: binary("add", score, unary("toF32", q)) },
  "bf16 keys and f16 values": { keyFormat: "bf16", valueFormat: "f16" },
  "int8 keys and fp8 values, a scale a token": { keyFormat: "int8", valueFormat: "fp8" },
  "fp8 keys and int8 values, a scale a page, with a sink": { keyFormat: "fp8", valueFormat: "int8", scalePer: "page", denominator: "sink" },
};
for (const [name, hook] of Object.entries(hooks)) {
  test(`${name}: as the reference has it, and a row's bits are its own`, async () => {
    for (const [headDimQk, headDimV] of [[64, 64], [7, 66], [18, 5]] as const) {
      const c: Case = { maskMod: causal, ...hook, numQueryHeads: 8, numKvHeads: 2, headDimQk, headDimV, pageSize: 5, sequences: [{ rows: 1, before: 100 }, { rows: 18, before: 0 }, { rows: 5, before: 64 }], seed: 11 };
      const [expected, actual] = [await attend(reference, c), await attend(wasm, c)];
      close(actual.out, expected.out, `out of ${headDimQk}, ${headDimV}`, hook.weightMod ? 1e-4 : 2e-6);
      close(actual.lse, expected.lse, "lse");
      close(actual.maxScore, expected.maxScore, "maxScore");
      const tiled = await attend(wasm, { ...c, queryTile: 3 });
      assert.deepEqual(new Uint32Array(tiled.out.buffer), new Uint32Array(actual.out.buffer));
    }
  });
}

test("any head dim, group size, page size and tile is the reference's", async () => {
  const random = stream(7);
  const pick = <T>(...of: readonly T[]): T => of[Math.floor(random() * of.length)]!;
  for (let n = 0; n < 40; n++) {
    const numKvHeads = pick(1, 2, 3), group = pick(1, 2, 3, 4, 5, 7);
    const c: Case = {
      ...mods["soft cap"], numQueryHeads: numKvHeads * group, numKvHeads, headDimQk: pick(1, 3, 8, 18, 32, 66, 80, 96), headDimV: pick(1, 2, 3, 5, 12, 22, 64, 72),
      pageSize: pick(1, 2, 7, 16, 64), queryTile: pick(1, 8, 16), kvTile: pick(8, 32, 64), seed: n,
      sequences: Array.from({ length: pick(1, 2, 4) }, () => ({ rows: pick(0, 1, 2, 3, 4, 17), before: pick(0, 1, 31, 32, 33, 64) })),
    };
    const [expected, actual] = [await attend(reference, c), await attend(wasm, c)];
    close(actual.out, expected.out, `out of ${JSON.stringify(c)}`);
    close(actual.lse, expected.lse, `lse of ${JSON.stringify(c)}`);
  }
});

test("a row without a key gives 0 and lse -Infinity", async () => {
  const c: Case = { ...mods["nothing allowed on odd rows"]!, numQueryHeads: 2, numKvHeads: 1, headDimQk: 8, headDimV: 8, pageSize: 4, sequences: [{ rows: 6, before: 0 }], seed: 3 };
  const { out, lse } = await attend(wasm, c);
  assert.ok(out.subarray(16, 32).every((x) => x === 0) && out.subarray(0, 16).some((x) => x !== 0));
  assert.deepEqual([...lse.subarray(2, 4)], [-Infinity, -Infinity]);
});

test("a row's bits are the same in one launch, in tiles and in chunks beside any neighbour, for every mod", async () => {
  const bits = (x: Float32Array): Uint32Array => new Uint32Array(x.slice().buffer);
  for (const [name, mod] of Object.entries(mods)) {
    const shape = { ...mod, numQueryHeads: 8, numKvHeads: 2, headDimQk: 20, headDimV: 20, pageSize: 16, seed: 5 };
    const whole = await attend(wasm, { ...shape, sequences: [{ rows: 70, before: 0 }] });
    for (const queryTile of [1, 3, 64]) {
      const tiled = await attend(wasm, { ...shape, queryTile, sequences: [{ rows: 70, before: 0 }] });
      assert.deepEqual(bits(tiled.out), bits(whole.out), `${name}, tiles of ${queryTile} rows`);
      assert.deepEqual(bits(tiled.lse), bits(whole.lse), `${name}, tiles of ${queryTile} rows`);
    }
    if (!mod.maskMod || name === "prefix-LM") continue; // a row that sees later keys is not the same in a chunk
    for (const [before, rows] of [[0, 1], [1, 1], [31, 2], [32, 5], [40, 30], [69, 1]] as const) {
      const chunk = await attend(wasm, { ...shape, sequences: [{ rows, before }, { rows: 3, before: 50 }] });
      const row = 8 * 20;
      assert.deepEqual(bits(chunk.out.subarray(0, rows * row)), bits(whole.out.subarray(before * row, (before + rows) * row)), `${name}, rows ${before} to ${before + rows - 1}`);
    }
  }
});

test("a live load out of range fails the call by name; a dead one does not", async () => {
  const table = { name: "short", type: "f32", value: { data: [1, 2, 3], shape: [3] } } as const;
  const c: Case = { maskMod: causal, scoreMod: binary("add", score, load("f32", "short", [kv])), captures: [table], numQueryHeads: 2, numKvHeads: 1, headDimQk: 8, headDimV: 8, pageSize: 4, sequences: [{ rows: 6, before: 0 }], seed: 3 };
  await assert.rejects(attend(wasm, c), /index 3 is outside dimension 0 of the captured table 'short', which has 3 elements/);
  await attend(wasm, { ...c, sequences: [{ rows: 3, before: 0 }] });
});

test("keys in segments: the reference's result, and the same bits whoever computes which segment, alone and beside others", async () => {
  const bits = (x: Float32Array): Uint32Array => new Uint32Array(x.slice().buffer);
  const threads = await Promise.all([1, 3].map((count) => openWasm({ threads: count })));
  const window = { ...mods["sliding window"]!, captures: [{ name: "size", type: "i32", value: 700 } as const] };
  const variants: Readonly<Record<string, Partial<Case>>> = {
    causal: { maskMod: causal }, "a window that begins inside": window, "a sink for each head": { maskMod: causal, denominator: "sink" }, "bf16": { maskMod: causal, keyFormat: "bf16", valueFormat: "bf16" },
    "sigmoid weights": { maskMod: causal, ...hooks["sigmoid weights"]! },
    "nothing allowed on odd rows": mods["nothing allowed on odd rows"]!,
  };
  try {
    for (const [name, variant] of Object.entries(variants)) {
      const shape = { ...variant, numQueryHeads: 2, numKvHeads: 1, headDimQk: 16, headDimV: 16, pageSize: 16, seed: 21 };
      // One row, then four, at the end of 1600 keys: four segments. Beside them a row with three segments, and one with a few keys.
      const one: Case = { ...shape, sequences: [{ rows: 1, before: 1599 }] }, few: Case = { ...shape, sequences: [{ rows: 4, before: 1596 }] };
      const many: Case = { ...shape, queryTile: 3, sequences: [{ rows: 4, before: 1596 }, { rows: 1, before: 1100 }, { rows: 2, before: 5 }] };
      const expected = await attend(reference, few);
      const alone = await attend(threads[0]!, few);
      close(alone.out, expected.out, `${name}: out`, variant.weightMod ? 1e-3 : 2e-6);
      close(alone.lse, expected.lse, `${name}: lse`);
      for (const backend of [wasm, ...threads]) {
        const row = await attend(backend, one), rows = await attend(backend, few), beside = await attend(backend, many);
        assert.deepEqual(bits(rows.out), bits(alone.out), name);
        assert.deepEqual(bits(rows.lse), bits(alone.lse), name);
        assert.deepEqual(bits(row.out), bits(alone.out.subarray(3 * 32)), name);
        assert.deepEqual(bits(beside.out.subarray(0, 4 * 32)), bits(alone.out), name);
        assert.deepEqual(bits(beside.lse.subarray(0, 4 * 2)), bits(alone.lse), name);
      }
    }
  } finally {
    await Promise.all(threads.map((backend) => backend.close()));
  }
});
