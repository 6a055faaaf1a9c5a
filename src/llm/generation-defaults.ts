/** The sampling that a model's makers recommend, from its generation_config.json: held to the bounds of a request's own fields. */
import { BadRequest, quoted, UsageError } from "../core/errors.ts";
import { isObject, own, snakeCase } from "./fields.ts";
import { checkParams, type GenerateParams } from "./params.ts";

const fields = ["temperature", "topP", "topK", "minP", "repetitionPenalty"] as const satisfies readonly (keyof GenerateParams)[];

/** What `source`, the file's text or what is in it, says of `fields`. Throws UsageError when it is no JSON object, or no request could ask for what it says. */
export function generationDefaults(source: string | object | undefined): GenerateParams {
  if (source === undefined) return {};
  const remedy = "mend it, or pass --generation-config vllm";
  let config: unknown;
  try {
    config = typeof source === "string" ? JSON.parse(source) : source;
  } catch (error) {
    throw new UsageError(`generation_config.json is not valid JSON (${(error as Error).message}); ${remedy}`);
  }
  if (!isObject(config)) throw new UsageError(`generation_config.json is ${quoted(config)}, not an object; ${remedy}`);
  const given = fields.map((field) => [field, own(config, snakeCase(field))] as const).filter(([, value]) => value !== undefined);
  try {
    checkParams(Object.fromEntries(given.map(([field, value]) => [snakeCase(field), value])), Infinity, snakeCase);
  } catch (error) {
    if (error instanceof BadRequest) throw new UsageError(`generation_config.json: ${error.message}; ${remedy}`);
    throw error;
  }
  return Object.fromEntries(given);
}
