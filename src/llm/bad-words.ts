/**
 * Bad words as the runs of tokens that the model would write them in: as the start of a text, and after a space where that is more
 * than a token for the space. vLLM looks at the second only where both runs are of one length, and so lets "a fox" by where "fox"
 * is two tokens and " fox" is one; here it is caught. A model can still spell a word in other tokens: that is not looked for, as in vLLM.
 */
import type { TextService } from "../tokenizer/text.ts";

/** The runs of token ids of `words`, which hold more than spaces. */
export async function badWordIds(text: Pick<TextService, "encode">, words: readonly string[]): Promise<readonly (readonly number[])[]> {
  // A special token's text is meant as the token: it is the caller's own list.
  const encode = async (word: string): Promise<readonly number[]> => [...(await text.encode(word, { addSpecialTokens: false, allowSpecial: true }))];
  const pairs = await Promise.all(words.map((word) => Promise.all([encode(word.trimStart()), encode(` ${word.trimStart()}`)])));
  return pairs.flatMap(([bare, spaced]) => (spaced[0] === bare[0] || endsWith(spaced, bare) ? [bare] : [bare, spaced])).filter((run) => run.length > 0);
}

const endsWith = (run: readonly number[], end: readonly number[]): boolean => end.every((id, i) => run[run.length - end.length + i] === id);
