/**
 * What expr.ts writes, and kernels/arithmetic.cu under it, against the interpreter: the very text, compiled by the machine's C++ compiler with a shim for
 * what CUDA has and C++ has not, all functions in one file and one run. Needs no GPU; what only a GPU computes (three instructions) is the shim's.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { judge, partsOf, randomMod } from "../../../tests/kernels/random-mod.ts";
import { UsageError } from "../../core/errors.ts";
import { stream } from "../../core/random.ts";
import { binary, type BinaryOp, binaryOps, constant, type Expr, index, load, score, select, type Type, unary, type UnaryOp, unaryOps } from "../../ir/expr.ts";
import { randomCaptures, randomSlots } from "../../ir/generate.ts";
import { type CaptureEnv, type Env, evaluator } from "../../ir/interpret.ts";
import type { CaptureSlot } from "../../ir/plan.ts";
import { print } from "../../ir/print.ts";
import { rebuild } from "../../ir/simplify.ts";
import { captureField, captureFields, emitFunction, emitPlainInRange, extentField, holdsLoad, literal, placeOf } from "./expr.ts";
import { kernelText } from "./sources.node.ts";
import { Struct } from "./struct.ts";

/** Where a function is asked: the mod's arguments, and whether its value matters there. */
type Point = Pick<Env, "b" | "h" | "q" | "kv" | "score"> & { readonly live: boolean };
interface Program {
  readonly e: Expr;
  readonly slots: readonly CaptureSlot[];
  readonly captures: CaptureEnv;
  readonly points: readonly Point[];
}
/** The value at a point, and the load that failed there, if one did. */
interface Outcome {
  readonly value: number;
  readonly failed: { readonly slot: number; readonly dim: number; readonly index: number } | undefined;
  /** The value where instructions that are a few units in the last place off are as far off, and where plain loads are not guarded (the same where these may be out of range). */
  readonly nudged: number;
  readonly unguarded: number;
}

/** What CUDA declares by itself. */
const shim = `#include <cstdio>
#include <cstdlib>
#include <vector>
${readFileSync(new URL("../../../tests/kernels/cuda-arithmetic.h", import.meta.url), "utf8").replace("#pragma once\n", "")}
template <class T> inline T __ldg(const T* p) { return *p; }
`;
/** Instructions that arithmetic.cu writes as assembly. */
const assembly: Readonly<Record<string, string>> = {
  "tanh.approx.f32": "y = tanhf(x) * nudge;", "sqrt.approx.f32": "y = sqrtf(x) * nudge;", "min.NaN.f32": "y = minNan(a, b);", "max.NaN.f32": "y = maxNan(a, b);",
};
/** 1 + 8 ulp: as far off as `judge` tries, and further than those instructions are. */
const nudge = "1.00000095f";
/** What they compute. */
const approximate: ReadonlySet<string> = new Set(["div", "sqrt"]);

const frame = `
u32 bitsOf(float x) { return __float_as_uint(x); }
u32 bitsOf(int x) { return (u32)x; }
typedef u32 (*Call)(const void* params, Failure& failure, const int* point, bool guarded);
`;
/** Reads, for each program: [pointers, parameter bytes, table bytes, points], all of those; writes 5 words for each point. Pointers count from the tables' first byte. */
const main = `
int main() {
  std::vector<int> answers;
  for (Call call : calls) {
    int sizes[4];
    if (fread(sizes, 4, 4, stdin) != 4) return 1;
    std::vector<u64> params(sizes[1] / 8 + 1), tables(sizes[2] / 8 + 1);
    std::vector<int> points(6 * sizes[3]);
    if (fread(params.data(), 1, sizes[1], stdin) != sizes[1] || fread(tables.data(), 1, sizes[2], stdin) != sizes[2]) return 1;
    if (fread(points.data(), 4, points.size(), stdin) != points.size()) return 1;
    for (int i = 0; i < sizes[0]; i++) params[i] += (u64)tables.data();
    for (int i = 0; i < sizes[3]; i++) {
      int4 told = {0, 0, 0, 0};
      Failure failure(&told);
      answers.push_back((int)call(params.data(), failure, &points[6 * i], true));
      failure.finish();
      answers.push_back(told.y);
      answers.push_back(told.z);
      nudge = ${nudge};
      answers.push_back((int)call(params.data(), failure, &points[6 * i], true));
      nudge = 1.f;
      answers.push_back((int)call(params.data(), failure, &points[6 * i], false));
    }
  }
  fwrite(answers.data(), 4, answers.size(), stdout);
}
`;

