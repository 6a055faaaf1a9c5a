/** A page has no CUDA: NVIDIA's libraries, the functions in them and the folder of compiled kernels are all refused here. */
import { UsageError } from "../../core/errors.ts";

function refuse(): never {
  throw new UsageError("the cuda backend needs NVIDIA's driver, which this runtime cannot call: it works in Node");
}

export {
  refuse as addressOf, refuse as alignedBytes, refuse as loadCublasLt, refuse as loadDriver, refuse as loadNvrtc, refuse as viewOf,
  refuse as notFound, refuse as search, refuse as thisMachine, refuse as openCubinCache,
};
