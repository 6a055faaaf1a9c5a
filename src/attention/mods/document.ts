/** Several documents packed in one sequence: a query sees only keys of its own. */
import { type MaskMod, maskMod } from "../mod.ts";

/** documents[q] = documents[kv]. `documents` holds the document of each position; combine with causal by `and`. */
export function document(documents: Int32Array): MaskMod {
  return maskMod(({ documents }) => (_b, _h, q, kv) => documents[q] === documents[kv], { documents });
}
