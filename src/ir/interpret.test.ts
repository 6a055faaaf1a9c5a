import assert from "node:assert/strict";
import { test } from "node:test";
import { binary, constant, type Expr, index, load, score, select, unary, uniform } from "./expr.ts";
import { type Env, evaluator, interpret } from "./interpret.ts";

const env: Env = { b: 1, h: 2, q: 10, kv: 3, score: 0.1, uniforms: { n: 7, f: 0.1 }, tables: { t: { data: Int32Array.of(1, 2, 3, 4, 5, 6), shape: [2, 3] }, docs: { data: new Int32Array(5), shape: [5] } } };
const q = index("q"), kv = index("kv");
const int = (x: number): Expr => constant("i32", x);

test("an f32 rounds after each operation, and in double mode does not", () => {
  const e = binary("mul", binary("mul", score, constant("f32", 3)), constant("f32", 7));
  assert.equal(interpret(e, env), Math.fround(Math.fround(Math.fround(0.1) * 3) * 7));
  assert.equal(interpret(e, env, "double"), 0.1 * 3 * 7);
});

test("integers wrap at 32 bits in both modes, and products of large ones are exact", () => {
  const e = binary("mul", int(0x7fffffff), int(0x7ffffffd));
  for (const mode of ["f32", "double"] as const) assert.equal(interpret(e, env, mode), Math.imul(0x7fffffff, 0x7ffffffd));
  assert.equal(interpret(binary("add", int(2 ** 31 - 1), int(1)), env), -(2 ** 31));
});

const quotients: readonly (readonly [a: number, b: number, rem: number, floorDiv: number, floorMod: number])[] = [
  [7, 3, 1, 2, 1], [-7, 3, -1, -3, 2], [7, -3, 1, -3, -2], [-7, -3, -1, 2, -1], [5, 0, 0, 0, 0], [-(2 ** 31), -1, 0, -(2 ** 31), 0],
];
for (const [a, b, rem, floorDiv, floorMod] of quotients) {
  test(`${a} by ${b}: rem ${rem}, floorDiv ${floorDiv}, floorMod ${floorMod}`, () => {
    const of = (op: "rem" | "floorDiv" | "floorMod"): number => interpret(binary(op, int(a), int(b)), env);
    assert.deepEqual([of("rem") + 0, of("floorDiv"), of("floorMod")], [rem, floorDiv, floorMod]);
  });
}

test("toI32 truncates, saturates, and takes NaN as 0", () => {
  const of = (x: number): number => interpret(unary("toI32", constant("f32", x)), env);
  assert.deepEqual([2.9, -2.9, 1e20, -1e20, NaN].map(of), [2, -2, 2 ** 31 - 1, -(2 ** 31), 0]);
});

test("a load reads row-major, and one out of range fails by table, index and extent", () => {
  assert.equal(interpret(load("i32", "t", [int(1), int(2)]), env), 6);
  assert.throws(() => interpret(load("i32", "docs", [q]), env), { name: "UsageError", message: /index 10 .*dimension 0 .*'docs'.*5 elements/ });
  assert.throws(() => interpret(load("i32", "t", [int(0), int(-1)]), env), /index -1 .*dimension 1/);
});

test("a load that is not asked for never fails", () => {
  const bad = binary("eq", load("i32", "docs", [q]), int(0));
  const inside = binary("lt", q, int(5));
  assert.equal(interpret(binary("and", inside, bad), env), 0);
  assert.equal(interpret(binary("or", unary("not", inside), bad), env), 1);
  assert.equal(interpret(select(inside, load("i32", "docs", [q]), int(9)), env), 9);
  assert.throws(() => interpret(binary("and", bad, inside), env), /out/);
});

test("a shared part is computed once, so that doubling sixty times ends at once", () => {
  let e: Expr = q;
  for (let i = 0; i < 60; i++) e = binary("add", e, e);
  assert.equal(interpret(e, env), 0); // 10 * 2^60 has no bits below 2^32
  const once = evaluator(binary("mul", binary("sub", q, kv), binary("sub", q, kv)));
  assert.equal(once(env), 49);
  assert.equal(once({ ...env, q: 5 }), 4);
});

test("a capture without a value is named", () => {
  assert.throws(() => interpret(uniform("i32", "size"), env), /'size' has no value/);
});
