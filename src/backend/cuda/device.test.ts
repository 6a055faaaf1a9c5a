/** The device on a real GPU: memory, launches, graphs, events, matrix products. Skipped where there is none. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { type DType, fromFloat32, toFloat32 } from "../../core/dtype.ts";
import { UsageError } from "../../core/errors.ts";
import { source } from "../../../tests/gpu/device-kernels.ts";
import { Blas } from "./blas.ts";
import { Compiler } from "./compiler.ts";
import { openCubinCache } from "./cubin-cache.node.ts";
import { CudaDevice, type Module } from "./device.ts";
import { Params } from "./params.ts";

/** A device with those kernels, or why there is none. */
async function openAll(): Promise<{ readonly device: CudaDevice; readonly module: Module } | string> {
  try {
    const device = await CudaDevice.open(), folder = mkdtempSync(join(tmpdir(), "tessera-device-"));
    const compiler = await Compiler.open(device.arch, device.cudaMajor, openCubinCache({ TESSERA_CACHE_DIR: folder }));
    const { cubin } = await compiler.compile("test.cu", source);
    rmSync(folder, { recursive: true });
    return { device, module: device.load(cubin) };
  } catch (error) {
    if (error instanceof UsageError) return error.message.split("\n")[0]!;
    throw error;
  }
}

const opened = await openAll();
const words = (bytes: Uint8Array): Uint32Array => new Uint32Array(bytes.buffer as ArrayBuffer);

