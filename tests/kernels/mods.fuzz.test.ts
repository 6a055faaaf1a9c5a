/**
 * Random mods through the wasm attention kernel, value by value against the interpreter.
 *
 * A score program runs under a mask that leaves one key to each row: then the row's log-sum-exp is that key's score, bit for
 * bit. A mask program runs over values that name their key: the keys of a row that got weight are those the mask allowed. The
 * query and key rows are such that q.k is exact in any order. Every block is partial, so that mask code always runs.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { planWork } from "../../src/attention/work-list.ts";
import type { Backend, Buffer, CaptureValue } from "../../src/backend/backend.ts";
import { open } from "../../src/backend/wasm/open.ts";
import { stream } from "../../src/core/random.ts";
import { binary, type BinaryOp, binaryOps, constant, type Expr, index, load, score, select, type Type, unary, type UnaryOp, unaryOps, uniform } from "../../src/ir/expr.ts";
import { randomCaptures, randomSlots } from "../../src/ir/generate.ts";
import type { CaptureEnv } from "../../src/ir/interpret.ts";
import type { AttentionPlan, CaptureSlot } from "../../src/ir/plan.ts";
import { print } from "../../src/ir/print.ts";
import { verdict } from "../../src/ir/range.ts";
import { judge, partsOf, randomMod } from "./random-mod.ts";

const programs = process.env["TESSERA_LONG"] ? 10_000 : 240;
const numHeads = 3, headDimQk = 4, numKeys = 37, numRows = 18, firstPosition = 9, sequence = 1, kvTile = 16, pageSize = 5;

let wasm: Backend;
before(async () => void (wasm = await open({ threads: 1 })));
after(() => wasm.close());

const upload = (data: Float32Array | Int32Array): Buffer => {
  const buffer = wasm.alloc(data.byteLength);
  wasm.write(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return buffer;
};
const floats = async (buffer: Buffer, count: number): Promise<Float32Array> => new Float32Array((await wasm.read(buffer, 0, 4 * count)).slice().buffer);

/** Quarters between -4 and 4: products and sums of a few are exact. */
const quarter = (n: number): number => ((n % 33) - 16) / 4;
const queryOf = (row: number, head: number, d: number): number => quarter(7 * row + 3 * head + 5 * d);
const keyOf = (kv: number, d: number): number => quarter(11 * kv + 2 * d);
const scoreOf = (row: number, head: number, kv: number): number => 0.5 * [0, 1, 2, 3].reduce((sum, d) => sum + queryOf(row, head, d) * keyOf(kv, d), 0);

/** Runs the program's kernel for each value of the uniform `turn`. */
async function launch(mask: Expr, mod: Expr, slots: readonly CaptureSlot[], captures: CaptureEnv, turns: readonly number[]): Promise<{ readonly out: Float32Array; readonly lse: Float32Array }[]> {
  const plan: AttentionPlan = {
    key: "fuzz", scoreMod: mod, maskMod: mask, captures: [...slots, { kind: "uniform", name: "turn", type: "i32" }],
    headDimQk, headDimV: numKeys, numQueryHeads: numHeads, numKvHeads: 1, scale: 0.5, queryTile: 8, kvTile,
  };
  const kernel = await wasm.compile(plan);
  const one = (x: number): Int32Array => Int32Array.of(0, x);
  const work = planWork({ classify: () => verdict.sometimes }, {
    numSequences: 2, firstRow: one(0), numRows: one(numRows), firstPosition: one(firstPosition), kvLength: one(numKeys),
  }, plan);
  const pages = Math.ceil(numKeys / pageSize);
  const tables = Object.fromEntries(Object.entries(captures.tables).map(([name, { data }]) => [name, upload(data as Float32Array | Int32Array)]));
  const buffers = {
    ...tables,
    query: upload(Float32Array.from({ length: numRows * numHeads * headDimQk }, (_, i) => queryOf(Math.floor(i / (numHeads * headDimQk)), Math.floor(i / headDimQk) % numHeads, i % headDimQk))),
    key: upload(Float32Array.from({ length: pages * pageSize * headDimQk }, (_, i) => keyOf(Math.floor(i / headDimQk), i % headDimQk))),
    value: upload(Float32Array.from({ length: pages * pageSize * numKeys }, (_, i) => Number(Math.floor(i / numKeys) === i % numKeys))),
    blockTable: upload(Int32Array.from({ length: 2 * pages }, (_, i) => i % pages)),
    work: upload(Int32Array.from(work)),
    out: wasm.alloc(4 * numRows * numHeads * numKeys), lse: wasm.alloc(4 * numRows * numHeads),
  };
  const outcomes = [];
  try {
    for (const turn of turns) {
      const values = plan.captures.map((slot): CaptureValue => slot.kind === "table"
        ? { kind: "table", data: tables[slot.name]!, shape: captures.tables[slot.name]!.shape }
        : { kind: "uniform", value: slot.name === "turn" ? turn : captures.uniforms[slot.name]! });
      wasm.ops.attention({
        kernel, captures: values, pageSize, blockTable: buffers.blockTable, maxPagesPerSequence: pages, work: buffers.work, lse: { data: buffers.lse, sequenceStride: 0 },
        query: { data: buffers.query, sequenceStride: 0, rowStride: numHeads * headDimQk, headStride: headDimQk },
        out: { data: buffers.out, sequenceStride: 0, rowStride: numHeads * numKeys, headStride: numKeys },
        key: { data: buffers.key, sequenceStride: pageSize * headDimQk, rowStride: headDimQk, headStride: headDimQk },
        value: { data: buffers.value, sequenceStride: pageSize * numKeys, rowStride: numKeys, headStride: numKeys },
      });
      outcomes.push({ out: await floats(buffers.out, numRows * numHeads * numKeys), lse: await floats(buffers.lse, numRows * numHeads) });
    }
  } finally {
    for (const buffer of Object.values(buffers)) wasm.free(buffer);
  }
  return outcomes;
}

