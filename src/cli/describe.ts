/** What is running, as a person reads it: model, machine, memory, and a request that works as printed. Text from facts; prints nothing. */
import type { EngineInfo } from "../engine/messages.ts";
import type { LLM } from "../llm.ts";

const units = ["bytes", "KiB", "MiB", "GiB", "TiB"] as const;

/** 19.6 MiB */
export function bytesText(bytes: number): string {
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(bytes, 1)) / 10)));
  return `${power === 0 ? bytes : (bytes / 2 ** (10 * power)).toFixed(1)} ${units[power]}`;
}

/** 9.8 M */
export function countText(count: number): string {
  const scale = ([[1e9, "B"], [1e6, "M"], [1e3, "K"]] as const).find(([size]) => count >= size);
  return scale ? `${(count / scale[0]).toFixed(1)} ${scale[1]}` : String(count);
}

/** Four lines: model, backend, memory, speed of loading. */
export function describe(info: EngineInfo): readonly string[] {
  const tokens = info.numPages * info.pageSize;
  return [
    `model    ${info.architecture}, ${countText(info.numParameters)} parameters, ${info.dtype}, context ${info.maxModelLen} tokens`,
    `backend  ${info.backend}`,
    `memory   weights ${bytesText(info.weightBytes)}, KV cache ${bytesText(info.kvBytes)} = ${tokens} tokens in ${info.numPages} pages of ${info.pageSize}`,
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
