/** How fast a GPU reads its memory: what decode is measured by, which reads every key and value for one token. */
import { readFileSync } from "node:fs";
import type { Compiler } from "../../src/backend/cuda/compiler.ts";
import type { CudaDevice } from "../../src/backend/cuda/device.ts";
import { Params } from "../../src/backend/cuda/params.ts";
import { type Spread, spreadOf } from "../row.ts";
import { through } from "./rows.ts";
import { times } from "./timing.ts";

/** Far more than any L2 holds. */
const bytes = 2 ** 31;
const pieceBytes = 16, threads = 512;
/** Loads on their way for each thread: which is the fastest is not the same on every card. */
const kernels = ["read2", "read4", "read8"];

/** Bytes a second, of the kernel that reads the fastest. */
export async function readRate(device: CudaDevice, compiler: Compiler, runs = 15): Promise<Spread> {
  const module = device.load((await compiler.compile("read.cu", readFileSync(new URL("read.cu", import.meta.url), "utf8"))).cubin);
  const data = device.alloc(bytes), out = device.alloc(4);
  try {
    device.fill(data, 0x5a, bytes);
    const params = new Params().ptr(data).ptr(out).i64(bytes / pieceBytes).bytes();
    const found: Spread[] = [];
    for (const name of kernels) {
      const kernel = module.function(name), blocks = device.numSms * device.blocksPerSm(kernel, threads);
      found.push(spreadOf(await times(device, () => device.launch(kernel, { grid: [blocks, 1, 1], block: threads }, params), { runs })));
    }
    const fastest = found.reduce((a, b) => (b.median < a.median ? b : a));
    return through(fastest, (ms) => bytes / (ms / 1000));
  } finally {
    device.free(data);
    device.free(out);
    module.unload();
  }
}
