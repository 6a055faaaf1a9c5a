/** The bottom of the CUDA backend on a GPU: memory, launches, graphs, events, tensor maps, and what it says of errors. Knows no op. */
import { CudaDevice } from "../../src/backend/cuda/device.ts";
import { Params } from "../../src/backend/cuda/params.ts";
import { checkBlas } from "./blas.ts";
import { source } from "./device-kernels.ts";
import { loadModule, type Machine } from "./machine.ts";
import { median, us } from "./report.ts";

const bytesOf = (a: ArrayBufferView): Uint8Array => new Uint8Array(a.buffer as ArrayBuffer, a.byteOffset, a.byteLength);
const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
/** What `body` throws, as people read it; "" where it throws nothing. */
async function saidBy(body: () => unknown): Promise<{ readonly name: string; readonly message: string; readonly sticky: boolean }> {
  try {
    await body();
    return { name: "", message: "", sticky: false };
  } catch (error) {
    return { name: (error as Error).name, message: (error as Error).message, sticky: (error as { sticky?: boolean }).sticky === true };
  }
}

export async function run(machine: Machine, quick: boolean): Promise<void> {
  const { device, report, dry } = machine;
  report.check(device.numSms > 0 && device.maxSharedBytes >= 48 * 1024 && /^sm_\d+a?$/.test(device.arch), "facts");
  await report.section("memory", () => memory(machine, quick || dry ? 4 * 2 ** 20 : 300 * 2 ** 20));
  const { module } = await loadModule(machine, "check.cu", source);
  await report.section("launches", () => launches(machine, module));
  await report.section("graphs", () => graphs(machine, module));
  if (!quick) await report.section("waiting", () => waiting(machine, module));
  await report.section("cuBLASLt", () => checkBlas(machine, quick));
  if (!dry) await report.section("close and open again", () => reopen(machine));
  // Last: the device is lost afterwards.
  await report.section("out of bounds", async () => {
    const x = device.alloc(4);
    device.launch(module.function("out_of_bounds"), { grid: [1, 1, 1], block: 32 }, new Params().ptr(x).i32(1).bytes());
    const { message, sticky } = await saidBy(() => device.read(x, 4));
    report.result(() => [message.includes("ILLEGAL_ADDRESS") && sticky, `out of bounds says: ${message}`]);
    device.close();
    report.check(true, "close of a lost device returns");
  });
}

type Module = Awaited<ReturnType<typeof loadModule>>["module"];

