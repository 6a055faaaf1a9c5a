/** What is running, as a person reads it: model, machine, memory, and a request that works as printed. Text from facts; prints nothing. */
import type { EngineInfo } from "../engine/messages.ts";
import type { LLM } from "../llm.ts";
import { formatBytes } from "../model/memory.ts";

/** 9.8 M */
export function countText(count: number): string {
  const scale = ([[1e9, "B"], [1e6, "M"], [1e3, "K"]] as const).find(([size]) => count >= size);
  return scale ? `${(count / scale[0]).toFixed(1)} ${scale[1]}` : String(count);
}

function drafterText(speculation: NonNullable<EngineInfo["speculation"]>): string {
  if (speculation.method === "draft_model") return `by ${speculation.model}, ${countText(speculation.numParameters ?? 0)} parameters`;
  const { promptLookupMin: min, promptLookupMax: max } = speculation;
  return `that followed where the last ${min === max ? min : `${min} to ${max}`} stood before`;
}

/** Lines: model, backend, memory, who guesses tokens if anybody does, and how much one step may hold. */
export function describe(info: EngineInfo): readonly string[] {
  const held = info.mostHeldPages === undefined ? "" : `, of which a sequence holds ${info.mostHeldPages} at most`;
  const cache = `${info.numPages * info.pageSize} tokens in ${info.numPages} pages of ${info.pageSize}${held}`;
  const dtype = info.quantizedOnLoad ? `${info.dtype} rounded on load (--quantization none keeps what the checkpoint has)`
    : info.convertedFrom !== undefined ? `${info.dtype} made of ${info.convertedFrom} on load` : info.dtype;
  return [
    `model    ${info.architecture}, ${countText(info.numParameters)} parameters, ${dtype}, context ${info.maxModelLen} tokens`,
    `backend  ${info.backend}`,
    `memory   weights ${formatBytes(info.weightBytes)}, KV cache ${formatBytes(info.kvBytes)} of ${info.kvCacheDtype} = ${cache}`,
    ...(info.speculation ? [`drafts   up to ${info.speculation.numSpeculativeTokens} tokens ${drafterText(info.speculation)}`] : []),
    `batch    up to ${info.maxNumSeqs} sequences and ${info.maxNumBatchedTokens} tokens in one step; loaded in ${info.loadSeconds.toFixed(1)} s`,
  ];
}

/** A curl command for the first request. `keyed`: the server wants a key, which the line takes from the environment. */
export function curlLine(url: string, llm: Pick<LLM, "hasTokenizer" | "hasChatTemplate">, keyed: boolean): string {
  const [path, body] = llm.hasChatTemplate
    ? ["chat/completions", { messages: [{ role: "user", content: "Tell me a story about a fox who finds a lantern." }], max_tokens: 200 }]
    : ["completions", { prompt: llm.hasTokenizer ? "Once upon a time" : [1, 2, 3], max_tokens: 32 }];
  const key = keyed ? ' -H "authorization: Bearer $TESSERA_API_KEY"' : "";
  return `curl ${url}/v1/${path} -H 'content-type: application/json'${key} -d '${JSON.stringify(body)}'`;
}
