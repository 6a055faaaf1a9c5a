/** What the scripts run on: a GPU with its compiler and cuBLASLt, or none at all (dry). Knows no kernel. */
import { Blas } from "../../src/backend/cuda/blas.ts";
import { Compiler } from "../../src/backend/cuda/compiler.ts";
import { CudaDevice, type KernelFunction, type Module } from "../../src/backend/cuda/device.ts";
import { moduleLabel, type ModuleName, moduleText } from "../../src/backend/cuda/modules.ts";
import { invariant } from "../../src/core/errors.ts";
import { dryCompiler, dryDevice } from "./dry.ts";
import { median, Report } from "./report.ts";
import { codeOf, lineOf } from "./sass.ts";

export interface Machine {
  readonly device: CudaDevice;
  readonly compiler: Pick<Compiler, "arch" | "version" | "compile">;
  readonly report: Report;
  /** Whether nothing is launched. */
  readonly dry: boolean;
}

/** @throws UsageError where there is no GPU, driver, NVRTC or koffi */
export async function openMachine(dry: boolean): Promise<Machine> {
  const report = new Report(dry), start = performance.now();
  const device = dry ? dryDevice() : await CudaDevice.open(), compiler = dry ? dryCompiler : await Compiler.open(device.arch, device.cudaMajor);
  if (dry) report.note("dry: no GPU, nothing is computed");
  else {
    const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
    report.note(`${device.name}, ${device.arch}, ${device.numSms} multiprocessors, ${gib(device.totalBytes)} (${gib(device.freeBytes())} free), L2 ${(device.l2Bytes / 2 ** 20).toFixed(0)} MiB, ` +
      `${device.maxSharedBytes} bytes of shared memory, CUDA ${device.cudaMajor}, NVRTC ${compiler.version}; opened in ${(performance.now() - start).toFixed(0)} ms`);
  }
  return { device, compiler, report, dry };
}

/** cuBLASLt, if it is installed. */
export async function openBlas({ device, report, dry }: Machine): Promise<Blas | undefined> {
  const found = dry ? { missing: "dry" } : await Blas.open(device);
  report.note("blas" in found ? "cuBLASLt: yes" : `cuBLASLt: no (${found.missing})`);
  return "blas" in found ? found.blas : undefined;
}

/** Compiles and loads `source`, and counts the instructions of its kernels. */
export async function loadModule({ device, compiler, report, dry }: Machine, name: string, source: string): Promise<{ readonly module: Module; readonly kernels: readonly string[] }> {
  const { cubin, resources, seconds, fromCache } = await compiler.compile(name, source);
  if (dry) report.note(`${name}: ${resources.map(({ kernel }) => kernel).join(", ")}`);
  else {
    report.note(`${name}: compiled in ${seconds.toFixed(2)} s${fromCache ? " (kept on disk)" : ""}`);
    for (const code of codeOf(cubin)) report.note(`  ${lineOf(code)} ${resources.find(({ kernel }) => kernel === code.kernel)?.registers} registers`);
  }
  return { module: device.load(cubin), kernels: resources.map(({ kernel }) => kernel) };
}

/** Finds kernels among modules of the backend's fixed ops, as the backend does. */
export async function loadModules(machine: Machine, names: readonly ModuleName[]): Promise<(name: string, sharedBytes?: number) => KernelFunction> {
  const moduleOf = new Map<string, Module>(), functions = new Map<string, KernelFunction>();
  const loaded = await Promise.all(names.map((name) => loadModule(machine, `${moduleLabel(name)}.cu`, moduleText(name))));
  for (const { module, kernels } of loaded) for (const kernel of kernels) moduleOf.set(kernel, module);
  return (name, sharedBytes = 0) => {
    let found = functions.get(name);
    if (!found) {
      const module = moduleOf.get(name);
      invariant(module, `no module has a kernel ${name}`);
      functions.set(name, (found = module.function(name, sharedBytes > 0 ? machine.device.maxSharedBytes - 256 : 0)));
    }
    return found;
  };
}

/** Milliseconds of one of `times` launches in a graph: the median of `replays`. */
export async function timeOf({ device }: Machine, times: number, body: (i: number) => void, replays = 5): Promise<number> {
  const graph = device.capture(() => {
    for (let i = 0; i < times; i++) body(i);
  });
  graph.launch();
  graph.launch();
  const ms: number[] = [];
  for (let r = 0; r < replays; r++) {
    const from = device.record();
    graph.launch();
    const to = device.record();
    ms.push(await device.elapsedMs(from, to));
    from.destroy();
    to.destroy();
  }
  graph.destroy();
  return median(ms) / times;
}