const turned = binary("add", binary("mul", index("q"), constant("i32", 5)), uniform("i32", "turn"));
const oneKey = binary("eq", index("kv"), binary("floorMod", turned, constant("i32", numKeys)));
const keyOfRow = (q: number, turn: number): number => (5 * q + turn) % numKeys;
const turns = [0, 13, 22];

/** Every whole number must come through a score, which is f32: one half of its bits, or where it stands among all. */
const asScore = (e: Expr, random: () => number): Expr => {
  if (e.type === "f32") return e;
  const half = random() < 0.5 ? binary("bitAnd", e, constant("i32", 0xffff)) : binary("shr", e, constant("i32", 16));
  return unary("toF32", half);
};

const executed = { programs: 0, judged: 0, notJudged: 0, exact: 0 };
const covered = new Set<string>();

function report(e: Expr, captures: CaptureEnv, at: string, actual: number | boolean, expected: number | boolean): string {
  const tables = Object.entries(captures.tables).map(([name, t]) => `${name} = [${Array.from(t.data).join(" ")}]`).join(", ");
  return `${print(e)}\nat ${at} is ${actual}, not ${expected}; ${JSON.stringify(captures.uniforms)}, ${tables}`;
}

async function checkScore(e: Expr, captures: CaptureEnv, random: () => number): Promise<void> {
  const { expect } = judge(e, random);
  const outcomes = await launch(oneKey, e, randomSlots, captures, turns);
  turns.forEach((turn, t) => {
    for (let row = 0; row < numRows; row++) for (let h = 0; h < numHeads; h++) {
      const q = firstPosition + row, kv = keyOfRow(q, turn);
      const expected = expect({ b: sequence, h, q, kv, score: scoreOf(row, h, kv), ...captures });
      // The softmax of one infinite score is NaN, as infinity less infinity is.
      const actual = outcomes[t]!.lse[row * numHeads + h]!;
      if (expected === undefined) { executed.notJudged++; continue; }
      const want = expected.value === Infinity ? NaN : expected.value;
      executed.judged++;
      if (expected.tolerance === 0) executed.exact++;
      // lse adds log(1) = 0, which leaves no -0.
      if (!Object.is(actual, want + 0) && !(Math.abs(actual - want) <= expected.tolerance)) assert.fail(report(e, captures, `b ${sequence}, h ${h}, q ${q}, kv ${kv}, score ${scoreOf(row, h, kv)}`, actual, want));
    }
  });
}

async function checkMask(e: Expr, captures: CaptureEnv, random: () => number): Promise<void> {
  const { expect } = judge(e, random);
  // Scores so close together that every allowed key has weight.
  const [outcome] = await launch(e, binary("mul", score, constant("f32", 2 ** -10)), randomSlots, captures, [0]);
  for (let row = 0; row < numRows; row++) for (let h = 0; h < numHeads; h++) for (let kv = 0; kv < numKeys; kv++) {
    const q = firstPosition + row;
    const expected = expect({ b: sequence, h, q, kv, score: 0, ...captures });
    if (expected === undefined) { executed.notJudged++; continue; }
    executed.judged++;
    executed.exact++;
    const actual = outcome!.out[(row * numHeads + h) * numKeys + kv] !== 0;
    if (actual !== (expected.value === 1)) assert.fail(report(e, captures, `b ${sequence}, h ${h}, q ${q}, kv ${kv}`, actual, expected.value === 1));
  }
}

