/**
 * Bad words as the runs of tokens that the model would write them in: vLLM's rule. A word is looked at as the start of a text and
 * after a space; the second counts where the space goes into the first token, as then it is a run of the same length and other ids.
 * A model can still spell a word in other tokens: that is not looked for, as in vLLM.
 */
import type { TextService } from "../tokenizer/text.ts";

/** The runs of token ids of `words`, which hold more than spaces. */
export async function badWordIds(text: Pick<TextService, "encode">, words: readonly string[]): Promise<readonly (readonly number[])[]> {
  // A special token's text is meant as the token: it is the caller's own list.
  const encode = async (word: string): Promise<readonly number[]> => [...(await text.encode(word, { addSpecialTokens: false, allowSpecial: true }))];
  const pairs = await Promise.all(words.map((word) => Promise.all([encode(word.trimStart()), encode(` ${word.trimStart()}`)])));
  return pairs.flatMap(([bare, spaced]) => (spaced.length === bare.length && spaced[0] !== bare[0] ? [bare, spaced] : [bare])).filter((run) => run.length > 0);
}
