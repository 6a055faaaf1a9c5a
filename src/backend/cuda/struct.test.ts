/** Parameter structs lie in memory as a C++ compiler lays them out. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { stream } from "../../core/random.ts";
import { type Field, Struct } from "./struct.ts";

const missing = spawnSync("g++", ["--version"]).status === 0 ? false : "no C++ compiler (g++) on this machine to ask; on Debian: apt-get install g++";
/** @throws where the text does not compile */
function compile(source: string): void {
  const { status, stderr } = spawnSync("g++", ["-std=c++17", "-fsyntax-only", "-x", "c++", "-"], { input: source, encoding: "utf8" });
  assert.equal(status, 0, stderr);
}

const types = ["pointer", "i64", "i32", "f32"] as const;
function randomFields(n: number): readonly Field[] {
  const draw = stream(n), below = (k: number): number => Math.floor(draw() * k);
  return Array.from({ length: 1 + below(14) }, (_, i): Field => {
    const type = types[below(4)]!;
    return { name: `m${i}`, type, ...(type === "pointer" && { to: below(2) ? "const float" : "int" }) };
  });
}

test("every member stands where C++ has it, and is as long; the struct too, rounded up to 8 bytes", { skip: missing }, () => {
  const source = Array.from({ length: 60 }, (_, n) => {
    const fields = randomFields(n), struct = new Struct(fields);
    // A value of which no byte is 0 shows where a member is: all others are 0.
    const asserts = fields.map((field) => {
      const bytes = struct.pack(Object.fromEntries(fields.map(({ name }) => [name, 0])));
      const marked = struct.pack(Object.fromEntries(fields.map(({ name, type }) => [name, name !== field.name ? 0 : type === "i64" || type === "pointer" ? 0x11_1111_1111_1111 : type === "i32" ? -1 : -3.3333333])));
      const at = marked.findIndex((byte, i) => byte !== bytes[i]), length = field.type === "pointer" || field.type === "i64" ? 8 : 4;
      assert.ok(marked.findLastIndex((byte, i) => byte !== bytes[i]) >= at + length - 2);
      return `static_assert(offsetof(Params, ${field.name}) == ${at} && sizeof(Params::${field.name}) == ${length}, "${field.name} of ${n}");`;
    });
    return `namespace s${n} {\n${struct.text}\n${asserts.join("\n")}\nstatic_assert((sizeof(Params) + 7) / 8 * 8 == ${struct.bytes}, "size of ${n}");\n}`;
  });
  compile(["#include <cstddef>", ...source].join("\n"));
  assert.throws(() => compile("struct P { int a; }; static_assert(sizeof(P) == 8);"), /static assertion/);
});

test("values are little-endian, of any sign; pointers and strides have more than 32 bits", () => {
  const struct = new Struct([{ name: "n", type: "i32" }, { name: "p", type: "pointer", to: "int" }, { name: "x", type: "f32" }, { name: "s", type: "i64" }]);
  const view = new DataView(struct.pack({ n: -7, p: 0x7fff_1234_5678, x: 0.1, s: -(2 ** 40) }).buffer);
  assert.equal(struct.text, "struct Params {\n  int* p;\n  long long s;\n  int n;\n  float x;\n};");
  assert.deepEqual([view.getBigInt64(0, true), view.getBigInt64(8, true), view.getInt32(16, true), view.getFloat32(20, true)], [0x7fff_1234_5678n, -(2n ** 40n), -7, Math.fround(0.1)]);
});

test("a member that is not given is named", () => {
  assert.throws(() => new Struct([{ name: "n", type: "i32" }, { name: "x", type: "f32" }]).pack({ n: 1 }), /parameter x is not given/);
});
