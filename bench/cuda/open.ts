/** The GPU of a benchmark, and the compiler for it; where one of them is missing, the process ends with what its user can do. Knows no benchmark. */
import { Compiler } from "../../src/backend/cuda/compiler.ts";
import { CudaDevice } from "../../src/backend/cuda/device.ts";
import { UsageError } from "../../src/core/errors.ts";

/** The caller closes the device. Ends the process with 1 where the driver, a GPU, koffi or NVRTC is missing. */
export async function openGpu(): Promise<{ readonly device: CudaDevice; readonly compiler: Compiler }> {
  try {
    const device = await CudaDevice.open();
    return { device, compiler: await Compiler.open(device.arch, device.cudaMajor) };
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(error.message);
    process.exit(1); // what was opened goes with the process
  }
}
