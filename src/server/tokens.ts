/**
 * POST /tokenize and /detokenize: what the model would see of a prompt or of messages, and token ids as text. Fields are vLLM's.
 *
 * The work is done in the text worker, under the rules of completions: what stands in a prompt never becomes a special token.
 */
import { BadRequest } from "../core/errors.ts";
import { contentMustBe, fieldsOf, own, snakeCase, tokenIds, type Raw } from "../llm/fields.ts";
import type { Context } from "./context.ts";
import { limits } from "./limits.ts";
import { checkModel, parseMessages, parseTemplate, refuseUnsupported } from "./schema.ts";

/** Answers `body`: a `prompt`, or `messages`. Throws BadRequest and HttpError. */
export async function tokenize(context: Context, request: Request, body: Raw): Promise<Response> {
  const { llm, modelNames } = context;
  checkModel(body, modelNames);
  refuseUnsupported(body);
  const fields = fieldsOf(body, snakeCase);
  const tokenStrings = fields.boolean("returnTokenStrs") ?? false;
  const encode = parseEncode(context, body);
  const ids = await inFlight(context, request, encode);
  if (ids.length > limits.tokens) {
    const field = own(body, "messages") === undefined ? "prompt" : "messages";
    throw new BadRequest(field, `${field} has ${ids.length} tokens; this route answers with at most ${limits.tokens}, send it in parts`);
  }
  const tokens = Array.from(ids);
  return Response.json({
    count: tokens.length, max_model_len: llm.info.maxModelLen, tokens,
    token_strs: tokenStrings ? tokens.map((id) => llm.vocabularyText(id)) : null,
  });
}

function parseEncode({ llm }: Context, body: Raw): () => Promise<Int32Array> {
  const prompt = own(body, "prompt");
  if (own(body, "messages") !== undefined) {
    if (prompt !== undefined) throw new BadRequest("prompt", "prompt and messages are both given; send one of them");
    const messages = parseMessages(body), template = parseTemplate(body);
    return () => llm.encodeChat(messages, template);
  }
  if (typeof prompt !== "string") throw contentMustBe("prompt", prompt, "a string, or absent where there are messages");
  const addSpecialTokens = fieldsOf(body, snakeCase).boolean("addSpecialTokens") ?? true;
  return () => llm.encodePrompt(prompt, { addSpecialTokens, allowSpecial: false }, "prompt");
}

/** Answers `body`: `tokens`. Special tokens are written out. Throws BadRequest and HttpError. */
export async function detokenize(context: Context, request: Request, body: Raw): Promise<Response> {
  checkModel(body, context.modelNames);
  const tokens = own(body, "tokens");
  const ids = Int32Array.from(tokenIds("tokens", tokens, context.llm.info.vocabSize, limits.tokens));
  return Response.json({ prompt: await inFlight(context, request, () => context.llm.detokenize(ids, "tokens")) });
}

async function inFlight<T>(context: Context, request: Request, work: () => Promise<T>): Promise<T> {
  const { release } = context.gate.admit(request, [0]);
  try {
    return await work();
  } finally {
    release();
  }
}
