/** Documents packed in one sequence, each of which continues another: prompts written once, answers to them side by side. */
import { type MaskMod, maskMod } from "../mod.ts";

/**
 * With d = documents[q] and p = prefixes[d]: starts[d] <= kv <= q, or p is another document and starts[p] <= kv < starts[p + 1].
 * `documents` ascends; `prefixes` holds the document that each one continues, itself for none; `starts` has one entry more, the end.
 */
export function sharedPrefix(documents: Int32Array, prefixes: Int32Array, starts: Int32Array): MaskMod {
  return maskMod(({ documents, prefixes, starts }) => (_b, _h, q, kv) => {
    const own = documents[q]!, prefix = prefixes[own]!;
    return (kv >= starts[own]! && q >= kv) || (own !== prefix && starts[prefix]! <= kv && kv < starts[prefix + 1]!);
  }, { documents, prefixes, starts });
}