function sourceOf(programs: readonly Program[]): string {
  const arithmetic = kernelText("arithmetic").replace(/asm\("(\S+) [^;]*;"[^;]*\);/g, (_, name: string) => {
    assert.ok(assembly[name], `arithmetic.cu has ${name}, which the shim has not`);
    return assembly[name]!;
  });
  assert.ok(!arithmetic.includes("asm"), "all assembly was replaced");
  const functions = programs.map(({ e, slots }, i) => {
    const inRange = emitPlainInRange([e], slots);
    return `namespace program${i} {
${new Struct(captureFields(slots)).text}
${emitFunction("mod", e, slots, print(e).replaceAll("\n", " "))}
${inRange ?? ""}
u32 call(const void* params, Failure& failure, const int* at, bool guarded) {
  const Params& p = *(const Params*)params;
  const float score = __int_as_float(at[4]);
  ${inRange ? `if (!guarded && (at[2] | at[3]) >= 0 && plainInRange(p, at[2], at[3])) return bitsOf(mod<false>(p, failure, at[5], score, at[0], at[1], at[2], at[3]));` : ""}
  return bitsOf(mod<true>(p, failure, at[5], score, at[0], at[1], at[2], at[3]));
}
}`;
  });
  return [shim, arithmetic, frame, ...functions, `const Call calls[] = {${programs.map((_, i) => `program${i}::call`).join(", ")}};`, main].join("\n");
}

/** The bytes of a program's parameters, tables and points. */
function inputOf({ slots, captures, points }: Program): readonly Uint8Array[] {
  const values: Record<string, number> = {}, tables: Uint8Array[] = [];
  let at = 0;
  slots.forEach((slot, i) => {
    if (slot.kind === "uniform") return void (values[captureField(i)] = captures.uniforms[slot.name]!);
    const { data, shape } = captures.tables[slot.name]!, bytes = Math.ceil((4 * data.length) / 8) * 8, table = new Uint8Array(bytes);
    if (slot.type === "i32") new Int32Array(table.buffer).set(data);
    else new Float32Array(table.buffer).set(data);
    values[captureField(i)] = at;
    shape.forEach((extent, dim) => (values[extentField(i, dim)] = extent));
    tables.push(table);
    at += bytes;
  });
  const params = new Struct(captureFields(slots)).pack(values), words = new Int32Array(6 * points.length), floats = new Float32Array(words.buffer);
  points.forEach(({ b, h, q, kv, score: x, live }, i) => {
    words.set([b, h, q, kv, 0, Number(live)], 6 * i);
    floats[6 * i + 4] = x;
  });
  return [new Uint8Array(Int32Array.of(tables.length, params.length, at, points.length).buffer), params, ...tables, new Uint8Array(words.buffer)];
}