test(`${programs} random mods have the interpreter's values in the wasm kernel`, async () => {
  const types: readonly Type[] = ["i32", "f32", "bool"];
  for (let n = 0; n < programs; n++) {
    const random = stream(9000 + n);
    const type = types[n % 3]!;
    const captures = randomCaptures(random);
    const mod = randomMod(random, type, { score: type !== "bool" });
    try {
      if (type === "bool") await checkMask(mod, captures, random);
      else await checkScore(asScore(mod, random), captures, random);
    } catch (error) {
      throw new Error(`program ${n}: ${(error as Error).message}`, { cause: error });
    }
    executed.programs++;
    for (const part of partsOf(mod)) covered.add(part);
  }
  assert.equal(executed.programs, programs);
  assert.ok(executed.judged >= 150 * programs, `only ${executed.judged} values of ${programs} programs were judged`);
  assert.ok(executed.exact >= 0.7 * executed.judged && executed.notJudged <= 0.1 * executed.judged, JSON.stringify(executed));
});

test("the random mods used every operator for every type it has, and every kind of node", () => {
  const wanted = ["const", "index", "score", "uniform", "extent", "load", "select"];
  for (const [op, { types }] of Object.entries({ ...unaryOps, ...binaryOps })) for (const type of Object.keys(types)) wanted.push(`${op} ${type}`);
  assert.deepEqual(wanted.filter((part) => !covered.has(part)), []);
});

const edges = {
  i32: Int32Array.of(0, 1, -1, 2, -2, 3, 5, 31, 32, 33, -7, 65535, 65536, 2 ** 30, -(2 ** 30), 2 ** 31 - 1, -(2 ** 31), -(2 ** 31) + 1),
  f32: Float32Array.of(0, -0, 0.5, -0.5, 0.49999997, 1, -1, -2.5, 3, 1e-45, -1e-45, 8388609, 2 ** 31, -3e9, 3e38, Infinity, -Infinity, NaN),
};
const numEdges = 18;

test("every operator has the interpreter's value for every pair of edge values, the sign of zero included", async () => {
  const slots: readonly CaptureSlot[] = [{ kind: "table", name: "i32", type: "i32", rank: 1 }, { kind: "table", name: "f32", type: "f32", rank: 1 }];
  const captures: CaptureEnv = { uniforms: {}, tables: { i32: { data: edges.i32, shape: [numEdges] }, f32: { data: edges.f32, shape: [numEdges] } } };
  const row = binary("sub", index("q"), constant("i32", firstPosition));
  const all = Array.from({ length: numEdges }, (_, i) => i);
  const operand = (type: Type, at: Expr): Expr => type === "bool" ? binary("lt", load("i32", "i32", [at]), constant("i32", 2)) : load(type, type, [at]);
  const made = [
    ...(Object.keys(unaryOps) as UnaryOp[]).flatMap((op) => (Object.keys(unaryOps[op].types) as Type[]).map((type) => unary(op, operand(type, row)))),
    ...(Object.keys(binaryOps) as BinaryOp[]).flatMap((op) => (Object.keys(binaryOps[op].types) as Type[]).map((type) => binary(op, operand(type, row), operand(type, index("kv"))))),
  ];
  let judged = 0;
  for (const e of made) {
    // A score can hold half an i32, and an lse no -0: there the sign is that of an infinity.
    const programs = e.type === "f32" ? [select(binary("eq", e, constant("f32", 0)), binary("div", constant("f32", 1), e), e)]
      : e.type === "bool" ? [unary("toF32", unary("boolToI32", e))]
      : [unary("toF32", binary("bitAnd", e, constant("i32", 0xffff))), unary("toF32", binary("shr", e, constant("i32", 16)))];
    for (const program of programs) {
      const { expect } = judge(program, stream(1));
      const pair = binary("eq", index("kv"), binary("floorMod", binary("add", row, uniform("i32", "turn")), constant("i32", numEdges)));
      const outcomes = await launch(pair, program, slots, captures, e.kind === "unary" ? [0] : all);
      outcomes.forEach(({ lse }, turn) => {
        for (const r of all) {
          const kv = (r + turn) % numEdges;
          const expected = expect({ b: sequence, h: 0, q: firstPosition + r, kv, score: 0, ...captures });
          if (expected === undefined) continue;
          judged++;
          const want = expected.value === Infinity ? NaN : expected.value, actual = lse[r * numHeads]!;
          if (!Object.is(actual, want + 0) && !(Math.abs(actual - want) <= expected.tolerance)) {
            const type = e.kind === "unary" ? e.x.type : e.kind === "binary" ? e.a.type : e.type;
            const from = edges[type === "f32" ? "f32" : "i32"];
            assert.fail(`${print(program)} of ${from[r]} and ${from[kv]} is ${actual}, not ${want}`);
          }
        }
      });
    }
  }
  assert.ok(judged > 0.9 * made.length * numEdges ** 2 / 2, `${judged} values judged`);
});
