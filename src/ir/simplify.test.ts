import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { stream } from "../core/random.ts";
import { binary, constant, type Expr, index, load, select, uniform, unary, score } from "./expr.ts";
import { randomCaptures, randomExpr, randomSlots } from "./generate.ts";
import { interpret } from "./interpret.ts";
import { print } from "./print.ts";
import { postOrder } from "./range.ts";
import { simplify } from "./simplify.ts";
import { verify } from "./verify.ts";

const q = index("q"), kv = index("kv"), n = uniform("i32", "n");
const int = (x: number): Expr => constant("i32", x);
const real = (x: number): Expr => constant("f32", x);

test("a simplified expression has the value of the original, bit for bit, on random programs", () => {
  fc.assert(fc.property(fc.integer(), fc.integer({ min: 0, max: 6 }), fc.constantFrom("i32" as const, "f32" as const, "bool" as const), (seed, depth, type) => {
    const random = stream(seed);
    const e = randomExpr(random, type, depth, { score: true });
    const captures = randomCaptures(random);
    const small = simplify(e);
    assert.equal(small.type, e.type);
    assert.ok(postOrder(small).length <= 2 * postOrder(e).length + 1);
    for (let i = 0; i < 12; i++) {
      const at = { b: Math.floor(random() * 3), h: Math.floor(random() * 4), q: Math.floor(random() * 70), kv: Math.floor(random() * 70), score: Math.fround(random() * 20 - 10), ...captures };
      assert.ok(Object.is(interpret(small, at), interpret(e, at)), `${print(e)}  became  ${print(small)}  and gives ${interpret(small, at)}, not ${interpret(e, at)}`);
    }
  }), { numRuns: 700 });
});

test("simplifying twice changes nothing more, and equal parts are one object", () => {
  fc.assert(fc.property(fc.integer(), (seed) => {
    const once = simplify(randomExpr(stream(seed), "bool", 5, { score: false }));
    assert.equal(print(simplify(once)), print(once));
    const texts = new Map<string, Expr>();
    for (const node of postOrder(once)) {
      const text = print(node) + node.type;
      assert.equal(texts.get(text) ?? node, node, `two objects for ${text}`);
      texts.set(text, node);
    }
  }), { numRuns: 150 });
});

const rules: readonly (readonly [string, Expr, string])[] = [
  ["constants fold with the type's own wrap", binary("mul", int(2 ** 30), int(6)), "-2147483648"],
  ["x * 0 is 0 for integers", binary("mul", q, int(0)), "0"],
  ["x * 0 stays for f32, where x may be NaN", binary("mul", score, real(0)), "score * 0.0"],
  ["x + 0 stays for f32, where x may be -0", binary("add", score, real(0)), "score + 0.0"],
  ["x / 4 is a product", binary("div", score, real(4)), "score * 0.25"],
  ["x / 3 stays", binary("div", score, real(3)), "score / 3.0"],
  ["a division by a power of two is a shift", binary("floorDiv", binary("sub", q, kv), int(8)), "(q - kv) >> 3"],
  ["a modulus by a power of two is a mask", binary("floorMod", binary("sub", q, kv), int(8)), "(q - kv) & 7"],
  ["JavaScript's % of an index is the modulus", binary("rem", q, int(8)), "q & 7"],
  ["JavaScript's % of what may be negative stays", binary("rem", binary("sub", q, kv), int(8)), "(q - kv) % 8"],
  ["a constant condition chooses", select(binary("lt", int(1), int(2)), q, kv), "q"],
  ["a choice of true is an or", select(binary("lt", q, n), constant("bool", 1), binary("ge", q, kv)), "(q < n:i32) || (q >= kv)"],
  ["not of an integer comparison is the opposite", unary("not", binary("lt", q, kv)), "q >= kv"],
  ["not of an f32 comparison stays, for NaN", unary("not", binary("lt", score, real(1))), "not(score < 1.0)"],
  ["& of two truths is a logical and", binary("ne", binary("bitAnd", unary("boolToI32", binary("ge", q, kv)), unary("boolToI32", binary("lt", q, n))), int(0)), "(q >= kv) && (q < n:i32)"],
];
for (const [name, e, wanted] of rules) test(name, () => assert.equal(print(simplify(e)), wanted));

test("verify accepts what the constructors build and names what is wrong with the rest", () => {
  fc.assert(fc.property(fc.integer(), (seed) => {
    verify(randomExpr(stream(seed), "f32", 4, { score: true }), "score", randomSlots);
  }), { numRuns: 100 });
  const table = [{ kind: "table", name: "t", type: "i32", rank: 2 }] as const;
  assert.throws(() => verify(binary("lt", load("i32", "t", [q]), kv), "mask", table), /'t' has 2 dimensions and is read with 1/);
  assert.throws(() => verify(binary("lt", n, kv), "mask", []), /captured number 'n' has no slot of type i32/);
  assert.throws(() => verify(binary("lt", score, real(0)), "mask", []), /a mask cannot depend on the score/);
  assert.throws(() => verify(q, "mask", []), /must give bool, this one gives i32/);
  assert.throws(() => verify({ kind: "binary", type: "bool", op: "add", a: q, b: kv }, "mask", []), /'add' of i32 and i32 does not give bool/);
});

test("equal text means equal expressions: types and shared parts show", () => {
  assert.notEqual(print(real(1)), print(int(1)));
  assert.notEqual(print(real(-0)), print(real(0)));
  const shared = binary("sub", q, kv);
  assert.equal(print(binary("mul", shared, shared)), "let t0 = q - kv; t0 * t0");
});

test("what the left side of && and || has settled is known on the right", () => {
  const q = index("q"), kv = index("kv"), causal = binary("ge", q, kv), near = binary("lt", binary("sub", q, kv), uniform("i32", "w"));
  const and = (a: Expr, b: Expr): Expr => binary("and", a, b), or = (a: Expr, b: Expr): Expr => binary("or", a, b), not = (a: Expr): Expr => unary("not", a);
  assert.equal(print(simplify(and(causal, binary("lt", q, kv)))), "false");
  assert.equal(print(simplify(and(causal, not(and(causal, near))))), print(simplify(and(causal, not(near)))));
  assert.equal(print(simplify(or(causal, and(not(causal), near)))), print(simplify(or(causal, near))));
  // NaN: neither x < c nor x >= c, so one is not the other's opposite.
  const below = binary("lt", score, constant("f32", 1)), above = binary("ge", score, constant("f32", 1));
  assert.notEqual(print(simplify(or(below, above))), "true");
});
