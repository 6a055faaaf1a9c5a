/** Several documents packed in one sequence, each read causally: as intervals, so that a document that grows needs no new labels. */
import { type MaskMod, maskMod } from "../mod.ts";

/** starts[q] <= kv <= q. `starts` holds the first position of each position's document; the same mask as causal with `document`. */
export function packedDocuments(starts: Int32Array): MaskMod {
  return maskMod(({ starts }) => (_b, _h, q, kv) => kv >= starts[q]! && q >= kv, { starts });
}

/**
 * documents[q] = documents[kv] and inner(q - s, kv - s), s = starts[q]: any mask, for each document by itself. Both positions are counted
 * from the query's document, which is the key's too, so that range analysis meets one number and not two.
 */
export function withinDocuments(documents: Int32Array, starts: Int32Array, inner: MaskMod): MaskMod {
  return maskMod(({ documents, starts, inner }) => (b, h, q, kv) => documents[q] === documents[kv] && inner(b, h, q - starts[q]!, kv - starts[q]!), { documents, starts, inner });
}

/** The document of each position, and where that begins, for documents of these lengths one after another. */
export function packing(lengths: readonly number[]): { readonly documents: Int32Array; readonly starts: Int32Array } {
  const total = lengths.reduce((a, b) => a + b, 0);
  const documents = new Int32Array(total), starts = new Int32Array(total);
  let at = 0;
  lengths.forEach((length, document) => {
    documents.fill(document, at, at + length);
    starts.fill(at, at, at + length);
    at += length;
  });
  return { documents, starts };
}
