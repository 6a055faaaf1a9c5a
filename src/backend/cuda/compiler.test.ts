/** CUDA C++ through NVRTC, where it is installed; no GPU is needed. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { UsageError } from "../../core/errors.ts";
import { Compiler } from "./compiler.ts";
import { openCubinCache } from "./cubin-cache.node.ts";
import { kernelsOf } from "./cubin.ts";
import { loadNvrtc } from "./ffi.node.ts";
import { Params } from "./params.ts";

const folder = mkdtempSync(join(tmpdir(), "tessera-compiler-"));
after(() => rmSync(folder, { recursive: true }));
const cacheIn = (name: string): ReturnType<typeof openCubinCache> => openCubinCache({ TESSERA_CACHE_DIR: join(folder, name) });

/** A compiler, or why there is none. */
const opened = await Compiler.open("sm_90a", undefined, cacheIn("a")).catch((error: unknown) => {
  if (error instanceof UsageError) return error.message.split("\n")[0]!;
  throw error;
});
const small = 'struct P { float* x; int n; };\nextern "C" __global__ void twice(const __grid_constant__ P p) { if (threadIdx.x < p.n) p.x[threadIdx.x] *= 2.0f; }\n';

describe("NVRTC", { skip: typeof opened === "string" ? opened : false }, () => {
  const compiler = opened as Compiler;

  test("a kernel becomes machine code, with its resources, and comes from disk the next time", async () => {
    const first = await compiler.compile("small.cu", small);
    assert.equal(first.fromCache, false);
    assert.equal(Buffer.from(first.cubin.subarray(1, 4)).toString(), "ELF");
    const [resources] = first.resources;
    assert.equal(resources!.kernel, "twice");
    assert.ok(resources!.registers > 0 && resources!.registers < 40);
    assert.deepEqual([resources!.spillBytes, resources!.stackBytes, resources!.sharedBytes], [0, 0, 0]);
    const again = await (await Compiler.open("sm_90a", undefined, cacheIn("a"))).compile("small.cu", small);
    assert.equal(again.fromCache, true);
    assert.deepEqual(new Uint8Array(again.cubin), first.cubin);
    assert.deepEqual(again.resources, first.resources);
  });

  test("another architecture is another program", async () => {
    const other = await (await Compiler.open("sm_80", undefined, cacheIn("a"))).compile("small.cu", small);
    assert.equal(other.fromCache, false);
  });

  test("compilations run beside each other and the event loop; the same one runs once", async () => {
    const source = (i: number): string => small.replace("2.0f", `${i}.0f`);
    let turns = 0, running = true;
    const count = (): void => void (running && (turns++, setImmediate(count)));
    setImmediate(count);
    const [a, b, c] = await Promise.all([compiler.compile("a.cu", source(3)), compiler.compile("b.cu", source(4)), compiler.compile("a.cu", source(3))]);
    running = false;
    assert.equal(a, c);
    assert.notDeepEqual(a.cubin, b.cubin);
    assert.ok(turns > 3, `${turns} turns`);
  });

  test("code of which the log does not say all is refused, and not kept", async () => {
    const nvrtc = await loadNvrtc(), cache = cacheIn("gaps");
    let gone = 0;
    const losing = Object.assign(Object.create(nvrtc) as typeof nvrtc, { nvrtcGetProgramLog: (program: number, log: Uint8Array) => {
      nvrtc.nvrtcGetProgramLog(program, log);
      if (gone++ === 0) log.fill(0, log.length >> 1);
    } });
    const other = await Compiler.open("sm_90a", undefined, cache, losing);
    await assert.rejects(other.compile("small.cu", small), /NVRTC [\d.]+ compiled small\.cu and does not say to what: what twice takes is not said/);
    const { cubin, resources, fromCache } = await other.compile("small.cu", small);
    assert.deepEqual([kernelsOf(cubin), resources.map(({ kernel }) => kernel), fromCache], [["twice"], ["twice"], false]);
  });

  test("an error names file and line, and shows the source", async () => {
    await assert.rejects(compiler.compile("bad.cu", 'extern "C" __global__ void k(float* x) {\n  x[0] = unheard;\n}\n'), (error: Error) => {
      assert.equal(error.name, "CompileError");
      assert.match(error.message, /bad\.cu\(2\): error: identifier "unheard" is undefined/);
      assert.match(error.message, /x\[0\] = unheard;/);
      return true;
    });
  });

  test("an error of the assembler is shown too", async () => {
    await assert.rejects(compiler.compile("asm.cu", 'extern "C" __global__ void k(int* x) { asm volatile("nosuch.b32 %0, 1;" : "=r"(x[0])); }'), /asm\.cu does not compile for sm_90a[^]*nosuch/);
  });

  test("code that spills or keeps arrays on the stack is refused, and not kept", async () => {
    const spill = 'extern "C" __global__ void __launch_bounds__(1024, 2) greedy(float* x) { float a[80]; for (int i = 0; i < 80; i++) a[i] = x[i * threadIdx.x]; __syncthreads(); for (int i = 0; i < 80; i++) x[i * threadIdx.x + 7] = a[i] * a[(i + 1) % 80]; }';
    const stack = 'extern "C" __global__ void indexed(float* x, int n) { float a[64]; for (int i = 0; i < 64; i++) a[i] = x[i]; float s = 0; for (int i = 0; i < n; i++) s += a[(i * 7) % 64]; x[0] = s; }';
    for (let times = 0; times < 2; times++) {
      await assert.rejects(compiler.compile("spill.cu", spill), /greedy spills \d+ bytes/);
      await assert.rejects(compiler.compile("stack.cu", stack), /indexed keeps 256 bytes on the stack/);
    }
  });

  test("parameters lie where the compiler has them", async () => {
    const kinds = { ptr: "void*", i32: "int", u32: "unsigned", f32: "float", i64: "long long" } as const;
    let state = 12345;
    const random = (n: number): number => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) % n;
    for (let round = 0; round < 4; round++) {
      const members = Array.from({ length: 1 + random(12) }, () => (Object.keys(kinds) as (keyof typeof kinds)[])[random(5)]!);
      const params = new Params(8), offsets: number[] = [];
      for (const kind of members) {
        params[kind](1); // whose last byte that is not 0 is the first, or the fourth of a float
        offsets.push(params.bytes().findLastIndex((byte) => byte !== 0) - (kind === "f32" ? 3 : 0));
      }
      const hasWide = members.some((kind) => kind === "ptr" || kind === "i64");
      const asserts = offsets.map((at, i) => `static_assert(__INTADDR__(&((P*)0)->m${i}) == ${at}, "m${i}");`).join("\n");
      const source = `struct P { ${members.map((kind, i) => `${kinds[kind]} m${i};`).join(" ")} };\n${asserts}\n`
        + `static_assert((sizeof(P) + 7) / 8 * 8 == ${params.bytes().length} && (${hasWide} ? sizeof(P) == ${params.bytes().length} : true), "size");\nextern "C" __global__ void k() {}\n`;
      await compiler.compile("layout.cu", source);
    }
    await compiler.compile("map.cu", `struct alignas(64) M { unsigned long long v[16]; }; struct P { void* a; M map; int i; };
static_assert(sizeof(P) == ${new Params().ptr(1).raw(new Uint8Array(128), 64).i32(1).bytes().length}, "size"); extern "C" __global__ void k() {}`);
    await assert.rejects(compiler.compile("wrong.cu", `struct P { int a; void* b; }; static_assert(__INTADDR__(&((P*)0)->b) == 4, "b"); extern "C" __global__ void k() {}`), /static assertion failed/);
  });

  test("where nothing can be kept it compiles all the same, and says so", async () => {
    writeFileSync(join(folder, "file"), "");
    const other = await Compiler.open("sm_90a", undefined, openCubinCache({ TESSERA_CACHE_DIR: join(folder, "file") }));
    assert.equal(other.cacheFailure, undefined);
    assert.equal((await other.compile("small.cu", small)).fromCache, false);
    assert.match(other.cacheFailure!, /file\/cubins: E/);
  });
});
