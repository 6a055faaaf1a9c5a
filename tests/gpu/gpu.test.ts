/** The scripts of `npm run gpu`, tried dry, and the device that is none which they are tried on. No GPU is needed. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Compiler } from "../../src/backend/cuda/compiler.ts";
import { moduleText } from "../../src/backend/cuda/modules.ts";
import { UsageError } from "../../src/core/errors.ts";
import { source } from "./device-kernels.ts";
import { dryCompiler, DryDevice } from "./dry.ts";
import { kernelsOf } from "./kernel-text.ts";
import { Report } from "./report.ts";
import { sectionsOf } from "./sass.ts";

const script = (...args: readonly string[]) => spawnSync(process.execPath, [fileURLToPath(new URL("main.ts", import.meta.url)), ...args], { encoding: "utf8", timeout: 60_000 });

for (const name of ["device", "ops", "sample"]) test(`${name} runs dry: every kernel exists and is launched, in shapes and with parameters that a GPU takes`, () => {
  const { status, stdout, stderr } = script(name, "--dry");
  assert.equal(status, 0, stdout.split("\n").filter((line) => !line.startsWith("PASS")).join("\n") + stderr);
  assert.match(stdout, /^PASS every kernel is launched$/m);
  assert.match(stdout, /^PASS \d+ checked, 0 failed; dry: \d+ results were not computed\n$/m);
});

test("without a GPU a script says what is missing, and no stack", (t) => {
  const { status, stdout, stderr } = script("sample", "--quick");
  if (stderr === "" && stdout !== "") return t.skip("there is a GPU");
  assert.equal(status, 1);
  assert.doesNotMatch(stderr, /\bat .*\.ts:\d+/);
  assert.match(stderr, /not found|GPU|koffi/);
  assert.equal(script("sampel").status, 2);
});

test("kernels and the bytes of their parameters are read off the text", () => {
  assert.deepEqual(Object.fromEntries(kernelsOf(source)), { axpy: 24, step: 16, dependent: 16, spin: 8, shared_sum: 16, tma: 192, out_of_bounds: 16 });
  assert.deepEqual([...kernelsOf(moduleText({ kind: "skinny", element: "f16" })).keys()], ["linear8_f16", "linear16_f16"]);
  assert.ok([...kernelsOf(moduleText({ kind: "fused", element: "bf16" })).keys()].every((name) => /^linear8\w+_bf16$/.test(name)));
  assert.throws(() => kernelsOf('extern "C" __global__ void k(float* x) {}'), /declared in another way/);
  assert.throws(() => kernelsOf('struct P { Other o; };\nextern "C" __global__ void k(const __grid_constant__ P p) {}'), /takes a P, which is no struct of plain members/);
});

test("a dry device refuses what a GPU would", async () => {
  const device = new DryDevice(), { cubin } = await dryCompiler.compile("check.cu", source), module = device.load(cubin), f = module.function("step"), shape = { grid: [1, 1, 1], block: 32 } as const, params = new Uint8Array(16);
  device.launch(f, shape, params);
  assert.ok(!device.neverLaunched().includes("step") && device.neverLaunched().includes("axpy"));
  assert.throws(() => module.function("stop"), /the module has no kernel stop/);
  assert.throws(() => module.function("step", 228 * 1024), /shared memory/);
  for (const [wrong, bytes, message] of [
    [{ ...shape, grid: [1, 65_536, 1] }, 16, /no grid/], [{ ...shape, grid: [0, 1, 1] }, 16, /no grid/], [{ ...shape, block: 1025 }, 16, /no number of threads/], [{ ...shape, sharedBytes: 49_153 }, 16, /it was got for 49152/],
    [shape, 24, /it takes 16 bytes of parameters, got 24/],
  ] as const) assert.throws(() => device.launch(f, wrong as typeof shape, new Uint8Array(bytes)), message);
  const address = device.alloc(64);
  device.write(address, new Uint8Array(64));
  assert.throws(() => device.write(address + 1, new Uint8Array(64)), /not within what is allocated/);
  await assert.rejects(device.read(address - 1, 1), /not within what is allocated/);
  device.free(address);
  assert.throws(() => device.write(address, new Uint8Array(1)), /not within what is allocated/);
  assert.throws(() => device.capture(() => device.alloc(1)), /alloc inside capture/);
});

test("a report fails by a failed check, by what a section throws, and where nothing was checked", async () => {
  const lines: string[] = [], report = (dry = false): Report => new Report(dry, (line) => void lines.push(line)), thrown = report(), wrong = report(), dry = report(true);
  assert.equal(report().end(), false);
  await thrown.section("s", () => { throw new Error("lightning"); });
  assert.ok(!thrown.end() && lines.some((line) => /^FAIL s: Error: lightning/.test(line)));
  wrong.check(true, "quiet", true);
  wrong.result(() => [false, "wrong"], true);
  assert.ok(!wrong.end() && lines.includes("FAIL wrong") && !lines.includes("PASS quiet"));
  dry.result(() => [false, "not looked at"]);
  assert.ok(dry.end());
});

const opened = await Compiler.open("sm_90a").catch((error: unknown) => {
  if (error instanceof UsageError) return error.message.split("\n")[0]!;
  throw error;
});
describe("NVRTC", { skip: typeof opened === "string" ? opened : false }, () => {
  test("the text's reader finds the kernels and the bytes of parameters that the compiler makes", async () => {
    // Constant bank 0 of sm_90 has 0x210 bytes of the driver's own before a kernel's parameters; those with a tensor map begin at a multiple of 64.
    const prefix = ".nv.constant0.", before = (kernel: string): number => (kernel === "tma" ? 0x240 : 0x210);
    for (const text of [source, moduleText({ kind: "norm", element: "f16" }), moduleText({ kind: "sample", element: "bf16" }), moduleText({ kind: "logprobs", element: "bf16" })]) {
      const sections = sectionsOf((await (opened as Compiler).compile("check.cu", text)).cubin);
      const made = [...sections].filter(([name]) => name.startsWith(prefix)).map(([name, { length }]) => [name.slice(prefix.length), length] as const).map(([kernel, length]) => [kernel, length - before(kernel)] as const);
      assert.deepEqual(new Map(made.toSorted()), new Map([...kernelsOf(text)].toSorted()));
    }
  });
});