async function memory({ device, report }: Machine, most: number): Promise<void> {
  for (const bytes of [1, 3, 64, 65, 4096, 100_001, 4 * 2 ** 20, 4 * 2 ** 20 + 1, 33 * 2 ** 20 + 7, 300 * 2 ** 20].filter((n) => n <= most)) {
    const address = device.alloc(bytes), data = new Uint8Array(bytes);
    for (let i = 0, x = bytes >>> 0; i < bytes; i++) data[i] = (x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 24;
    const start = performance.now();
    device.write(address, data);
    const queued = performance.now();
    device.synchronize();
    const written = performance.now(), back = await device.read(address, bytes), read = performance.now();
    report.result(() => [Buffer.compare(back, data) === 0, `round trip of ${bytes} bytes: write ${(bytes / (written - start) / 1e6).toFixed(2)} GB/s (queued in ${(queued - start).toFixed(3)} ms), read ${(bytes / (read - written) / 1e6).toFixed(2)} GB/s`]);
    device.free(address);
  }
  // Many small writes wrap the ring; each must land.
  const n = 20_000, table = device.alloc(4 * n), start = performance.now();
  for (let i = 0; i < n; i++) device.write(table + 4 * i, bytesOf(Int32Array.of(i * 7 + 1)));
  const took = performance.now() - start, got = new Int32Array((await device.read(table, 4 * n)).buffer);
  report.result(() => [got.every((x, i) => x === i * 7 + 1), `${n} writes of 4 bytes, ${us(took, n)} each`]);
  device.free(table);
  // Two reads in flight, a write between them: each has what was there when it was asked for.
  const one = device.alloc(8);
  device.write(one, Uint8Array.of(1));
  const first = device.read(one, 1);
  device.write(one, Uint8Array.of(2));
  const [a, b] = await Promise.all([first, device.read(one, 1)]);
  report.result(() => [a[0] === 1 && b[0] === 2, "reads keep their place among writes"]);
  report.check((await device.read(one, 0)).length === 0, "a read of nothing");
  device.free(one);

  const bytes = 5_000_001, dirty = device.alloc(bytes);
  device.fill(dirty, 0xab, bytes);
  const filled = await device.read(dirty, bytes);
  report.result(() => [filled.every((byte) => byte === 0xab), "fill"]);
  device.free(dirty);
  const clean = device.alloc(bytes), zeros = await device.read(clean, bytes);
  report.result(() => [zeros.every((byte) => byte === 0), `alloc is zeroed (the same address again: ${clean === dirty})`]);
  device.free(clean);
  const { name, message } = await saidBy(() => device.alloc(device.totalBytes * 2));
  report.check(name === "UsageError", `out of memory says: ${message}`);
}

async function launches({ device, report }: Machine, module: Module): Promise<void> {
  const f = module.function("axpy"), n = 1_000_003, x = Float32Array.from({ length: n }, (_, i) => i % 1000), y = Float32Array.from({ length: n }, (_, i) => i % 77);
  const [dx, dy] = [device.alloc(4 * n), device.alloc(4 * n)];
  device.write(dx, bytesOf(x));
  device.write(dy, bytesOf(y));
  device.launch(f, { grid: [Math.ceil(n / 256), 1, 1], block: 256 }, new Params().ptr(dy).i32(n).f32(3).ptr(dx).bytes());
  const got = new Float32Array((await device.read(dy, 4 * n)).buffer);
  report.result(() => [got.every((v, i) => v === 3 * x[i]! + y[i]!), `axpy of ${n} (${f.registers} registers, ${f.localBytes} local bytes, ${device.blocksPerSm(f, 256)} blocks of an SM)`]);
  const refused = await saidBy(() => device.launch(f, { grid: [1, 1, 1], block: 256 }, new Params().ptr(dy).bytes()));
  report.check(refused.message.includes("bytes of parameters, got 8"), `parameters of the wrong size: ${refused.message}`);
  for (const address of [dx, dy]) device.free(address);

  const words = Math.floor(device.maxSharedBytes / 4), sum = device.alloc(4);
  device.launch(module.function("shared_sum", device.maxSharedBytes), { grid: [1, 1, 1], block: 256, sharedBytes: device.maxSharedBytes }, new Params().ptr(sum).i32(words).bytes());
  const [total] = new Uint32Array((await device.read(sum, 4)).buffer);
  report.result(() => [total === (words * (words - 1)) / 2, `${device.maxSharedBytes} bytes of dynamic shared memory`]);
  device.free(sum);

  if (device.arch !== "sm_90a") return report.note("SKIP tensor maps: the GPU is no Hopper");
  const rows = 40, columns = 64, a = Float32Array.from({ length: rows * columns }, (_, i) => i), from = device.alloc(a.byteLength), out = device.alloc(1024);
  device.write(from, bytesOf(a));
  const map = device.tensorMap({ address: from, dtype: "f32", sizes: [columns, rows], strides: [4 * columns], box: [32, 8], swizzle: 0 });
  device.launch(module.function("tma"), { grid: [1, 1, 1], block: 256 }, new Params(256).ptr(out).i32(32).i32(36).raw(map, 64).bytes());
  const box = new Float32Array((await device.read(out, 1024)).buffer);
  report.result(() => [box.every((v, i) => v === (36 + (i >> 5) < rows ? (36 + (i >> 5)) * columns + 32 + (i & 31) : 0)), "a box by TMA, its lower half outside the matrix"]);
  for (const address of [from, out]) device.free(address);
}

async function graphs({ device, report }: Machine, module: Module): Promise<void> {
  const n = 4096, launches = 200, plain = module.function("step"), later = module.function("dependent"), x = device.alloc(4 * n), params = new Params().ptr(x).i32(n).bytes();
  const shape = { grid: [n / 256, 1, 1], block: 256 } as const;
  const queue = (dependent: boolean): void => {
    for (let i = 0; i < launches; i++) device.launch(dependent ? later : plain, { ...shape, dependent }, params);
  };
  /** Whether x has what `times` steps make of 0; it is 0 again afterwards. */
  const check = async (times: number, what: string): Promise<void> => {
    const got = new Uint32Array((await device.read(x, 4 * n)).buffer);
    let want = 0;
    for (let i = 0; i < times; i++) want = (Math.imul(want, 3) + 7) >>> 0;
    report.result(() => [got.every((v) => v === want), what]);
    device.fill(x, 0, 4 * n);
  };
  for (const [what, dependent] of [["plain", false], ["dependent", true]] as const) {
    queue(dependent);
    device.synchronize();
    device.fill(x, 0, 4 * n);
    const start = performance.now(), a = device.record();
    queue(dependent);
    const b = device.record(), js = performance.now() - start, gpu = await device.elapsedMs(a, b);
    await check(launches, `${launches} ${what} launches: ${us(js, launches)} of JavaScript, ${us(gpu, launches)} on the GPU each`);
    const began = performance.now(), graph = device.capture(() => queue(dependent)), captured = performance.now() - began;
    await check(0, `capturing runs nothing (${graph.numNodes} nodes, ${captured.toFixed(2)} ms)`);
    graph.launch();
    await check(launches, `graph of ${what} launches`);
    const times: number[] = [], calls: number[] = [];
    for (let i = 0; i < 20; i++) {
      const from = device.record(), began = performance.now();
      graph.launch();
      calls.push(performance.now() - began);
      const to = device.record();
      times.push(await device.elapsedMs(from, to));
      from.destroy();
      to.destroy();
    }
    await check(20 * launches, `graph of ${what} launches, 20 times: ${us(median(times), launches)} on the GPU each, the call ${us(median(calls))}`);
    graph.destroy();
  }
  const { message } = await saidBy(() => device.capture(() => {
    device.launch(plain, shape, params);
    device.alloc(4);
  }));
  report.check(message.includes("inside capture"), `a capture whose body throws: ${message}`);
  queue(false);
  await check(launches, "launches after a capture that failed");
  const withFill = device.capture(() => {
    device.fill(x, 0, 4 * n);
    queue(false);
  });
  withFill.launch();
  withFill.launch();
  await check(launches, "a graph with a fill");
  device.free(x);
}

/** Events, and what it costs to learn that the GPU is done. */
async function waiting({ device, report }: Machine, module: Module): Promise<void> {
  const spin = module.function("spin"), x = device.alloc(4), params = new Params().i64(2_000_000).bytes(), shape = { grid: [1, 1, 1], block: 32 } as const;
  const from = device.record();
  device.launch(spin, shape, params);
  const ms = await device.elapsedMs(from, device.record());
  report.result(() => [ms > 0.5 && ms < 10, `events: a kernel of 2 million cycles takes ${ms.toFixed(3)} ms`]);
  const idle: number[] = [], behind: number[] = [], blocked: number[] = [];
  for (let i = 0; i < 200; i++) {
    const start = performance.now();
    await device.read(x, 4);
    idle.push(performance.now() - start);
  }
  for (let i = 0; i < 50; i++) {
    const a = device.record(), start = performance.now();
    device.launch(spin, shape, params);
    const b = device.record();
    await device.read(x, 4);
    const wall = performance.now() - start;
    behind.push(wall - (await device.elapsedMs(a, b)));
  }
  for (let i = 0; i < 50; i++) {
    const start = performance.now();
    device.launch(spin, shape, params);
    device.synchronize();
    blocked.push(performance.now() - start - ms);
  }
  report.result(() => [median(idle) < 0.1, `a read of 4 bytes: ${us(median(idle))} (least ${us(Math.min(...idle))})`]);
  report.result(() => [median(behind) < 0.1, `a read behind a kernel takes ${us(median(behind))} more than the kernel; cuStreamSynchronize about ${us(median(blocked))}`]);
  let turns = 0, reading = true;
  const count = (): void => void (reading && (turns++, setImmediate(count)));
  setImmediate(count);
  const start = performance.now();
  for (let i = 0; i < 5; i++) device.launch(spin, shape, params);
  await device.read(x, 4);
  reading = false;
  report.result(() => [turns > 20, `the event loop turned ${turns} times in a read of ${(performance.now() - start).toFixed(1)} ms`]);
  device.free(x);
}

async function reopen({ device, report }: Machine): Promise<void> {
  const left = device.freeBytes(), other = await CudaDevice.open(), held = other.alloc(256 * 2 ** 20);
  other.write(held, Uint8Array.of(1, 2, 3));
  const taken = left - device.freeBytes();
  other.close();
  report.check(taken >= 256 * 2 ** 20 && left - device.freeBytes() < 32 * 2 ** 20, `close frees: ${mib(taken)} were taken, ${mib(left - device.freeBytes())} stay`);
}