describe("a GPU", { skip: typeof opened === "string" ? opened : false }, () => {
  const { device, module } = opened as Exclude<typeof opened, string>;
  after(() => device.close());

  test("what is written is read, of any size", async () => {
    for (const bytes of [1, 3, 64, 65, 4095, 100_001, 4 * 2 ** 20 + 1, 40 * 2 ** 20 + 7]) {
      const address = device.alloc(bytes), data = new Uint8Array(bytes);
      for (let i = 0; i < bytes; i++) data[i] = Math.imul(i, 0x9e3779b1) >>> 11;
      device.write(address, data);
      assert.equal(Buffer.compare(await device.read(address, bytes), data), 0, `${bytes} bytes`);
      device.free(address);
    }
  });

  test("memory is zeroed, and not endless", async () => {
    const bytes = 3_000_001, dirty = device.alloc(bytes);
    device.fill(dirty, 0xab, bytes);
    assert.ok((await device.read(dirty, bytes)).every((byte) => byte === 0xab));
    device.free(dirty);
    const clean = device.alloc(bytes);
    assert.ok((await device.read(clean, bytes)).every((byte) => byte === 0));
    device.free(clean);
    assert.throws(() => device.alloc(2 * device.totalBytes), (error: Error) => error instanceof UsageError && /MiB are left|are left/.test(error.message));
    assert.throws(() => device.free(clean), /invariant/);
  });

  test("a kernel gets its parameters, and those of another size are refused", async () => {
    const f = module.function("axpy"), n = 100_003, x = Float32Array.from({ length: n }, (_, i) => i % 1000), y = Float32Array.from({ length: n }, (_, i) => i % 77);
    const [dx, dy] = [device.alloc(4 * n), device.alloc(4 * n)];
    device.write(dx, new Uint8Array(x.buffer));
    device.write(dy, new Uint8Array(y.buffer));
    device.launch(f, { grid: [Math.ceil(n / 256), 1, 1], block: 256 }, new Params().ptr(dy).i32(n).f32(3).ptr(dx).bytes());
    const got = new Float32Array((await device.read(dy, 4 * n)).buffer);
    assert.ok(got.every((value, i) => value === 3 * x[i]! + y[i]!));
    if (device.cudaMajor >= 13) assert.throws(() => device.launch(f, { grid: [1, 1, 1], block: 256 }, new Params().ptr(dy).bytes()), /axpy takes 24 bytes of parameters, got 8/);
    for (const address of [dx, dy]) device.free(address);
  });

  test("a block has all of its shared memory", async () => {
    const n = device.maxSharedBytes / 4, x = device.alloc(4);
    device.launch(module.function("shared_sum", device.maxSharedBytes), { grid: [1, 1, 1], block: 256, sharedBytes: device.maxSharedBytes }, new Params().ptr(x).i32(n).bytes());
    assert.equal(words(await device.read(x, 4))[0], (n * (n - 1)) / 2);
    device.free(x);
  });

  for (const dependent of [false, true]) {
    test(`a graph of ${dependent ? "dependent " : ""}launches keeps their order`, async () => {
      const n = 4096, times = 100, x = device.alloc(4 * n), f = module.function("dependent"), params = new Params().ptr(x).i32(n).bytes();
      let expected = 0;
      for (let i = 0; i < times; i++) expected = (Math.imul(expected, 3) + 7) >>> 0;
      const graph = device.capture(() => {
        device.fill(x, 0, 4 * n);
        for (let i = 0; i < times; i++) device.launch(f, { grid: [n / 256, 1, 1], block: 256, dependent: dependent && device.arch === "sm_90a" }, params);
      });
      assert.equal(graph.numNodes, times + 1);
      assert.ok(words(await device.read(x, 4 * n)).every((value) => value === 0), "capturing runs nothing");
      for (let i = 0; i < 3; i++) graph.launch();
      assert.ok(words(await device.read(x, 4 * n)).every((value) => value === expected));
      graph.destroy();
      device.free(x);
    });
  }

  test("a capture whose body throws leaves the stream as it was", async () => {
    const x = device.alloc(8), run = (): void => device.launch(module.function("dependent"), { grid: [1, 1, 1], block: 32 }, new Params().ptr(x).i32(1).bytes());
    assert.throws(() => device.capture(() => {
      run();
      device.alloc(4);
    }), /alloc inside capture/);
    run();
    assert.equal(words(await device.read(x, 8))[0], 7);
    device.free(x);
  });

  test("events measure", async () => {
    const x = device.alloc(2 ** 28), from = device.record();
    device.fill(x, 1, 2 ** 28);
    const ms = await device.elapsedMs(from, device.record());
    assert.ok(ms > 0 && ms < 1000, `${ms} ms`);
    device.free(x);
  });

  test("matrix products are those of plain loops", async (t) => {
    const { blas, missing } = await Blas.open(device);
    if (!blas) return t.skip(missing.split("\n")[0]);
    const epsilon = { f32: 2 ** -23, bf16: 2 ** -8, f16: 2 ** -11 } as const; // half a unit of the last place, rounded up
    const made: number[] = [];
    const put = (values: Float32Array, type: DType): number => {
      const bytes = fromFloat32(values, type), address = device.alloc(bytes.length);
      device.write(address, bytes);
      made.push(address);
      return address;
    };
    const random = (n: number, type: DType): Float32Array => toFloat32(fromFloat32(Float32Array.from({ length: n }, () => 2 * Math.random() - 1), type), type);
    for (const [M, N, K] of [[1, 64, 64], [5, 128, 256], [127, 96, 520], [129, 256, 128]] as const) {
      for (const [xType, outType, residual] of [["bf16", "bf16", 0], ["bf16", "f32", 1], ["f16", "f16", 0], ["f16", "f32", 1], ["f32", "f32", 0]] as const) {
        const xStride = K + 8, outStride = N + 16, x = random(M * xStride, xType), w = random(N * K, xType), before = random(M * outStride, outType);
        const out = put(before, outType);
        blas.matmul({
          out, outType, outStride, x: put(x, xType), xType, xStride, weight: put(w, xType), rows: M, N, K, ...(residual && { residual: out }),
        });
        const got = toFloat32(await device.read(out, fromFloat32(before, outType).length), outType);
        for (let i = 0; i < M; i++) {
          for (let j = 0; j < outStride; j++) {
            const at = i * outStride + j;
            if (j >= N) {
              assert.equal(got[at], before[at], "nothing is written between rows");
              continue;
            }
            let sum = residual && before[at]!, size = Math.abs(sum);
            for (let k = 0; k < K; k++) {
              const product = x[i * xStride + k]! * w[j * K + k]!;
              sum += product;
              size += Math.abs(product);
            }
            // K sums in f32 in any order, then the rounding of what comes out.
            const allowed = epsilon[outType] * Math.abs(sum) + (K + 2) * 2 ** -24 * size;
            assert.ok(Math.abs(got[at]! - sum) <= allowed, `[${M}, ${N}, ${K}] ${xType} ${outType} at ${i}, ${j}: ${got[at]}, and should be ${sum}`);
          }
        }
        for (const address of made.splice(0)) device.free(address);
      }
    }
    blas.close();
  });
});
