/**
 * Every refusal of the compiler: what it says, and the file, line and column it names.
 *
 * Each case is a line of JavaScript, with « before the place that its error must name. The lines are written to one module, which is loaded
 * as a user's own would be.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { and, fixed, maskMod, type Mod, ModError, outputMod, scoreMod } from "../../src/attention/index.ts";

const refused: Readonly<Record<string, readonly (readonly [line: string, says: RegExp])[]>> = {
  "names that are free": [
    ["maskMod((b, h, q, kv) => q - kv < «size)", /'size' is not a parameter\. Pass it as a capture: maskMod\(\(\{ size \}\) => \(b, h, q, kv\) => \.\.\., \{ size \}\)/],
    ["scoreMod((s, batch, head, row, column) => s * «gain)", /scoreMod\(\(\{ gain \}\) => \(s, batch, head, row, column\) => \.\.\., \{ gain \}\)/],
    ["weightMod(({ a }) => (score) => score * «b, { a: 1 })", /weightMod\(\(\{ b \}\) => \(score\) => \.\.\., \{ b \}\)/],
    ["outputMod(({ a }) => { const twice = a * 2; return (x, b, h, row, i) => x + i * «gain; }, { a: 1 })", /outputMod\(\(\{ gain \}\) => \(x, b, h, row, i\) => \.\.\., \{ gain \}\)/],
    ["outputMod(() => «gain)", /outputMod\(\(\{ gain \}\) => \(out, b, h, q, d\) => \.\.\., \{ gain \}\)/],
    ["maskMod((b, h, q) => «constructor > q)", /'constructor' is not a parameter/],
    ["maskMod((b, h, q) => q < «undefined)", /'undefined' is not in the language/],
    ["maskMod(function (b) { return «arguments[0] > b; })", /'arguments' is not in the language; name each parameter/],
    ["maskMod((b, h, q) => { «console.log(q); return true; })", /console is not in the language; call the mod as a plain function/],
    ["maskMod((b, h, q) => «parseInt(q) > 1)", /'parseInt' is not a function of the language\. Write it inside as an arrow function, or capture it as a mod/],
    ["maskMod((b, h, q) => q < «Date.now())", /'Date' is not a parameter/],
    ["maskMod((b, h, q) => q < «globalThis.n)", /'globalThis' is not a parameter/],
  ],
  "captures": [
    ["maskMod(({ «size }) => (b, h, q) => q < size, {})", /'size' is not among the captures \(there are none\)\. Pass it: maskMod\(\(\{ size \}\) => \.\.\., \{ size \}\)/],
    ["scoreMod((c) => (s) => s * «c.gian, { gain: 1 })", /'gian' is not among the captures \(gain\)/],
    ["maskMod((c) => (b, h, q) => q < «c[h], { n: 1 })", /a capture is named plainly: c\.size/],
    ["maskMod((c) => (b, h, q) => q < «c, { n: 1 })", /the captures object is used as a number/],
    ["maskMod((«{ size }) => (b, h, q) => q < size)", /no captures were passed; pass them second: maskMod\(\(\{ size \}\) => \.\.\., \{ size \}\)/],
    ["maskMod((b, «h, q) => q < 3, { size: 1 })", /the outer function takes the captures only: \(\{ size \}\) => \(b, h, q, kv\) => \.\.\./],
    ["outputMod((c) => «c.size > 1, { size: 1, gain: 2 })", /with captures, the function returns the mod's function: \(\{ size, gain \}\) => \(out, b, h, q, d\) => \.\.\./],
    ["maskMod(({ size }) => «{ if (size > 1) return (b, h, q) => q < size; }, { size: 1 })", /the outer function must return the mod's function/],
    ["maskMod((«[size]) => (b, h, q) => q < size, { size: 1 })", /the captures come as one object/],
    ["maskMod(({ size: «[n] }) => (b, h, q) => q < n, { size: 1 })", /a capture has no default and no parts/],
    ["maskMod(({ size: «n = 3 }) => (b, h, q) => q < n, { size: 1 })", /a capture has no default and no parts; pass its value with the captures/],
    ["maskMod(({ «...all }) => (b, h, q) => q < all.size, { size: 1 })", /'\.\.\.' is not in the language; name each capture/],
    ["maskMod(({ «['size']: n }) => (b, h, q) => q < n, { size: 1 })", /a capture is named plainly: \(\{ size \}\) => \.\.\./],
    ["maskMod(({ «s }) => (b, h, q) => q < s, { s: 'x' })", /the capture 's' is a string; capture numbers, typed arrays, tensor\(data, shape\), fixed\(n\) or other mods/],
    ["maskMod(({ «s }) => (b, h, q) => q < s, { s: undefined })", /the capture 's' is no value/],
    ["maskMod(({ «s }) => (b, h, q) => q < s, { s: new Uint32Array(1) })", /the capture 's' is a Uint32Array; use an Int32Array/],
    ["maskMod(({ «s }) => (b, h, q) => q < s, { s: [[1], [2]] })", /an array of arrays or objects; use tensor\(new Int32Array/],
    ["maskMod(({ «s }) => (b, h, q) => q < s[0], { s: tensor(new Uint16Array(2), [2], 'bf16') })", /a tensor of bf16; convert it to a Float32Array first/],
    ["maskMod(({ «s }) => (b, h, q) => q < s[0], { s: tensor(new Uint8Array(2), [2], 'fp8') })", /a tensor of fp8; convert it/],
    ["maskMod(({ «s }) => (b, h, q) => q < s[0], { s: tensor(new Int32Array(4), [2], { strides: [2] }) })", /a tensor with strides; capture contiguous\(t\)/],
    ["maskMod(({ «s }) => (b, h, q) => q < s, { s: tensor(new Int32Array(1), []) })", /a tensor without dimensions; capture the number itself/],
    ["maskMod(({ «f }) => (b, h, q) => f(q) > 1, { f: (x) => x })", /the capture 'f' is a plain function; make it a mod/],
  ],
  "what a function may be": [
    ["maskMod(«async (b, h, q) => q > 1)", /an async function is not in the language; a mod computes at once/],
    ["maskMod((b, h, q) => { const f = «async (x) => x; return f(q) > 1; })", /an async function is not in the language/],
    ["maskMod(«function* (b, h, q) { yield q; })", /a generator is not in the language/],
    ["maskMod(«(function () { return true; }).bind(null))", /a native or bound function has no source to compile; write \(\.\.\.args\) => \.\.\. and pass what it was bound to as a capture/],
    ["maskMod(«Math.max)", /a native or bound function has no source/],
    ["maskMod(«{ mask(b, h, q) { return q > 1; } }.mask)", /a method is not a mod; write it as an arrow function: \(b, h, q, kv\) => \.\.\./],
    ["outputMod(«{ gate(x) { return x; } }.gate)", /a method is not a mod; write it as an arrow function: \(out, b, h, q, d\) => \.\.\./],
    ["maskMod(«{ *mask(b) { return b; } }.mask)", /this function's text cannot be read on its own \(a method, a getter, or source altered by a tool\)/],
    ["maskMod(«Object.getOwnPropertyDescriptor({ get mask() { return 1; } }, 'mask').get)", /a method is not a mod|cannot be read on its own/],
    ["maskMod(«class { static x = 1; })", /a class is not a mod; write an arrow function/],
    ["maskMod((score, b, h, q, «kv) => q > kv)", /a mask mod has 4 parameters: \(b, h, q, kv\); one that takes the score is made with scoreMod/],
    ["outputMod((out, b, h, q, d, «e) => out)", /an output mod has 5 parameters: \(out, b, h, q, d\)/],
    ["maskMod((b, h) => «(q, kv) => q > kv)", /a mod returns a condition, not a function; with captures, pass them second/],
    ["weightMod(({ n }) => (s) => «(x) => x * n, { n: 1 })", /a mod returns a number, not a function$/m],
    ["maskMod((b, h, q, «kv = 3) => q > kv)", /a default value is not in the language; every argument is given/],
    ["maskMod((b, h, «[q]) => q > 1)", /taking apart an array is not in the language; use one variable each/],
    ["maskMod((b, «...rest) => rest[0] > 1)", /'\.\.\.' is not in the language; name each one/],
    ["maskMod((b, h, q) => { const f = («{ x }) => x; return f(q) > 1; })", /taking apart an object is not in the language, but for the captures and Math/],
    ["maskMod((b, h, q) => { const f = (x) => (x > 0 ? «f(x - 1) : 0); return f(q) > 1; })", /a function that calls itself is not in the language; write a for loop/],
    ["maskMod((b, h, q) => { const f = (x, y) => x + «y; return f(q) > 1; })", /'y' gets no value in this call/],
    ["maskMod((b, h, q) => { const f = 3; return «f(q) > 1; })", /3 cannot be called/],
    ["scoreMod(«(score, b, h, q, kv) => q > kv)", /a score mod returns a number, and this one returns true or false; return condition \? score : -Infinity/],
    ["weightMod(«(score) => score > 1)", /a weight mod returns a number.*return condition \? 1 : 0/],
    ["outputMod(«(out) => out > 1)", /an output mod returns a number.*return condition \? out : 0/],
    ["scoreMod(«(score) => { let x = score; for (let i = 0; i < 1000; i++) x = Math.tanh(x) * 2; return x; })", /2001 operations deep once its loops are unrolled, and 1500 is the most/],
  ],
  "statements": [
    ["maskMod((b, h, q) => { if (q > 1) return true; «})", /not every path returns a value; add a return before this brace/],
    ["maskMod((b, h, q) => «{ let x = q; })", /the function returns nothing; every path must return a value/],
    ["maskMod((b, h, q) => { if (q > 1) «return; return true; })", /a return needs a value/],
    ["maskMod((b, h, q) => { «do { q++; } while (q < 3); return q > 1; })", /a do loop is not in the language; write a for loop/],
    ["maskMod(({ t }) => (b, h, q) => { «for (const x of t) if (x === q) return true; return false; }, { t: new Int32Array(1) })", /for\.\.\.of is not in the language; write for \(let i = 0; i < n; i\+\+\)/],
    ["maskMod(({ t }) => (b, h, q) => { «for (const x in t) if (x === q) return true; return false; }, { t: new Int32Array(1) })", /for\.\.\.in is not in the language/],
    ["maskMod((b, h) => { «switch (h) { case 0: return true; default: return false; } })", /'switch' is not in the language; write if and else/],
    ["maskMod((b, h, q) => { «try { return q > 1; } catch { return false; } })", /'try' is not in the language; nothing in a mod throws/],
    ["maskMod((b, h, q) => { if (q > 1) «throw 1; return true; })", /'throw' is not in the language; check before you create the mod/],
    ["maskMod((b, h, q) => { for (let i = 0; i < 3; i++) { if (q > i) «break; } return true; })", /'break' is not in the language; put the condition around what it skips/],
    ["maskMod((b, h, q) => { for (let i = 0; i < 3; i++) { if (q > i) «continue; } return true; })", /'continue' is not in the language/],
    ["maskMod((b, h, q) => { «outer: for (let i = 0; i < 3; i++) {} return q > 1; })", /a label is not in the language/],
    ["maskMod((b, h, q) => { «class A {} return q > 1; })", /a class is not in the language/],
    ["maskMod((b, h, q) => { «debugger; return q > 1; })", /DebuggerStatement is not in the language/],
    ["maskMod(({ n }) => (b, h, q) => { let s = 0; for (let i = 0; «i < n; i++) s += i; return q < s; }, { n: 3 })", /the bounds of a loop must be known when it is compiled: use numbers, or a capture made with fixed\(n\)/],
    ["maskMod((b, h, q) => { let s = 0; while («s < q) s++; return s > 3; })", /the bounds of a loop must be known/],
    ["maskMod((b, h, q) => { let s = 0; «for (let i = 0; i < 5000; i++) s += i; return q < s; })", /the loops run more than 1024 times in all; they are unrolled, so use smaller bounds/],
    ["maskMod((b, h, q) => { «for (;;) if (q < 0) return true; })", /more than 1024 times/],
    ["maskMod((b, h, q) => { «q + 1; return q > 1; })", /this does nothing: a mod has no effects, it only returns a value/],
    ["maskMod((b, h, q) => { const f = (x) => x; «f(q); return q > 1; })", /this does nothing/],
    ["maskMod(({ t }) => (b, h, q) => { const «[a] = t; return q > a; }, { t: new Int32Array(1) })", /taking apart an array is not in the language; use one variable each/],
    ["maskMod(({ t }) => (b, h, q) => { const «{ length } = t; return q > length; }, { t: new Int32Array(1) })", /taking apart an object is not in the language, but for the captures and Math/],
    ["maskMod((b, h, q) => { let x; return q > «x; })", /'x' has no value yet/],
    ["maskMod((b, h, q) => { let x; if (q > 1) x = 3; return q > «x; })", /'x' has no value yet/],
  ],
  "assignments": [
    ["maskMod(({ size }) => (b, h, q) => { «size = 3; return q < size; }, { size: 1 })", /'size' is a capture and cannot be assigned; copy it: let x = size/],
    ["maskMod(({ t }) => (b, h, q) => { «t[0] = 1; return q < 1; }, { t: new Int32Array(1) })", /a mod cannot write to a capture or an array; it only returns a value/],
    ["maskMod(({ t }) => (b, h, q) => { «t[0]++; return q < 1; }, { t: new Int32Array(1) })", /only local variables can be assigned/],
    ["maskMod((b, h, q) => { «count = q; return q < 1; })", /'count' is not a local variable; a mod cannot change what is outside it/],
    ["maskMod((b, h, q) => { const x = 1; «x = q; return x < 1; })", /'x' is a constant and cannot be assigned/],
    ["maskMod((b, h, q) => { function f(x) { return x; } «f = q; return f < 1; })", /'f' is a function and cannot be assigned/],
    ["maskMod((b, h, q) => { let x; «x += q; return x < 1; })", /'x' has no value yet/],
    ["maskMod((b, h, q) => { «q ??= 1; return q < 1; })", /'\?\?=' is not in the language; use if/],
    ["maskMod((b, h, q) => { «q &&= 1; return q < 1; })", /'&&=' is not in the language; use if/],
  ],
  "expressions": [
    ["maskMod(function (b, h, q) { return q < «this.n; })", /'this' is not in the language; pass what it holds as a capture/],
    ["maskMod((b, h, q) => q < «new Date())", /'new' is not in the language; make the object outside/],
    ["maskMod((b, h, q) => Number(«`${q}`) > 1)", /a template string is not in the language; a mod computes numbers/],
    ["maskMod((b, h, q) => Number(«String.raw`1`) > 1)", /a template string is not in the language/],
    ["maskMod((b, h, q) => q === «'1')", /'1' is not in the language; a mod computes with numbers and booleans/],
    ["maskMod((b, h, q) => q > «1n)", /1n is not in the language/],
    ["maskMod((b, h, q) => «/1/.test(q))", /\/1\/ is not in the language/],
    ["maskMod((b, h, q) => q > «null)", /null is not in the language/],
    ["maskMod((b, h, q) => «[1, 2][q] > 1)", /an array is not in the language; capture a typed array/],
    ["maskMod((b, h, q) => («{ a: 1 }).a > q)", /an object is not in the language; use local variables/],
    ["maskMod((b, h, q) => («class {}) > q)", /a class is not in the language/],
    ["maskMod(({ t }) => (b, h, q) => «t?.[q] > 1, { t: new Int32Array(1) })", /'\?\.' is not in the language; captures are always there/],
    ["maskMod((b, h, q) => «import('x') > q)", /import\(\) is not in the language/],
    ["maskMod((b, h, q) => («q ?? 1) > 0)", /'\?\?' is only for a load, t\[i\] \?\? 0; other numbers are always there/],
    ["maskMod((b, h, q) => «typeof q === 1)", /'typeof' is not in the language/],
    ["maskMod((b, h, q) => «void 0 > q)", /'void' is not in the language/],
    ["maskMod((b, h, q) => «q in b)", /the operator in is not in the language/],
    ["maskMod((b, h, q) => Math.max(«...[q, 1]) > 1)", /'\.\.\.' is not in the language; write each argument/],
    ["maskMod((b, h, q) => («q >>> 0) > 1)", /x >>> n gives numbers above 2\^31; write x >> n, or a literal n from 1 to 31/],
    ["maskMod(({ f }) => (b, h, q) => «f[q] === (q > 1), { f: new Int32Array(1) })", /=== of a number and a boolean is always false; compare the number with 0: x != 0/],
    ["maskMod((b, h, q) => «q !== (q > 1))", /!== of a number and a boolean is always true/],
    ["maskMod((b, h, q) => «Math.log10(q) > 1)", /Math\.log10 is not in the language; write Math\.log\(x\) \/ Math\.LN10/],
    ["maskMod((b, h, q) => «Math.random() > q)", /Math\.random is not in the language; write a captured table of random numbers/],
    ["maskMod((b, h, q) => «Math['abs'](q) > 1)", /Math\.\[\.\.\.\] is not in the language/],
    ["maskMod((b, h, q) => «Math.toString(q) > 1)", /Math\.toString is not in the language/],
    ["maskMod((b, h, q) => q > «Math)", /Math is used as a number/],
    ["maskMod((b, h, q) => «Math.pow(q) > 1)", /Math\.pow takes 2 arguments, not 1/],
    ["maskMod((b, h, q) => «Math.max() > q)", /Math\.max takes at least 1 argument, not 0/],
    ["maskMod((b, h, q) => «clamp(q, 1) > 1)", /clamp takes 3 arguments, not 2/],
    ["maskMod((b, h, q) => «q.size > 1)", /a value of type i32 has no parts; only captured arrays are indexed/],
    ["maskMod((b, h, q) => { const f = (x) => x; return q > «f; })", /a function is used as a number/],
    ["maskMod(({ m }) => (b, h, q) => q > «m, { m: maskMod((b, h, q) => q > 1) })", /a mask mod is used as a number/],
    ["maskMod(({ t }) => (b, h, q) => «t[q / 2] > 1, { t: new Int32Array(9) })".replace("«t[q", "t[«q"), /an index must be an integer, and this may be a fraction; write Math\.floor/],
    ["maskMod(({ t }) => (b, h, q) => t[«1.5] > q, { t: new Int32Array(9) })", /the index 1\.5 is not an integer/],
    ["maskMod(({ t }) => (b, h, q) => t[«q > 1] > q, { t: new Int32Array(9) })", /an index must be an integer, and this is true or false; write c \? 1 : 0/],
    ["maskMod(({ t }) => (b, h, q) => «t > q, { t: new Int32Array(9) })", /the captured array 't' is used as a number; it needs 1 more index: t\[\.\.\.\]/],
    ["maskMod(({ t }) => (b, h, q) => «t[q] > 1, { t: tensor(new Int32Array(8), [2, 2, 2]) })", /'t' is used as a number; it needs 2 more indices/],
    ["maskMod(({ t }) => (b, h, q) => «t[q][1] > 1, { t: new Int32Array(9) })", /a value of type i32 has no parts/],
    ["maskMod(({ t }) => (b, h, q) => «t.includes(q), { t: new Int32Array(9) })", /\.includes is not in the language; a captured array has only \[i\] and \.length/],
  ],
  "what tools leave": [
    ["maskMod((b, h, q) => { const f = «n((x) => x, 'f'); return f(q) > 1; })", /'n' looks like a bundler's helper that keeps names \(esbuild's keepNames\); turn that off for files with mods/],
    ["maskMod((b, h, q) => «l(q, 4) > 1)", /'l' is not a function of the language.*if a minifier renamed floorDiv, floorMod or clamp, capture that: maskMod\(\(\{ floorDiv \}\) => \(b, h, q\) => \.\.\., \{ floorDiv \}\)/],
    ["maskMod((b, h, q) => «floorDiv2(q, 4) > 1)", /'floorDiv2' is a function of this package that a bundler renamed; pass it as a capture/],
    ["maskMod((b, h, q) => (0, «r.a)(q, 4) > 1)", /'r' is not a parameter/],
    ["maskMod((b, h, q) => «__vite_ssr_import_0__.lib(q) > 1)", /'__vite_ssr_import_0__' was put in by a bundler/],
    ["maskMod((b, h, q) => q < «import_constants.SIZE)", /'import_constants' was put in by a bundler/],
    ["maskMod((b, h, q) => { «cov_1x(3); return q > 1; })", /'cov_1x' counts coverage in a way that is not known here; exclude files with mods/],
    ["maskMod(function (b) { return «__awaiter(b, 1); })", /'__awaiter' is a helper that TypeScript puts in for an older language; compile files with mods for ES2022 or later/],
    ["maskMod((b, h, q) => { var x = «_slicedToArray(b, 1); return x; })", /'_slicedToArray' is a helper of a compiler for an older language/],
  ],
};

const cases = Object.entries(refused).flatMap(([group, lines]) => lines.map(([line, says]) => ({ group, line, says })));
const folder = mkdtempSync(join(tmpdir(), "refused-"));
const file = join(folder, "mods.mjs");
let make: readonly (() => Mod)[];
before(async () => {
  const from = (name: string): string => JSON.stringify(new URL(`../../src/attention/${name}`, import.meta.url).href);
  const head = `import { clamp, floorDiv, floorMod, maskMod, outputMod, scoreMod, tensor, weightMod } from ${from("index.ts")};`;
  writeFileSync(file, [head, "export default [", ...cases.map(({ line }) => `() => ${line.replace("«", "")},`), "];"].join("\n"));
  make = ((await import(pathToFileURL(file).href)) as { default: typeof make }).default;
});
after(() => rmSync(folder, { recursive: true }));

function thrown(f: () => unknown): ModError {
  try {
    f();
  } catch (error) {
    if (error instanceof ModError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

for (const [i, { group, line, says }] of cases.entries()) {
  test(`refused, ${group}: ${line.replace("«", "")}`, () => {
    const error = thrown(() => make[i]!().expr());
    assert.match(error.message, says);
    // Line 1 imports and line 2 opens the list; each case stands after "() => ".
    assert.deepEqual([error.file, error.line, error.column], [file, i + 3, "() => ".length + line.indexOf("«") + 1]);
    assert.ok(error.message.startsWith(`${file}:${error.line}:${error.column} `) && error.message.endsWith("^"), "the message opens with the place and ends under it");
  });
}

test("what is no function, a mod already, or no captures is refused as it is made", () => {
  assert.throws(() => maskMod(3 as never), /maskMod\(\) takes a function, not number/);
  assert.throws(() => scoreMod(null as never), /scoreMod\(\) takes a function, not null/);
  assert.throws(() => outputMod(outputMod((x) => x) as never), /outputMod\(\) was given a mod; it is one already/);
  assert.throws(() => maskMod((() => () => true) as never, 3 as never), /the captures are one object: \{ size: 1024 \}/);
  assert.throws(() => fixed("3" as never), /fixed\(\) takes a number, not string/);
  assert.throws(() => and(), /and\(\) needs at least one mask/);
  assert.throws(() => and((() => true) as never), /and\(\) joins masks made with maskMod\(\)/);
});
