/**
 * Launches of attention calls: which of a plan's kernels run for a step, with which grids, and the memory that decode works in.
 *
 * A mask that is packed is packed by the first call of a program that has it and the work list, for all layers behind. The memory of partial results and counters is one for all calls, as they run one behind another; it grows, and what recorded programs were
 * given stays theirs. The plan of pieces is made once for each work list and program, by the first call that has it. The calls behind may begin to read
 * before the kernel in front of them has ended: that first call let nothing start before all that stood before it was done. But only where each sequence
 * has one row: of more, a tile's keys in front of its first row may be the step's own, which that kernel writes. Knows no mods and no pages.
 */
import type { AttentionCall, StepSize } from "../backend.ts";
import { type AttentionSource, attentionParams, maskBlocksOf, maxItems, packBlocks, reservedBytes, workspaceBytes } from "./attention.ts";
import type { CudaDevice, KernelFunction } from "./device.ts";
import { holdsLoad } from "./expr.ts";
import type { Failures } from "./failures.ts";
import { own } from "./memory.ts";

export interface CompiledAttention {
  readonly source: AttentionSource;
  readonly general: KernelFunction;
  /** Where the source says that masks are packed. */
  readonly packMask?: KernelFunction;
  readonly decode?: KernelFunction;
  readonly planDecode?: KernelFunction;
}

const planThreads = 1024, packThreads = 256;

export class Launcher {
  readonly #device: CudaDevice;
  readonly #failures: Failures;
  readonly #scratch: Record<"plan" | "mask" | "partial" | "counters", { address: number; bytes: number }> = { plan: none(), mask: none(), partial: none(), counters: none() };
  /** Plans of the program that is being recorded, by work list and by all that a plan depends on besides: which items are the decode kernel's, and its grid. */
  #plans = new Map<string, number>();
  /** The same of packed masks, by work list and by the mask with all that it reads. */
  #masks = new Map<string, number>();

  constructor(device: CudaDevice, failures: Failures) {
    this.#device = device;
    this.#failures = failures;
  }

  beginProgram(): void {
    this.#plans = new Map();
    this.#masks = new Map();
  }

  /** What launches `call` for a step. `recorded`: its work list is planned by the first call of the program that has it. */
  prepare(compiled: CompiledAttention, call: AttentionCall, recorded: boolean): (step: StepSize) => void {
    const { source } = compiled, { plan } = source, device = this.#device;
    const { decode, planDecode, packMask } = compiled;
    const decodeBlocks = device.numSms * (source.decode ? Math.max(1, Math.min(2, Math.floor((device.maxSharedBytes + reservedBytes) / (source.decode.sharedBytes + reservedBytes)))) : 0);
    const bytes = workspaceBytes(source, call, decodeBlocks);
    let planAddress = 0, plansWork = false;
    if (decode) {
      if (recorded) {
        const key = [own(call.work).address, own(call.work).bytes, source.decodeRows, decodeBlocks, plan.numKvHeads, plan.kvTile].join();
        plansWork = !this.#plans.has(key);
        planAddress = this.#plans.get(key) ?? device.alloc(bytes.plan);
        this.#plans.set(key, planAddress);
      } else {
        plansWork = true;
        planAddress = this.#grown("plan", bytes.plan);
      }
    }
    const maskBytes = maskBlocksOf(source, call) * (source.mask?.bytesOfBlock ?? 0);
    let maskAddress = 0, packsMask = packMask !== undefined;
    if (packMask && recorded) {
      const read = call.captures.map((capture) => (capture.kind === "uniform" ? String(capture.value) : `${own(capture.data).address}:${capture.shape.join("x")}`));
      const key = [own(call.work).address, own(call.work).bytes, maskBytes, source.holding.keysOfBlock, plan.key, ...read].join();
      packsMask = !this.#masks.has(key);
      maskAddress = this.#masks.get(key) ?? device.alloc(maskBytes);
      this.#masks.set(key, maskAddress);
    } else if (packMask) maskAddress = this.#grown("mask", maskBytes);
    const workspace = { mask: maskAddress, plan: planAddress, partial: decode ? this.#grown("partial", bytes.partial) : 0, counters: decode ? this.#grown("counters", bytes.counters) : 0 };
    const mayFail = [plan.scoreMod, plan.maskMod, plan.weightMod, plan.outputMod].some((e) => e && holdsLoad(e));
    const failure = mayFail ? this.#failures.place(call, recorded) : 0;
    const paramsOf = (early: boolean): Uint8Array => attentionParams(source, call, workspace, failure, { early, decodeBlocks, numSms: device.numSms });
    const params = paramsOf(false), early = recorded && !plansWork ? paramsOf(true) : params;
    const items = maxItems(call), blocksOfItem = plan.numQueryHeads * source.subTiles;
    const launch = (f: KernelFunction, blocks: number, threads: number, sharedBytes: number, given = params): void =>
      device.launch(f, { grid: [blocks, 1, 1], block: threads, sharedBytes, dependent: true }, given);
    return ({ numTokens, numSequences }) => {
      const few = numTokens === numSequences && Number.isFinite(numTokens);
      if (decode && planDecode) {
        if (plansWork) launch(planDecode, 1, planThreads, 0);
        launch(decode, decodeBlocks, source.decode!.threads, source.decode!.sharedBytes, few ? early : params);
      }
      if (decode && few) return; // every item has one row
      const most = Math.min(items, Number.isFinite(numTokens) ? numSequences + Math.floor(numTokens / plan.queryTile) : Infinity);
      if (packMask && packsMask) launch(packMask, Math.max(1, most) * packBlocks, packThreads, 0);
      launch(compiled.general, Math.max(1, most) * blocksOfItem, source.general.threads, source.general.sharedBytes);
    };
  }

  /** Scratch of at least this many bytes, zeros. */
  #grown(what: "plan" | "mask" | "partial" | "counters", bytes: number): number {
    const have = this.#scratch[what];
    if (have.bytes < bytes) {
      have.bytes = Math.max(bytes, 2 * have.bytes);
      have.address = this.#device.alloc(have.bytes);
    }
    return have.address;
  }
}

const none = (): { address: number; bytes: number } => ({ address: 0, bytes: 0 });