/** Compiles and runs all programs; a trap ends the run where C++ leaves undefined what was computed. */
function execute(programs: readonly Program[]): readonly (readonly Outcome[])[] {
  const folder = mkdtempSync(join(tmpdir(), "tessera-expr-"));
  try {
    writeFileSync(join(folder, "mods.cpp"), sourceOf(programs));
    execFileSync("g++", ["-std=c++17", "-O0", "-w", "-ffp-contract=off", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "mods.cpp", "-o", "mods"], { cwd: folder, stdio: ["ignore", "ignore", "pipe"] });
    const bytes = execFileSync(join(folder, "mods"), { input: Buffer.concat(programs.flatMap(inputOf)), maxBuffer: 2 ** 30 });
    const words = new Int32Array(new Uint8Array(bytes).buffer), floats = new Float32Array(words.buffer);
    let at = 0;
    return programs.map(({ e, points }) => points.map(() => {
      const values = e.type === "f32" ? floats : words, where = words[at + 1]!;
      at += 5;
      return { value: values[at - 5]!, failed: where === 0 ? undefined : { ...placeOf(where), index: words[at - 3]! }, nudged: values[at - 2]!, unguarded: values[at - 1]! };
    }));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const noCaptures: CaptureEnv = { uniforms: {}, tables: {} };
const inexact: ReadonlySet<string> = new Set(["exp", "log", "log2", "log1p", "sin", "cos", "tan", "tanh", "pow", "hypot"]);

// ---- programs nobody wrote ----

const many = process.env["TESSERA_LONG"] ? 2000 : 210;
const pointsOf = (random: () => number, count: number): readonly Point[] => Array.from({ length: count }, (_, i) => {
  const below = (n: number): number => Math.floor(random() * n);
  return { b: below(4), h: below(3), q: below(60), kv: below(60), score: ((below(65) - 32) / 4) * (random() < 0.1 ? 1e6 : 1), live: i % 8 !== 7 };
});
const random: readonly Program[] = Array.from({ length: many }, (_, n) => {
  const draw = stream(31_000 + n), type = (["i32", "f32", "bool"] as const)[n % 3]!, captures = randomCaptures(draw);
  return { e: randomMod(draw, type, { score: true }), slots: randomSlots, captures, points: pointsOf(draw, 96) };
});

/** The same programs, with lengths of tables that are two too long: loads leave their tables, some where it matters. */
function wildened(e: Expr, { tables }: CaptureEnv): Expr {
  const done = new Map<Expr, Expr>();
  const visit = (node: Expr): Expr => {
    const known = done.get(node) ?? (node.kind === "extent" ? constant("i32", tables[node.table]!.shape[node.dim]! + 2) : rebuild(node, visit));
    done.set(node, known);
    return known;
  };
  return visit(e);
}
const wild: readonly Program[] = Array.from({ length: Math.ceil(many / 2) }, (_, n) => {
  const draw = stream(77_000 + n), type = (["i32", "f32", "bool"] as const)[n % 3]!, captures = randomCaptures(draw);
  return { e: wildened(randomMod(draw, type, { score: true, without: inexact }), captures), slots: randomSlots, captures, points: pointsOf(draw, 96) };
});

// ---- every operator, for every pair of edge values ----

const edges = {
  i32: Int32Array.of(0, 1, -1, 2, -2, 3, 5, 31, 32, 33, -7, 65535, 65536, 2 ** 30, -(2 ** 30), 2 ** 31 - 1, -(2 ** 31), -(2 ** 31) + 1),
  f32: Float32Array.of(0, -0, 0.5, -0.5, 0.49999997, -0.49999997, 1, -1, -2.5, 3, 7.25, 1e-45, -1e-45, 8388609, -8388607.5, 2 ** 31, -3e9, 1e30, 3e38, Infinity, -Infinity, NaN),
};
const edgeSlots: readonly CaptureSlot[] = [{ kind: "table", name: "i32", type: "i32", rank: 1 }, { kind: "table", name: "f32", type: "f32", rank: 1 }];
const edgeCaptures: CaptureEnv = { uniforms: {}, tables: { i32: { data: edges.i32, shape: [edges.i32.length] }, f32: { data: edges.f32, shape: [edges.f32.length] } } };
const operand = (type: Type, at: Expr): Expr => (type === "bool" ? binary("lt", load("i32", "i32", [at]), constant("i32", 2)) : load(type, type, [at]));
const typesOf = (row: { readonly types: Readonly<Partial<Record<Type, Type>>> }): readonly Type[] => Object.keys(row.types) as Type[];
const operators: readonly Program[] = [
  ...(Object.keys(unaryOps) as UnaryOp[]).flatMap((op) => typesOf(unaryOps[op]).map((type) => [type, unary(op, operand(type, index("q")))] as const)),
  ...(Object.keys(binaryOps) as BinaryOp[]).flatMap((op) => typesOf(binaryOps[op]).map((type) => [type, binary(op, operand(type, index("q")), operand(type, index("kv")))] as const)),
].map(([type, e]) => {
  const count = edges[type === "f32" ? "f32" : "i32"].length;
  return { e, slots: edgeSlots, captures: edgeCaptures, points: Array.from({ length: count ** 2 }, (_, i) => ({ b: 0, h: 0, q: Math.floor(i / count), kv: i % count, score: 0, live: true })) };
});
/** Constants of every kind, as they are written. */
const constants: readonly Program[] = [
  ...[...edges.i32].map((x) => constant("i32", x)), ...[...edges.f32, 0.1, 1e-3, 1e21, 1.17549435e-38, 2 ** 24 + 2].map((x) => constant("f32", x)), constant("bool", 0), constant("bool", 1),
].map((e) => ({ e, slots: [], captures: noCaptures, points: [{ b: 0, h: 0, q: 0, kv: 0, score: 0, live: true }] }));

// ---- angles ----

/** Numbers of every size, those nearest to multiples of pi / 2, and 16367173 * 2^72, the f32 of which least is left beside such a multiple. */
function angles(): readonly number[] {
  const draw = stream(5), found: number[] = [0, -0, 1e-45, 1e-30, 16367173 * 2 ** 72, 2 ** 27, 2 ** 27 - 8, 2 ** 127, 3.4028234e38, 1e8, 1e22];
  for (let exponent = -30; exponent < 128; exponent++) for (let i = 0; i < 24; i++) found.push(2 ** exponent * (1 + draw()));
  for (let i = 0; i < 3000; i++) found.push(Math.round(i < 1000 ? i : draw() * 2 ** 26) * (Math.PI / 2));
  return found.flatMap((x) => [Math.fround(x), -Math.fround(x)]).concat(Infinity, -Infinity, NaN);
}
const turning = (["sin", "cos", "tan"] as const).map((op): Program => ({ e: unary(op, score), slots: [], captures: noCaptures, points: angles().map((x) => ({ b: 0, h: 0, q: 0, kv: 0, score: x, live: true })) }));
/**
 * Of the result's last place. The polynomials' own error is below half of it (sine) and 0.6 (cosine) between -pi/4 and pi/4; rounding of the angle, of
 * the polynomial's steps and of the quotient come on top.
 */
const mostUlps = { sin: 1.7, cos: 1.7, tan: 3.5 } as const;

// ---- loads ----

const t = (...at: readonly Expr[]): Expr => load("i32", "grid", at);
const live = (e: Expr, points: readonly Partial<Point>[]): Program => ({
  e, slots: [{ kind: "uniform", name: "n", type: "i32" }, { kind: "table", name: "grid", type: "i32", rank: 2 }], captures: { uniforms: { n: 3 }, tables: { grid: { data: Int32Array.of(10, 11, 12, 20, 21, 22), shape: [2, 3] } } },
  points: points.map((p) => ({ b: 0, h: 0, q: 0, kv: 0, score: 0, live: true, ...p })),
});
const loads: readonly Program[] = [live(t(index("q"), index("kv")), [{ q: 1, kv: 2 }, { q: 2, kv: 1 }, { q: 1, kv: 3 }, { q: -1, kv: 0 }, { q: 1, kv: -2147483648 }, { q: 2, kv: 1, live: false }])];

/** Where a quotient of equals must be 1 exactly: at the edge of what an operator is defined for, and where an angle has turned many times. */
const x = unary("toF32", index("q")), one = constant("f32", 1), ratio = binary("div", x, x);
const domains: readonly Program[] = [
  unary("sqrt", binary("sub", one, ratio)), unary("log", binary("sub", binary("add", one, constant("f32", 2 ** -23)), ratio)), unary("log1p", binary("sub", constant("f32", 0), ratio)),
  binary("pow", constant("f32", -2), ratio), unary("sin", binary("mul", constant("f32", 1e6), ratio)), select(binary("eq", ratio, one), one, constant("f32", 0)),
].map((e) => ({ e, slots: [], captures: noCaptures, points: [1, 3, 7, 41].map((q) => ({ b: 0, h: 0, q, kv: 0, score: 0, live: true })) }));

const groups = { random, wild, operators, constants, turning, domains, loads } as const;
const missing = spawnSync("g++", ["--version"]).status === 0 ? false : "no C++ compiler (g++) on this machine to compile what is emitted; on Debian: apt-get install g++";
const outcomes: { readonly [G in keyof typeof groups]?: readonly (readonly Outcome[])[] } = {};
if (!missing) {
  const all = execute(Object.values(groups).flat());
  let at = 0;
  for (const [name, programs] of Object.entries(groups)) Object.assign(outcomes, { [name]: all.slice(at, (at += programs.length)) });
}

const told = ({ e, captures }: Program, at: Point, value: number, wanted: number): string =>
  `${print(e)}\nat ${JSON.stringify(at)} is ${value}, not ${wanted}; ${JSON.stringify(captures.uniforms)}, ${Object.entries(captures.tables).map(([name, { data }]) => `${name} = [${Array.from(data).join(" ")}]`).join(", ")}`;

/** Compares with the interpreter, and counts what could be judged. */
function compare(programs: readonly Program[], found: readonly (readonly Outcome[])[]): { judged: number; exact: number; notJudged: number } {
  const count = { judged: 0, exact: 0, notJudged: 0 };
  programs.forEach((program, n) => {
    const { expect } = judge(program.e, stream(n));
    program.points.forEach((point, i) => {
      const { value, failed, unguarded } = found[n]![i]!;
      assert.ok(Object.is(value, unguarded), `${print(program.e)} at ${JSON.stringify(point)}: ${unguarded} without guards, ${value} with them`);
      if (!point.live) return assert.equal(failed, undefined, `${print(program.e)}: a load where no value matters is no failure`);
      assert.equal(failed, undefined, `${print(program.e)} at ${JSON.stringify(point)}: a load failed`);
      const wanted = expect({ ...point, ...program.captures });
      if (wanted === undefined) return void count.notJudged++;
      count.judged++;
      if (wanted.tolerance === 0) count.exact++;
      if (!Object.is(value, wanted.value) && !(Math.abs(value - wanted.value) <= wanted.tolerance)) assert.fail(told(program, point, value, wanted.value));
    });
  });
  return count;
}

test(`${many} random mods have the interpreter's values`, { skip: missing }, () => {
  const { judged, exact, notJudged } = compare(random, outcomes.random!);
  assert.ok(judged > 60 * many && exact > 0.7 * judged && notJudged < 0.1 * judged, `${judged} judged, ${exact} of them exactly, ${notJudged} not`);
  const covered = new Set(random.flatMap(({ e }) => [...partsOf(e)])), wanted = ["const", "index", "score", "uniform", "extent", "load", "select"];
  for (const [op, row] of Object.entries({ ...unaryOps, ...binaryOps })) for (const type of typesOf(row)) wanted.push(`${op} ${type}`);
  assert.deepEqual(wanted.filter((part) => !covered.has(part)), [], "every operator is in one of them");
});

test("where instructions are a few units in the last place off, values are off by what that means, and nothing jumps", { skip: missing }, () => {
  domains.forEach((program, n) => program.points.forEach((point, i) => {
    const { value, nudged } = outcomes.domains![n]![i]!;
    if (!(Math.abs(value - nudged) <= 2 ** -19 * Math.abs(value))) assert.ok(Object.is(value, nudged), told(program, point, nudged, value));
  }));
  let judged = 0, moved = 0, notJudged = 0;
  random.forEach((program, n) => {
    const { expect } = judge(program.e, stream(n), approximate);
    program.points.forEach((point, i) => {
      const { value, nudged } = outcomes.random![n]![i]!;
      if (!point.live) return;
      if (Object.is(value, nudged)) return void judged++;
      assert.equal(program.e.type, "f32", told(program, point, nudged, value));
      moved++;
      const wanted = expect({ ...point, ...program.captures });
      if (wanted === undefined) return void notJudged++;
      judged++;
      if (!(Math.abs(nudged - value) <= wanted.tolerance + 2 ** -22 * Math.abs(value))) assert.fail(told(program, point, nudged, value));
    });
  });
  assert.ok(moved > many && notJudged < 0.02 * judged, `${judged} judged, ${moved} moved, ${notJudged} not judged`);
});

test("a load fails exactly where the interpreter's does, and its place is one that is out of range", { skip: missing }, () => {
  let failures = 0, others = 0;
  wild.forEach((program, n) => {
    const exact = evaluator(program.e), loads = holdsLoad(program.e);
    program.points.forEach((point, i) => {
      let wanted: number | undefined;
      try {
        wanted = exact({ ...point, ...program.captures });
      } catch (error) {
        assert.ok(error instanceof UsageError);
      }
      const { value, failed } = outcomes.wild![n]![i]!, at = `${print(program.e)} at ${JSON.stringify(point)}`;
      if (!point.live || !loads) return assert.equal(failed, undefined, at);
      assert.equal(failed !== undefined, wanted === undefined, `${at}: fails on one side alone`);
      if (failed) {
        failures++;
        const slot = program.slots[failed.slot]!, extent = program.captures.tables[slot.name]!.shape[failed.dim]!;
        assert.ok(failed.index < 0 || failed.index >= extent, `${at}: ${slot.name}[${failed.index}] of ${extent} was told`);
      } else if (loads && ++others && !Object.is(value, wanted)) assert.fail(told(program, point, value, wanted!));
    });
  });
  assert.ok(failures > 2 * many && others > 10 * many, `${failures} failed, ${others} did not`);
});

test("every operator has the interpreter's value for every pair of edge values, the sign of zero included", { skip: missing }, () => {
  const { judged, notJudged } = compare(operators, outcomes.operators!);
  assert.ok(notJudged < 0.05 * judged, `${judged} judged, ${notJudged} not`);
});

test("constants are themselves, bit for bit", { skip: missing }, () => {
  assert.equal(compare(constants, outcomes.constants!).exact, constants.length);
  assert.deepEqual([literal("f32", 5), literal("f32", -0), literal("f32", 1e21), literal("i32", -(2 ** 31)), literal("bool", 1)], ["5.f", "(-0.f)", "1e+21f", "(-2147483647 - 1)", "true"]);
});

test("a product that something jumps by is rounded by itself; elsewhere the compiler may fuse it with a sum", () => {
  const sum = binary("add", binary("mul", score, constant("f32", 0.1)), constant("f32", 3));
  assert.match(emitFunction("mod", sum, [], ""), /return \(\(score \* 0\.1\S*f\) \+ 3\.f\)/);
  for (const e of [unary("floor", sum), binary("lt", sum, constant("f32", 1)), select(binary("lt", sum, constant("f32", 1)), sum, score)]) {
    const text = emitFunction("mod", e, [], "");
    assert.ok(text.includes("__fmul_rn(score, 0.1") && !text.includes("score *"), text);
  }
  assert.match(emitFunction("mod", unary("floor", unary("toF32", binary("mul", index("q"), index("kv")))), [], ""), /wrapMul\(q, kv\)/);
});

test("sine, cosine and tangent are Math's to a few last places, for angles of every size", { skip: missing }, () => {
  turning.forEach((program, n) => {
    assert.ok(program.e.kind === "unary");
    const op = program.e.op as "sin" | "cos" | "tan";
    let most = 0;
    program.points.forEach((point, i) => {
      const { value } = outcomes.turning![n]![i]!, wanted = Math[op](point.score);
      if (Number.isNaN(wanted) || wanted === 0) return assert.ok(Object.is(value, wanted), told(program, point, value, wanted));
      const ulp = 2 ** (Math.max(-126, Math.floor(Math.log2(Math.abs(wanted)))) - 23), off = Math.abs(value - wanted) / ulp;
      most = Math.max(most, off);
      if (!(off <= mostUlps[op])) assert.fail(`${told(program, point, value, wanted)}: ${off} ulp`);
    });
    assert.ok(most > 0.5, `${op}: ${most} ulp`);
  });
});

test("a failed load is told with its table, dimension and index; where nothing matters it reads element 0", { skip: missing }, () => {
  assert.deepEqual(outcomes.loads![0]!.map(({ unguarded }) => unguarded), outcomes.loads![0]!.map(({ value }) => value));
  assert.deepEqual(outcomes.loads![0]!.map(({ value, failed }) => ({ value, failed })), [
    { value: 22, failed: undefined }, { value: 11, failed: { slot: 1, dim: 0, index: 2 } }, { value: 20, failed: { slot: 1, dim: 1, index: 3 } },
    { value: 10, failed: { slot: 1, dim: 0, index: -1 } }, { value: 20, failed: { slot: 1, dim: 1, index: -2147483648 } }, { value: 11, failed: undefined },
  ]);
});

for (const [name, refine] of Object.entries({
  "its own size": (value: Expr, n: number) => select(binary("gt", value, constant("f32", n)), binary("add", value, constant("f32", 1)), binary("sub", value, constant("f32", 1))),
  "something else": (value: Expr, n: number) => select(binary("gt", index("q"), constant("i32", n)), binary("add", value, constant("f32", 1)), value),
})) test(`a loaded value refined by one choice after another by ${name} is written once for each, not once for each way through`, () => {
  const textOf = (steps: number): number =>
    emitFunction("mod", Array.from({ length: steps }, (_, n) => n).reduce<Expr>(refine, load("f32", "t", [index("kv")])), [{ kind: "table", name: "t", type: "f32", rank: 1 }], "").length;
  const [four, eight, twelve] = [textOf(4), textOf(8), textOf(12)];
  assert.ok(twelve - eight < 1.5 * (eight - four), `${four}, ${eight} and ${twelve} characters for 4, 8 and 12 choices`);
});
